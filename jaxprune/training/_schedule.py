"""Learning rates, momentum and accumulation as functions of the step, after the PyTorch YOLOv7's training script."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxprune.training.recipe import Recipe


class Rates(NamedTuple):
    """What the optimizer is told at one step.

    Attributes:
      weights: learning rate of kernels and scales.
      biases: learning rate of biases.
      momentum: of SGD.
      accumulate: how many batches make one update.
    """

    weights: Float[Array, '']
    biases: Float[Array, '']
    momentum: Float[Array, '']
    accumulate: Int[Array, '']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recipe, and how many steps there are."""

    recipe: Recipe
    batch: int
    steps_per_epoch: int
    epochs: int

    @property
    def accumulate(self) -> int:
        """Batches per update after the warm-up."""
        return max(round(self.recipe.nominal_batch / self.batch), 1)

    @property
    def weight_decay(self) -> float:
        """The recipe's, for the images that one update really sees."""
        return self.recipe.weight_decay * self.batch * self.accumulate / self.recipe.nominal_batch

    @property
    def warmup_steps(self) -> int:
        """Steps until all rates are the recipe's."""
        return max(round(self.recipe.warmup_epochs * self.steps_per_epoch), self.recipe.warmup_steps)

    def rates(self, step: Int[Array, '']) -> Rates:
        """Everything that changes from step to step (counted from 0)."""
        recipe, warm = self.recipe, self._warm(step)
        rate = recipe.lr0 * self._decay(step // self.steps_per_epoch)
        batches = jnp.round(_between(warm, 1, recipe.nominal_batch / self.batch))
        return Rates(
            weights=_between(warm, 0, rate),
            biases=_between(warm, recipe.warmup_bias_lr, rate),
            momentum=_between(warm, recipe.warmup_momentum, recipe.momentum),
            accumulate=jnp.maximum(jnp.where(warm < 1, batches, self.accumulate), 1).astype(jnp.int32),
        )

    def _warm(self, step: Array) -> Array:
        """How much of the warm-up is over, 0 to 1."""
        if self.warmup_steps == 0:
            return jnp.float32(1)
        return jnp.minimum(step.astype(jnp.float32) / self.warmup_steps, 1)

    def _decay(self, epoch: Array) -> Array:
        """The learning rate as a part of the highest: constant within an epoch, as in the original."""
        passed = epoch.astype(jnp.float32)
        if self.recipe.decay == 'linear':
            return 1 - passed / max(self.epochs - 1, 1) * (1 - self.recipe.lrf)
        return 1 - (1 - jnp.cos(passed * jnp.pi / self.epochs)) / 2 * (1 - self.recipe.lrf)


def _between(part: Array, start: float, end: Array | float) -> Array:
    return start + part * (end - start)
