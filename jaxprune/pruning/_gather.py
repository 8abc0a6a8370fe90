"""Gathering what criteria look at besides the variables: gradients of a loss, and statistics of activations."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxprune import trees
from jaxprune.errors import UserError
from jaxprune.graph import Graph, Group, Slot
from jaxprune.pruning._evidence import Activations, Evidence

Gates = dict[str, Float[Array, 'channels']]
Leaves = dict[trees.Path, Any]


class Collect(Protocol):
    """`(apply, variables, *inputs, graph=) -> name of a group -> values of its channels [..., channels]`."""

    def __call__(
        self, apply: Callable[..., Any], variables: Any, /, *inputs: Any, graph: Graph
    ) -> Mapping[str, Array]: ...


def gather_gates(
    graph: Graph,
    loss: Callable[[Any, Any], Float[Array, '']],
    variables: Any,
    batches: Iterable[Any],
    *,
    at_once: int = 1,
) -> Evidence:
    """Differentiates the loss of every example by a gate of every channel.

    A gate is a factor of value 1 at all places that a mask would set to zero to remove the channel: where it is read,
    summed over all its readers. Where a reader has no parameters (a product of queries and keys), a mask acts on those
    that produce the channel, and so does the gate: on those of the group's lowest layer among them, so on one of the
    two sides of the product. Protected groups have no gates.

    No gradient of the variables outlives its example. One program is compiled for each shape of what is differentiated
    together.

    Args:
      graph: connectivity of the model.
      loss: `loss(variables, batch) -> scalar`, of a batch of one example: of every leaf of a given batch one entry
        along its first axis, which stays, with size 1. In evaluation mode.
      variables: of the model.
      batches: pytrees of arrays `[examples, ...]`. Of one with an attribute `valid`, `bool [examples]`, as those of a
        scan have, only the examples where it is True.
      at_once: examples that are differentiated together: more need more memory and less time on an accelerator.

    Returns:
      Evidence with `gates`, fp32, or fp64 where the variables are.

    Raises:
      UserError: for a loss that is no scalar, and batches that hold nothing or arrays of different lengths.
    """
    groups = [group for group in graph.groups if not group.protected]
    slots = {group.name: gate_slots(group) for group in groups if gate_slots(group)}
    paths = {slot.path for found in slots.values() for slot in found}

    @jax.jit
    def differentiate(arrays: Leaves, batch: Any) -> Gates:
        gated = {path: arrays[path] for path in paths}

        def of_example(example: Any) -> Gates:
            one = jax.tree.map(lambda leaf: leaf[None], example)
            gradients = jax.grad(lambda new: _scalar(loss(trees.replace(variables, {**arrays, **new}), one)))(gated)
            products = {path: _product(gated[path], gradients[path]) for path in gated}
            return {name: _sum_places(products, found) for name, found in slots.items()}

        return jax.vmap(of_example)(batch)

    arrays = _arrays(variables)
    batched = [jax.device_get(differentiate(arrays, part)) for batch in batches for part in _parts(batch, at_once)]
    _check_any(batched)
    gates = {name: np.concatenate([gates[name] for gates in batched]) for name in slots}
    return Evidence(graph, variables, gates=gates)


def gate_slots(group: Group) -> tuple[Slot, ...]:
    """The slots that the gates of a group multiply."""
    masked = [slot for slot in group.slots if slot.masked]
    producing = [slot for slot in masked if slot.role != 'read']
    if not producing:
        return tuple(masked)
    lowest = min((slot.layer for slot in producing), key=_place_in(group))
    return tuple(slot for slot in producing if slot.layer == lowest)


def gather_activations(
    graph: Graph,
    apply: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    ranks: bool = False,
    collect: Collect | None = None,
) -> Evidence:
    """Runs the model and keeps statistics of every group's channels, as its first reader meets them.

    One program is compiled for each shape of a batch.

    Args:
      graph: connectivity of the model.
      apply: as given to the tracer.
      variables: of the model.
      batches: inputs of the model: each a tuple of them, or the only one.
      ranks: whether to compute the rank of every map, for the criterion `hrank`: one singular value decomposition for
        each example and channel of values `[batch, height, width, channels]`.
      collect: what reads the values; None: `jaxprune.graph.activations`.

    Returns:
      Evidence with `activations`.

    Raises:
      UserError: if there are no batches.
    """
    collect = collect or _traced_activations()
    arrays = _arrays(variables)
    counts: dict[str, int] = {}

    @jax.jit
    def measure(arrays: Leaves, inputs: tuple[Any, ...]) -> dict[str, dict[str, Array]]:
        values = collect(apply, trees.replace(variables, arrays), *inputs, graph=graph)
        return {name: _measure(array, ranks) for name, array in values.items()}

    sums: dict[str, dict[str, np.ndarray]] = {}
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        for name, measured in jax.device_get(measure(arrays, inputs)).items():
            count = int(measured.pop('count'))
            counts[name] = counts.get(name, 0) + count
            before = sums.setdefault(name, {key: np.zeros(len(value)) for key, value in measured.items()})
            sums[name] = {key: before[key] + value.astype(np.float64) * count for key, value in measured.items()}
    _check_any(sums)
    means = {name: {key: value / counts[name] for key, value in total.items()} for name, total in sums.items()}
    return Evidence(
        graph, variables, activations={name: Activations(counts[name], **mean) for name, mean in means.items()}
    )


def _measure(array: Float[Array, '... channels'], ranks: bool) -> dict[str, Array]:
    """Means over all values of a channel; the count tells how many they are."""
    values = _wide(array)
    others = tuple(range(values.ndim - 1))
    measured = {
        'count': jnp.asarray(values.size // values.shape[-1]),
        'mean': jnp.mean(jnp.abs(values), axis=others),
        'zeros': jnp.mean((values == 0).astype(jnp.float32), axis=others),
    }
    if ranks and values.ndim == 4:
        measured['rank'] = jnp.mean(jnp.linalg.matrix_rank(jnp.moveaxis(values, -1, 1)).astype(jnp.float32), axis=0)
    return measured


def _traced_activations() -> Collect:
    from jaxprune.graph import activations

    return activations


def _arrays(variables: Any) -> Leaves:
    """The leaves that are arrays: what else a module holds stays as it is, outside the compiled program."""
    return {path: leaf for path, leaf in trees.flatten(variables).items() if isinstance(leaf, np.ndarray | jax.Array)}


def _product(leaf: Array, gradient: Array) -> Array:
    """Weight times gradient; in fp32 at least, so that half precision sums up well."""
    return _wide(leaf) * _wide(gradient)


def _wide(array: Array) -> Array:
    return jnp.asarray(array, jnp.float64 if array.dtype == np.float64 else jnp.float32)


def _sum_places(products: Mapping[trees.Path, Array], slots: Sequence[Slot]) -> Float[Array, 'channels']:
    """For each channel the sum over everything on its places: by the chain rule the derivative to its gate."""
    total: Any = 0
    for slot in slots:
        product = products[slot.path]
        others = tuple(axis for axis in range(product.ndim) if axis != slot.axis)
        total = total + jnp.sum(jnp.sum(product, axis=others)[slot.indices], axis=1)
    return total


def _place_in(group: Group) -> Callable[[str], int]:
    return lambda layer: group.layers.index(layer) if layer in group.layers else len(group.layers)


def _parts(batch: Any, at_once: int) -> Iterator[Any]:
    """The batch, so many examples at a time: a loop in the program would make convolutions on a CPU 10 times slower."""
    if at_once < 1:
        raise UserError(f'at_once is {at_once}: give a whole number, 1 or more')
    batch = _without_filling(_checked(batch))
    examples = len(jax.tree.leaves(batch)[0])
    for start in range(0, examples, at_once):
        yield jax.tree.map(operator.itemgetter(slice(start, start + at_once)), batch)


def _without_filling(batch: Any) -> Any:
    """Without the rows that only fill the batch, where it says which these are."""
    valid = np.asarray(getattr(batch, 'valid', True), bool)
    if valid.shape != np.shape(jax.tree.leaves(batch)[0])[:1] or valid.all():
        return batch
    return jax.tree.map(operator.itemgetter(valid), batch)


def _scalar(value: Array) -> Array:
    if np.shape(value) != ():
        raise UserError(f'the loss has shape {np.shape(value)}: give a function that returns a scalar, such as a mean')
    return value


def _checked(batch: Any) -> Any:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise UserError(f'a batch has arrays of shapes {shapes}: each needs one entry per example on its first axis')
    return batch


def _check_any(found: Any) -> None:
    if not found:
        raise UserError('there are no batches with examples: give an iterable that yields at least one')
