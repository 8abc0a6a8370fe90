"""A residual network of 1-D convolutions in Flax NNX: trained, pruned to a budget, fine-tuned.

Run it with `python examples/nnx_residual.py`; it takes less than a minute on two cores. The signals are drawn here:
periodic ones in noise, and the class is their form (sine, square, triangle or sawtooth).
"""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jaxprune
from jaxprune.pruning import gather_gates, planned_costs

LENGTH = 64
CLASSES = 4


class Block(nnx.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(width, width, (5,), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (5,), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        """Keeps the shape."""
        return nnx.relu(x + self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x))))))


class Net(nnx.Module):
    """Nothing in here knows that it will be pruned."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.stem = nnx.Conv(1, width, (9,), strides=2, rngs=rngs)
        self.block = Block(width, rngs)
        self.wide = nnx.Conv(width, 2 * width, (5,), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(2 * width, CLASSES, rngs=rngs)

    def __call__(self, x):
        """From signals `[batch, LENGTH, 1]` to logits `[batch, CLASSES]`."""
        x = nnx.relu(self.wide(self.block(nnx.relu(self.stem(x)))))
        return self.head(self.dropout(x.mean(1)))


def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals `[number, LENGTH, 1]` and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, number)
    turns = rng.uniform(0, 1, (number, 1)) + rng.uniform(2, 6, (number, 1)) * np.arange(LENGTH) / LENGTH
    part = turns % 1
    forms = np.stack([np.sin(2 * np.pi * part), np.sign(part - 0.5), 4 * np.abs(part - 0.5) - 1, 2 * part - 1])
    signals = forms[labels, np.arange(number)] + rng.normal(0, 0.4, part.shape)
    return signals[..., None].astype(np.float32), labels


def mean_loss(logits, labels):
    """Cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def train_step(model: Net, optimizer: nnx.Optimizer, signals: jax.Array, labels: jax.Array) -> None:
    """One step, batch normalisation and dropout in training mode."""
    gradients = nnx.grad(lambda model: mean_loss(model(signals), labels))(model)
    optimizer.update(model, gradients)


def train(model: Net, steps: int, rate: float, seed: int) -> None:
    """Changes the module in place; the same code for the whole network and for the pruned one."""
    optimizer = nnx.Optimizer(model, optax.adamw(optax.cosine_decay_schedule(rate, steps)), wrt=nnx.Param)
    signals, labels = draw(2048, seed)
    model.train()
    for chosen in np.random.default_rng(seed).integers(0, len(signals), (steps, 64)):
        train_step(model, optimizer, signals[chosen], labels[chosen])
    model.eval()


def split(model: Net) -> tuple[nnx.GraphDef, dict[str, nnx.State]]:
    """The module's structure, and its variables; the name `params` says which of them are its parameters."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return graphdef, {'params': params, 'rest': rest}


@nnx.jit
def predict(model: Net, signals: jax.Array) -> jax.Array:
    """Logits."""
    return model(signals)


def measure(model: Net, signals: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and costs for one signal."""
    graphdef, variables = split(model)
    graph = jaxprune.trace(lambda v, x: nnx.merge(graphdef, v['params'], v['rest'])(x), variables, signals[:1])
    accuracy = np.mean(np.argmax(predict(model, signals), -1) == labels)
    return {'accuracy': float(accuracy), **planned_costs(jaxprune.Plan().on(graph))}


def main(*, width: int = 24, steps: int = 200, tuning_steps: int = 100) -> dict[str, dict[str, float]]:
    """Trains, prunes and fine-tunes; returns what each of the three networks reaches and costs."""
    signals, labels = draw(1024, seed=9)  # none of them is trained on
    model = Net(width, nnx.Rngs(0))
    train(model, steps, 3e-3, seed=0)
    found = {'trained': measure(model, signals, labels)}

    graphdef, variables = split(model)

    def apply(variables: dict[str, Any], signals: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, variables['params'], variables['rest'])(signals)

    def loss(variables: dict[str, Any], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return mean_loss(apply(variables, batch[0]), batch[1])

    # How much would the loss change without a channel? A gate of value 1 at every channel, and the loss's derivative to
    # it for 256 examples, tell. The budget (40 % of the multiply-accumulates, a quarter of the parameters) is spent so
    # that as much as possible of that stays.
    examples = draw(256, seed=8)
    graph = jaxprune.trace(apply, variables, signals[:1])
    evidence = gather_gates(graph, loss, variables, [examples], at_once=64)
    budget = {'macs': 0.4, 'parameters': 0.25}
    plan = jaxprune.select_channels(
        graph, variables, criterion='taylor', evidence=evidence, budget=budget, min_channels=8, round_to=4
    )
    for layer in plan.layers:
        print(f'{layer.name}: {len(layer.keep)} of {layer.channels} channels stay')

    small = jaxprune.slice(variables, plan)
    module = jaxprune.resize(model, (small['params'], small['rest']))  # a Net as before, holding the small variables
    zeroed = jaxprune.mask(variables, plan)
    masked = predict(jaxprune.resize(model, (zeroed['params'], zeroed['rest'])), signals)
    np.testing.assert_allclose(predict(module, signals), masked, atol=1e-4 * np.abs(masked).max())
    found['sliced'] = measure(module, signals, labels) | {'planned': planned_costs(plan)['parameters']}

    train(module, tuning_steps, 2e-3, seed=1)
    found['tuned'] = measure(module, signals, labels)
    for name, row in found.items():
        print(f'{name:8} accuracy {row["accuracy"]:.3f} parameters {row["parameters"]:,.0f} MACs {row["macs"]:,.0f}')
    return found


if __name__ == '__main__':
    main()
