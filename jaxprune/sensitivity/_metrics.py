"""What a scan measures: from outputs and labels to statistics of every image, and from those to figures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprune.errors import UserError

Statistics = Any
"""A pytree of arrays whose leading axis is that of the images."""
Kept = Any
"""A pytree of arrays that are concatenated along their leading axis, of whatever length, from batch to batch."""


class Metric(Protocol):
    """The contract between the scan and what it measures."""

    @property
    def name(self) -> str:
        """What tells it from other metrics: tables measured with another one are not gone on with."""
        ...

    def measure(self, outputs: Any, labels: Any, unpruned: Any) -> Statistics:
        """Statistics of every image of a batch, computed on the device.

        Args:
          outputs: of the pruned model.
          labels: of the batch.
          unpruned: the outputs of the unpruned model.
        """
        ...

    def kept(self, statistics: Statistics) -> Kept:
        """What is kept of the statistics of some images, in their order: on the host, while the device computes."""
        ...

    def figures(self, kept: Kept, weights: Float[np.ndarray, 'r n']) -> Mapping[str, np.ndarray]:
        """Figures `[r, ...]` of a data set in which each of the n images stands `weights` times, on the host."""
        ...


@dataclasses.dataclass(frozen=True)
class Mean:
    """Figures that are means of one number per image.

    Attributes:
      name: of the column.
      function: (outputs, labels, unpruned outputs) -> `[b]`, or a mapping from names of columns to such numbers.
    """

    name: str
    function: Callable[[Any, Any, Any], Float[Array, ' b'] | Mapping[str, Float[Array, ' b']]]

    def measure(self, outputs: Any, labels: Any, unpruned: Any) -> dict[str, Float[Array, ' b']]:
        """The numbers, by column."""
        found = self.function(outputs, labels, unpruned)
        columns = dict(found) if isinstance(found, Mapping) else {self.name: found}
        if not columns:
            raise UserError(f'the metric {self.name!r} gives no figure: give a mapping with a name for each')
        for name, numbers in columns.items():
            if np.ndim(numbers) != 1:
                raise UserError(f'the metric {name!r} gives {np.shape(numbers)}: it has to give a number per image')
        return columns

    def kept(self, statistics: Mapping[str, Float[np.ndarray, ' n']]) -> Mapping[str, Float[np.ndarray, ' n']]:
        """All of them."""
        return statistics

    def figures(
        self, kept: Mapping[str, Float[np.ndarray, ' n']], weights: Float[np.ndarray, 'r n']
    ) -> dict[str, np.ndarray]:
        """The means."""
        total = weights.sum(axis=1)
        with np.errstate(invalid='ignore'):  # an infinite number gives none
            return {name: weights @ np.asarray(values, np.float64) / total for name, values in kept.items()}


def top1(logits: Float[Array, 'b classes'], labels: Int[Array, ' b'], unpruned: Any = None) -> Float[Array, ' b']:
    """1 where the largest logit is the label's, else 0: with `Mean`, the accuracy of a classifier."""
    if labels is None:
        raise UserError('the accuracy needs labels, and the batches have none: give them, or measure the distance')
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def distance(outputs: Any, labels: Any, unpruned: Any) -> Float[Array, ' b']:
    """L2 distance to the outputs of the unpruned model, relative to their L2 norm, over all leaves; needs no labels."""

    def wide(leaf: Any) -> Array:
        """In at least 32 bits, of which none is a sign that wraps."""
        leaf = jnp.asarray(leaf)
        kind = jnp.complex64 if jnp.iscomplexobj(leaf) else jnp.float32
        return leaf if leaf.dtype in (jnp.float64, jnp.complex128) else leaf.astype(kind)

    def squares(leaves: Sequence[Array]) -> Float[Array, ' b']:
        return sum(jnp.sum(jnp.abs(leaf) ** 2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves)  # type: ignore[return-value]

    after, before = ([wide(leaf) for leaf in jax.tree.leaves(tree)] for tree in (outputs, unpruned))
    difference = squares([a - b for a, b in zip(after, before, strict=True)])
    return jnp.sqrt(difference / jnp.maximum(squares(before), jnp.finfo(jnp.float32).tiny))
