"""A residual network in Flax Linen, as in Flax's ImageNet example: trained, pruned to half of its channels, fine-tuned.

Run it with `python examples/linen_cnn.py`; it takes less than a minute on two cores. The images are drawn here: stripes
in noise, and the class is their direction.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training import train_state

import jaxprune
from jaxprune.pruning import planned_costs

CLASSES = 8
SIZE = 16


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    filters: int
    strides: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x):
        """Halves height and width where `strides` is 2."""
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), (self.strides, self.strides))(x)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.filters, (3, 3))(y))
        if x.shape != y.shape:
            x = self.conv(self.filters, (1, 1), (self.strides, self.strides), name='conv_shortcut')(x)
            x = self.norm(name='norm_shortcut')(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A block per stage; nothing in here knows that it will be pruned."""

    width: int
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train: bool = False):
        """From images `[batch, height, width, 1]` to logits `[batch, classes]`."""
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm(name='bn_init')(conv(self.width, (3, 3), name='conv_init')(x)))
        for stage, strides in enumerate(self.strides):
            x = Block(self.width * 2**stage, strides, conv=conv, norm=norm)(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class TrainState(train_state.TrainState):
    """Parameters and optimiser, and the statistics of batch normalisation."""

    batch_stats: Any


def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[number, SIZE, SIZE, 1]` and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, number)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, frequency, phase = labels * np.pi / CLASSES, rng.uniform(0.6, 1.2, number), rng.uniform(0, 2 * np.pi, number)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    images = np.sin(frequency[:, None, None] * along + phase[:, None, None]) + rng.normal(0, 1.2, along.shape)
    return images[..., None].astype(np.float32), labels


@jax.jit
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
    """One step of the optimiser, batch normalisation in training mode."""

    def loss(params):
        variables = {'params': params, 'batch_stats': state.batch_stats}
        logits, changed = state.apply_fn(variables, images, train=True, mutable=['batch_stats'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

    gradients, changed = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, batch_stats=changed['batch_stats'])


def train(model: nn.Module, variables: Any, steps: int, rate: float, seed: int) -> Any:
    """The variables after so many steps; the same code for the whole network and for the pruned one."""
    state = TrainState.create(
        apply_fn=model.apply, tx=optax.adam(optax.cosine_decay_schedule(rate, steps)), **variables
    )
    images, labels = draw(2048, seed)
    for chosen in np.random.default_rng(seed).integers(0, len(images), (steps, 64)):
        state = train_step(state, images[chosen], labels[chosen])
    return {'params': state.params, 'batch_stats': state.batch_stats}


@functools.partial(jax.jit, static_argnames='model')
def predict(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Logits, batch normalisation in evaluation mode."""
    return model.apply(variables, images)


def measure(model: nn.Module, variables: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and costs for one image."""
    correct = np.argmax(predict(model, variables, images), -1) == labels
    costs = planned_costs(jaxprune.Plan().on(jaxprune.trace(model.apply, variables, images[:1])))
    return {'accuracy': float(np.mean(correct)), **costs}


def main(
    *, width: int = 24, strides: tuple[int, ...] = (1, 2), steps: int = 200, tuning_steps: int = 100
) -> dict[str, dict[str, float]]:
    """Trains, prunes and fine-tunes; returns what each of the three networks reaches and costs."""
    images, labels = draw(1024, seed=9)  # none of them is trained on
    model = ResNet(width, strides)
    variables = train(model, jax.jit(model.init)(jax.random.key(0), images[:1]), steps, 3e-3, seed=0)
    found = {'trained': measure(model, variables, images, labels)}

    # Half of all channels go, those with the lowest scores, whichever layers they are in; what stays of a layer is a
    # multiple of 4. What a shortcut adds is pruned together: `graph.groups` tells what belongs together.
    graph = jaxprune.trace(model.apply, variables, images[:1])
    plan = jaxprune.select_channels(
        graph, variables, criterion='lamp', normalise='none', keep=0.5, scope='global', round_to=4
    )
    for layer in plan.layers:
        print(f'{layer.name}: {len(layer.keep)} of {layer.channels} channels stay')

    small = jaxprune.slice(variables, plan)
    module = jaxprune.resize(model, small)  # a ResNet as before, at the new widths
    masked = predict(model, jaxprune.mask(variables, plan), images)
    np.testing.assert_allclose(predict(module, small, images), masked, atol=1e-4 * np.abs(masked).max())
    found['sliced'] = measure(module, small, images, labels) | {'planned': planned_costs(plan)['parameters']}

    tuned = train(module, small, tuning_steps, 2e-3, seed=1)
    found['tuned'] = measure(module, tuned, images, labels)
    for name, row in found.items():
        print(f'{name:8} accuracy {row["accuracy"]:.3f} parameters {row["parameters"]:,.0f} MACs {row["macs"]:,.0f}')
    return found


if __name__ == '__main__':
    main()
