"""Makes tests/golden/training/optimizer.npz with PyTorch's own optimizers: python tests/training/make_golden.py OUTPUT.

Three parameters in YOLOv7's three groups (scale, kernel with weight decay, bias) get a fixed series of gradients, batch
by batch; rates, momentum and accumulation follow the recipe in `SETTINGS`.
"""

import math
import sys

import numpy as np
import torch

SETTINGS = {
    'lr0': 0.02, 'lrf': 0.1, 'momentum': 0.9, 'weight_decay': 0.01, 'warmup_momentum': 0.6, 'warmup_bias_lr': 0.1,
    'nominal_batch': 12, 'warmup_steps': 7, 'ema_decay': 0.9, 'ema_steps': 5.0,
}  # fmt: skip
BATCH, STEPS_PER_EPOCH, EPOCHS = 4, 5, 4
SHAPES = {'scale': (3,), 'kernel': (1, 1, 2, 3), 'bias': (3,)}


def train(kind: str, values: dict, gradients: dict) -> dict:
    p = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    full = max(round(SETTINGS['nominal_batch'] / BATCH), 1)
    decay = SETTINGS['weight_decay'] * BATCH * full / SETTINGS['nominal_batch']
    sets = [{'params': [p['scale']]}, {'params': [p['kernel']], 'weight_decay': decay}, {'params': [p['bias']]}]
    make = {
        'sgd': lambda: torch.optim.SGD(sets, lr=SETTINGS['lr0'], momentum=SETTINGS['momentum'], nesterov=True),
        'adam': lambda: torch.optim.Adam(sets, lr=SETTINGS['lr0'], betas=(SETTINGS['momentum'], 0.999)),
    }
    optimizer = make[kind]()
    ema = {name: value.detach().clone() for name, value in p.items()}
    rows = {f'{kind}/{name}': [] for name in (*p, *(f'ema_{n}' for n in p), 'rates')}
    updates = 0
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        epoch, first = divmod(step, STEPS_PER_EPOCH)
        if first == 0:
            optimizer.zero_grad()
        cosine = (1 - math.cos(epoch * math.pi / EPOCHS)) / 2 * (SETTINGS['lrf'] - 1) + 1
        rates = [SETTINGS['lr0'] * cosine] * 3
        momentum, accumulate, warm = SETTINGS['momentum'], full, [0, SETTINGS['warmup_steps']]
        if step <= SETTINGS['warmup_steps']:
            starts = [0.0, 0.0, SETTINGS['warmup_bias_lr']]
            rates = [np.interp(step, warm, [a, b]) for a, b in zip(starts, rates, strict=True)]
            momentum = np.interp(step, warm, [SETTINGS['warmup_momentum'], momentum])
            accumulate = max(1, np.interp(step, warm, [1, SETTINGS['nominal_batch'] / BATCH]).round())
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group['lr'] = float(rate)
            if 'momentum' in group:
                group['momentum'] = float(momentum)
        sum((p[name] * torch.tensor(gradients[name][step])).sum() for name in p).backward()
        if step % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            d = SETTINGS['ema_decay'] * (1 - math.exp(-updates / SETTINGS['ema_steps']))
            ema = {name: ema[name] * d + (1 - d) * p[name].detach() for name in p}
        for name, value in p.items():
            rows[f'{kind}/{name}'].append(value.detach().numpy().copy())
            rows[f'{kind}/ema_{name}'].append(ema[name].numpy().copy())
        rows[f'{kind}/rates'].append([rates[1], rates[2], momentum, accumulate])
    return {name: np.array(value, np.float32) for name, value in rows.items()}


if __name__ == '__main__':
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    series = {
        name: rng.normal(size=(EPOCHS * STEPS_PER_EPOCH, *shape)).astype(np.float32) for name, shape in SHAPES.items()
    }
    result = {f'start/{name}': value for name, value in start.items()}
    result |= {f'gradients/{name}': value for name, value in series.items()}
    for kind in ('sgd', 'adam'):
        result |= train(kind, start, series)
    np.savez_compressed(sys.argv[1], **result)
