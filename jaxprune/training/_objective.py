"""From a detector's forward pass and a loss to what the training step differentiates."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxprune.training._step import Objective, Variables


def detection_objective(apply: Callable[..., Any], loss: Callable[..., Any]) -> Objective:
    """What `make_step` needs.

    Args:
      apply: a Flax module's `apply`: variables and images `[b, h, w, 3]` in 0..1, with `train=True`, to raw heads.
      loss: heads, targets `[b, m, 5]` and valid `[b, m]` to the loss and a named tuple of its components.

    Returns:
      A function of variables and a batch that has `images` (uint8), `targets` and `valid`.
    """

    def objective(variables: Variables, batch: Any) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        images = jnp.asarray(batch.images, jnp.float32) / 255
        heads, changed = apply(variables, images, train=True, mutable=['batch_stats'])
        total, parts = loss(heads, batch.targets, batch.valid)
        return total, (parts._asdict(), changed)

    return objective
