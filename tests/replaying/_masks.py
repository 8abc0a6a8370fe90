"""Kept places, written down by hand, and what they make of variables: independent of graphs and plans."""

import jax
import numpy as np

from jaxprune import trees


def some(size, *kept):
    """A mask of an axis that holds these places."""
    mask = np.zeros(size, bool)
    mask[list(kept)] = True
    return mask


def quick(function):
    """Compiled without optimisation: what these tests compile runs for microseconds."""
    return jax.jit(function, compiler_options={'xla_backend_optimization_level': '0'})


def draw(shapes, seed=0):
    """Arrays of normal numbers, in float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)


def cut(tree, kept):
    """The places that stay."""
    flat = trees.flatten(tree)
    return trees.replace(tree, {path: flat[path][_index(flat[path], axes)] for path, axes in kept.items()})


def blank(tree, kept, value=0.0):
    """The same shapes, with a number at every place that goes."""
    flat, new = trees.flatten(tree), {}
    for path, axes in kept.items():
        new[path] = np.full_like(flat[path], value)
        new[path][_index(flat[path], axes)] = np.asarray(flat[path])[_index(flat[path], axes)]
    return trees.replace(tree, new)


def _index(leaf, axes):
    return np.ix_(*(np.flatnonzero(axes.get(axis, np.ones(size, bool))) for axis, size in enumerate(leaf.shape)))


def close(actual, expected):
    """Pytrees that agree to rounding."""
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12), actual, expected)
