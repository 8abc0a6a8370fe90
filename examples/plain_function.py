"""A plain function of a nested dictionary: trained with a group lasso, pruned in four steps, fine-tuned in between.

Run it with `python examples/plain_function.py`; it takes less than a minute on two cores. The data are drawn here:
three spirals in the plane, and the class of a point is its arm.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune
from jaxprune.pruning import planned_costs, regularise, schedule

ARMS = 3


def init(width: int, blocks: int, seed: int = 0) -> dict[str, Any]:
    """Random parameters."""
    rng = np.random.default_rng(seed)

    def dense(inputs: int, outputs: int) -> dict[str, jax.Array]:
        kernel = rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs))
        return {'w': jnp.asarray(kernel, jnp.float32), 'b': jnp.zeros(outputs)}

    inner = [{'up': dense(width, 2 * width), 'down': dense(2 * width, width)} for _ in range(blocks)]
    return {'stem': dense(2, width), 'blocks': inner, 'head': dense(width, ARMS)}


def apply(params: dict[str, Any], points: jax.Array) -> jax.Array:
    """From points `[batch, 2]` to logits `[batch, ARMS]`: a residual network, its widths those of its parameters."""

    def dense(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x @ layer['w'] + layer['b'][None]

    x = dense(params['stem'], points)
    for block in params['blocks']:
        x = x + 0.5 * dense(block['down'], jax.nn.relu(dense(block['up'], x)))
    return dense(params['head'], jax.nn.relu(x))


def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[number, 2]` and their classes."""
    rng = np.random.default_rng(seed)
    labels, radius = rng.integers(0, ARMS, number), rng.uniform(0.1, 1, number)
    angle = 2 * np.pi * labels / ARMS + 8 * radius
    points = radius * np.stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.03, (2, number))
    return 2 * points.T.astype(np.float32), labels


def train(params: Any, optimizer: optax.GradientTransformation, steps: int, seed: int, penalty: Any = None) -> Any:
    """The parameters after so many steps."""

    def loss(params: Any, points: jax.Array, labels: jax.Array) -> jax.Array:
        fit = optax.softmax_cross_entropy_with_integer_labels(apply(params, points), labels).mean()
        return fit if penalty is None else fit + penalty(params)

    @jax.jit
    def step(params: Any, state: Any, points: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, points, labels), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    points, labels = draw(4096, seed)
    for chosen in np.random.default_rng(seed).integers(0, len(points), (steps, 128)):
        params, state = step(params, state, points[chosen], labels[chosen])
    return params


predict = jax.jit(apply)


def measure(params: Any, points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and costs for one point."""
    costs = planned_costs(jaxprune.Plan().on(jaxprune.trace(apply, params, points[:1])))
    return {'accuracy': float(np.mean(np.argmax(predict(params, points), -1) == labels)), **costs}


def main(
    *, width: int = 48, blocks: int = 3, steps: int = 1500, tuning_steps: int = 400, iterations: int = 4
) -> dict[str, dict[str, float]]:
    """Trains, prunes and fine-tunes; returns what each of the networks reaches and costs."""
    params = init(width, blocks)
    points, labels = draw(2048, seed=99)  # none of them is trained on
    graph = jaxprune.trace(apply, params, points[:1])

    # The penalty draws whole channels to zero while the network is trained, so that pruning will hurt less.
    penalty = regularise.group_lasso(graph, strength=1e-3)
    params = train(params, optax.adam(3e-3), steps, seed=0, penalty=penalty)
    found = {'trained': measure(params, points, labels)}

    # A sixteenth of the channels inside the blocks stays, and a quarter of those between them (`stem`, which the blocks
    # add to). They go step by step; no shape changes meanwhile, and what was removed stays at zero.
    rates = {'blocks/*/up': 0.0625, 'stem': 0.25}
    plan, make = None, functools.partial(jaxprune.select_channels, graph, criterion='l2', min_channels=4)
    found['sliced'] = measure(jaxprune.slice(params, make(params, keep=rates)), points, labels)
    for iteration, keep in enumerate(schedule(rates, iterations, shape='cubic')):
        plan = make(params, keep=keep, within=plan)
        params = jaxprune.mask(params, plan)
        params = train(params, regularise.masked(optax.adam(1e-3), plan), tuning_steps, seed=iteration)
        row = measure(jaxprune.slice(params, plan), points, labels)
        print(f'step {iteration}: accuracy {row["accuracy"]:.3f}, {row["parameters"]:,.0f} parameters')
    assert plan is not None

    small = jaxprune.slice(params, plan)
    masked = predict(params, points)
    np.testing.assert_allclose(predict(small, points), masked, atol=1e-4 * np.abs(masked).max())
    found['sliced'] |= {'planned': planned_costs(plan)['parameters']}
    found['tuned'] = measure(small, points, labels)
    for name, row in found.items():
        print(f'{name:8} accuracy {row["accuracy"]:.3f} parameters {row["parameters"]:,.0f} MACs {row["macs"]:,.0f}')
    return found


if __name__ == '__main__':
    main()
