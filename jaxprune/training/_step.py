"""One training step: a pure function from state and batch to the next state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from jaxprune.training import _optimizer
from jaxprune.training._schedule import Schedule

Variables = dict[str, Any]
Objective = Callable[[Variables, Any], tuple[Array, tuple[dict[str, Array], Variables]]]
Metrics = dict[str, Float[Array, '']]


class TrainState(struct.PyTreeNode):
    """All that training carries from step to step.

    Attributes:
      step: batches seen.
      updates: optimizer updates made.
      variables: `params` and, where the model has them, `batch_stats`.
      optimizer: the optimizer's state.
      gradients: sum of the gradients since the last update; None where every batch is one.
      ema: running mean of `variables`: the result of the training.
    """

    step: Int[Array, '']
    updates: Int[Array, '']
    variables: Variables
    optimizer: Any
    gradients: Any
    ema: Variables

    @classmethod
    def create(cls, variables: Variables, schedule: Schedule) -> 'TrainState':
        """The state before the first step; `variables` are copied and stay valid."""
        params = variables['params']
        zero = jnp.zeros((), jnp.int32)
        rule = _optimizer.optimizer(schedule.recipe, schedule.rates(zero), schedule.weight_decay, params)
        summed = schedule.accumulate > 1
        return cls(
            step=zero,
            updates=jnp.zeros((), jnp.int32),
            variables=_copy(variables),
            optimizer=rule.init(params),
            gradients=jax.tree.map(jnp.zeros_like, params) if summed else None,
            ema=_copy(variables),
        )


def make_step(objective: Objective, schedule: Schedule) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Compiles the training step; it uses up the state that it gets.

    Args:
      objective: variables and batch to (loss, (components by name, new `batch_stats`)).
      schedule: of rates and accumulation.

    Returns:
      A function from state and batch to the next state and the batch's metrics: `loss`, the components and `rate`.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        params, rest = state.variables['params'], {k: v for k, v in state.variables.items() if k != 'params'}
        (loss, (parts, stats)), gradients = jax.value_and_grad(
            lambda params: objective({'params': params, **rest}, batch), has_aux=True
        )(params)
        state = state.replace(variables={'params': params, **rest, **stats})
        rates = schedule.rates(state.step)
        state = _accumulate(state, gradients, schedule, rates)
        return state.replace(step=state.step + 1), {'loss': loss, **parts, 'rate': rates.weights}

    return jax.jit(step, donate_argnums=0)


def _accumulate(state: TrainState, gradients: Any, schedule: Schedule, rates: Any) -> TrainState:
    """Updates now, or adds the gradients up until enough batches were seen; an epoch begins with none."""
    if state.gradients is None:
        return _update(state, gradients, schedule, rates)
    kept = jnp.where(state.step % schedule.steps_per_epoch == 0, 0.0, 1.0)
    total = jax.tree.map(lambda old, new: old * kept + new, state.gradients, gradients)

    def update(state: TrainState) -> TrainState:
        return _update(state, total, schedule, rates).replace(gradients=jax.tree.map(jnp.zeros_like, total))

    due = state.step % rates.accumulate == 0
    return jax.lax.cond(due, update, lambda state: state.replace(gradients=total), state)


def _update(state: TrainState, gradients: Any, schedule: Schedule, rates: Any) -> TrainState:
    params = state.variables['params']
    rule = _optimizer.optimizer(schedule.recipe, rates, schedule.weight_decay, params)
    with jax.numpy_dtype_promotion('standard'):  # optax raises a float to the power of an int
        change, optimizer = rule.update(gradients, state.optimizer, params)
    variables = {**state.variables, 'params': optax.apply_updates(params, change)}
    updates = state.updates + 1
    recipe = schedule.recipe
    decay = recipe.ema_decay * (1 - jnp.exp(-updates.astype(jnp.float32) / recipe.ema_steps))
    ema = jax.tree.map(lambda mean, new: mean * decay + (1 - decay) * new, state.ema, variables)
    return state.replace(variables=variables, optimizer=optimizer, updates=updates, ema=ema)


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)
