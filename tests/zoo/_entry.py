"""What an entry of the zoo is, and how its variables are drawn."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network, shaped but not initialised.

    Attributes:
      apply: pure function in evaluation mode, called as `apply(variables, *inputs)`.
      shapes: the variables, as a pytree of `jax.ShapeDtypeStruct`.
      inputs: `jax.ShapeDtypeStruct` of each input.
      resize: from sliced variables to the `apply` that reads them.
      model: the module, or None for a plain function.
    """

    apply: Callable[..., Any]
    shapes: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    resize: Callable[[Any], Callable[..., Any]]
    model: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A network and what a correct tracer finds in it.

    Attributes:
      name: unique.
      make: the case; called once per test session.
      prunable: the least number of groups that can be pruned.
      protected: pattern of layer names (as in `fnmatch`) -> a word in the reason why such a layer cannot be pruned.
        Every layer that fits a pattern must be protected for it, and every pattern must fit a layer.
      approximate: whether more groups can be pruned where the trace is allowed to approximate.
    """

    name: str
    make: Callable[[], Case]
    prunable: int
    protected: Mapping[str, str]
    approximate: bool = False


REGISTRY: dict[str, Entry] = {}


def register(
    name: str, *, prunable: int, protected: Mapping[str, str], approximate: bool = False
) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Decorator: makes an entry of a function that makes a case."""

    def add(make: Callable[[], Case]) -> Callable[[], Case]:
        assert name not in REGISTRY, f'two entries are called {name}'
        REGISTRY[name] = Entry(name, functools.cache(make), prunable, dict(protected), approximate)
        return make

    return add


def double(shapes: Any) -> Any:
    """The same pytree with all floating-point leaves as `jax.ShapeDtypeStruct` of float64."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, _dtype(leaf)) if _is_array(leaf) else leaf, shapes
    )


def draw(shapes: Any, *, seed: int = 0) -> Any:
    """Arrays of NumPy for a pytree of shapes, floating point in float64: everything far from its initial value."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _draw(rng, _name(path), leaf), shapes)


def _draw(rng: np.random.Generator, name: str, leaf: Any) -> Any:
    if not _is_array(leaf):
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    shape = tuple(leaf.shape)
    if not np.issubdtype(_dtype(leaf), np.floating):
        return np.zeros(shape, leaf.dtype)
    # The running statistics of Equinox have no names.
    if any(word in name for word in ('scale', 'var', 'gamma')) or (not name and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) < 2:
        return rng.normal(size=shape) * 0.3
    # Equinox stores the output axis of a weight first, everyone else last.
    fan_in = np.prod(shape[1:] if name == 'weight' else shape[:-1])
    return rng.normal(size=shape) * np.sqrt(2 / max(fan_in, 1))


def _is_array(leaf: Any) -> bool:
    """Modules of Equinox hold functions and numbers, too."""
    return hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')


def _dtype(leaf: Any) -> Any:
    # Keys of a random number generator have a dtype of their own, which NumPy does not know.
    return np.float64 if jax.dtypes.issubdtype(leaf.dtype, np.floating) else leaf.dtype


def _name(path: tuple[Any, ...]) -> str:
    """Last key that is a name; `nnx` puts `.value` behind it, tuples a number."""
    keys = [str(getattr(entry, 'key', getattr(entry, 'name', ''))) for entry in path]
    return next((key for key in reversed(keys) if key and key != 'value' and not key.isdigit()), '')
