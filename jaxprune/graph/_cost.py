"""Costs of a model as functions of how many channels each group keeps."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
    """A sum of products: `sum_t scale[t] * prod_f (fixed[t, f] + sum_g share[t, f, g] * kept[g])`.

    A factor is the length of one axis of an array: what stays in any case, and for every group what each of its
    channels takes up there. So the cost is exact for every choice of kept channels.

    Attributes:
      scale: `[terms]`.
      fixed: `[terms, factors]`; a term with fewer factors ends in ones.
      share: `[terms * factors, groups]`, sparse.
    """

    scale: Float[np.ndarray, 'terms']
    fixed: Float[np.ndarray, 'terms factors']
    share: sparse.csr_array

    def __call__(self, kept: Float[np.ndarray, '*batch groups']) -> Float[np.ndarray, '*batch']:
        """The cost where group g keeps `kept[..., g]` channels."""
        return np.prod(self._factors(kept), axis=-1) @ self.scale

    def marginal(self, kept: Float[np.ndarray, 'groups']) -> Float[np.ndarray, 'groups']:
        """Derivative of the cost by the number of channels that each group keeps."""
        factors = self._factors(kept)
        before = np.cumprod(np.concatenate([np.ones_like(factors[:, :1]), factors[:, :-1]], axis=1), axis=1)
        behind = np.cumprod(np.concatenate([np.ones_like(factors[:, :1]), factors[:, :0:-1]], axis=1), axis=1)[:, ::-1]
        return self.share.T @ (self.scale[:, None] * before * behind).ravel()

    def _factors(self, kept: Float[np.ndarray, '*batch groups']) -> Float[np.ndarray, '*batch terms factors']:
        counts = np.asarray(kept, float)
        lengths = (self.share @ counts.reshape(-1, counts.shape[-1]).T).T
        return self.fixed + lengths.reshape(*counts.shape[:-1], *self.fixed.shape)


def sum_of_products(
    terms: Sequence[tuple[float, Sequence[Int[np.ndarray, 'size']]]],
    group_of_id: Int[np.ndarray, 'ids'],
    channels: Float[np.ndarray, 'groups'],
) -> Cost:
    """The cost with a factor for each axis of each term, whose elements are given by their ids."""
    width = max((len(axes) for _, axes in terms), default=0)
    flat = [(term * width + place, ids) for term, (_, axes) in enumerate(terms) for place, ids in enumerate(axes)]
    fixed = np.ones(len(terms) * width)
    sizes = np.array([len(ids) for _, ids in flat], int)
    rows = np.array([row for row, _ in flat], int)
    ids = np.concatenate([ids for _, ids in flat] or [np.empty(0, int)])
    factor, groups = np.repeat(rows, sizes), np.where(ids >= 0, group_of_id[ids], -1)
    free = groups >= 0
    shape = (len(fixed), len(channels))
    share = sparse.coo_array((np.ones(free.sum()), (factor[free], groups[free])), shape=shape).tocsr()
    share.data /= channels[share.indices]
    fixed[rows] = np.bincount(factor[~free], minlength=len(fixed))[rows]
    return Cost(np.array([scale for scale, _ in terms]), fixed.reshape(len(terms), width), share)
