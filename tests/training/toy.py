"""A detector of two layers and its data, for tests of the training loop."""

import functools

import jax
import numpy as np
from flax import linen as nn

from jaxprune.data.loader import TrainBatch
from jaxprune.detection import LossConfig, anchor_loss
from jaxprune.training import Recipe, Schedule, detection_objective

SIZE, STRIDE, STEPS = 32, 16, 4
ANCHORS = (((12.0, 12.0), (20.0, 20.0)),)


class Net(nn.Module):
    """One level, two anchors, two classes."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(8, (3, 3), strides=STRIDE, name='conv')(images)
        x = nn.silu(nn.BatchNorm(use_running_average=not train, name='bn')(x))
        x = nn.Conv(14, (1, 1), name='head')(x)
        return (x.reshape(*x.shape[:3], 2, 7),)


def variables():
    return jax.jit(Net().init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))


def objective():
    loss = functools.partial(anchor_loss, anchors=ANCHORS, strides=(STRIDE,), config=LossConfig())
    return detection_objective(Net().apply, loss)


def schedule(epochs):
    recipe = Recipe(optimizer='adam', lr0=0.02, warmup_epochs=0.0, warmup_steps=2, nominal_batch=4, ema_steps=2.0)
    return Schedule(recipe=recipe, batch=4, steps_per_epoch=STEPS, epochs=epochs)


def batches(epoch):
    """Bright squares on black, of class 0 or 1 by colour; one per image."""
    for step in range(STEPS):
        rng = np.random.default_rng([epoch, step])
        targets = np.zeros((4, 2, 5), np.float32)
        targets[:, 0] = np.stack(
            [rng.integers(2, size=4), *rng.uniform(0.3, 0.7, (2, 4)), *[np.full(4, 0.4)] * 2], axis=1
        )
        images = np.zeros((4, SIZE, SIZE, 3), np.uint8)
        for image, (klass, x, y, *_) in zip(images, targets[:, 0], strict=True):
            left, top = int(SIZE * (x - 0.2)), int(SIZE * (y - 0.2))
            image[top : top + 13, left : left + 13, int(klass)] = 255
        yield TrainBatch(images, targets, np.array([[True, False]] * 4))
