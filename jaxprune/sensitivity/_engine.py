"""One model on its way through the data: what is compiled, where it lies, and what a candidate computes."""

import concurrent.futures
import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool

from jaxprune import pruning
from jaxprune.errors import UserError
from jaxprune.sensitivity._chain import Chain, abstract, cut
from jaxprune.sensitivity._memory import split
from jaxprune.sensitivity._metrics import Metric, Statistics
from jaxprune.sensitivity._stages import Compiler, Stages

Changed = dict[int, Any]
"""Index of an array of the variables -> what a plan makes of it."""
_IMAGES = 'images'


@dataclasses.dataclass(frozen=True)
class Model:
    """What is scanned: `predict(variables, inputs) -> outputs`, a pure function, and its variables."""

    predict: Callable[[Any, Any], Any]
    variables: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Images that go through the model together; leaves have them on their leading axis.

    Attributes:
      inputs: what the model reads; a pytree.
      labels: what the metric reads; a pytree; None where it reads none.
      valid: `bool [b]`, False for rows that only fill the batch.

    What the model and the metric make of an image must not depend on the others: batches are filled, split, and spread
    over devices.
    """

    inputs: Any
    labels: Any
    valid: Bool[np.ndarray, ' b']


def checked(batch: Batch) -> Batch:
    """With `valid` as a mask; `UserError` where it is none, or does not say which images of the batch count."""
    valid = np.asarray(batch.valid, bool)
    if valid.ndim != 1 or not len(valid):
        raise UserError(f'valid of a batch has the shape {valid.shape}: give one truth value for each of its images')
    for path, leaf in jax.tree_util.tree_leaves_with_path({'inputs': batch.inputs, 'labels': batch.labels}):
        if np.shape(leaf)[:1] != valid.shape:
            raise UserError(
                f'{jax.tree_util.keystr(path)} of a batch of {len(valid)} images has the shape {np.shape(leaf)}: give'
                ' arrays with the images on their first axis'
            )
    return dataclasses.replace(batch, valid=valid)


class Engine:
    """Computes candidates batch by batch; images are spread over the devices of this process.

    Attributes:
      metric: what is measured.
      compiler: of the stages.
      variables: arrays of the unpruned model, on every device.
    """

    def __init__(self, model: Model, metric: Metric, *, memory: int | None = None) -> None:
        """Nothing is computed or compiled yet.

        Args:
          model: what is scanned.
          metric: what is measured.
          memory: most bytes on a device for what a batch computes; None: as many as it takes.
        """
        self.compiler = Compiler()
        self._memory = memory
        self.metric = metric
        self._mesh = Mesh(np.array(devices()), (_IMAGES,))
        # On a CPU, one candidate's suppression runs on one core: the other one has the next candidate meanwhile.
        self._threads = 2 if self._mesh.size == 1 and self._mesh.devices.item().platform == 'cpu' else 1
        self._before = jax.tree.map(lambda leaf: np.asarray(leaf) if _is_array(leaf) else leaf, model.variables)
        leaves, structure = jax.tree.flatten(self._before)
        self._arrays = tuple(index for index, leaf in enumerate(leaves) if _is_array(leaf))
        self.variables = self._everywhere([leaves[index] for index in self._arrays])

        def predict(arrays: Sequence[Any], inputs: Any) -> Any:
            """The function of the arrays: what else a module holds, such as activations, stays as it is."""
            given = dict(zip(self._arrays, arrays, strict=True))
            every = [given.get(index, leaf) for index, leaf in enumerate(leaves)]
            return model.predict(jax.tree.unflatten(structure, every), inputs)

        self._predict = predict
        self._stages: dict[Any, Stages] = {}
        self._chains: dict[Any, Chain] = {}
        self._splits: dict[Any, tuple[int, int]] = {}
        self._measures: dict[Any, Callable[..., Statistics]] = {}

    def masked(self, plan: pruning.Plan) -> Changed:
        """The leaves that a plan changes, on the devices."""
        before, after = jax.tree.leaves(self._before), jax.tree.leaves(pruning.mask(self._before, plan))
        pairs = enumerate((before[index], after[index]) for index in self._arrays)
        return {index: self._everywhere(new) for index, (old, new) in pairs if new is not old}

    def parts(self, candidates: Sequence[Changed], batch: Batch) -> Iterator[Batch]:
        """The batch in parts that can be computed within the memory."""
        rows, _ = self._split(candidates, batch)
        if rows == len(batch.valid):
            yield batch
            return
        for start in range(0, len(batch.valid), rows):
            yield jax.tree.map(operator.itemgetter(slice(start, start + rows)), batch)

    def compute(self, candidates: Sequence[Changed], batch: Batch) -> list[Statistics]:
        """Statistics `[b, ...]` of every candidate, on the devices; dispatched, not waited for."""
        _, size = self._split(candidates, batch)
        inputs, labels = self.place(batch)
        return [
            statistics
            for start in range(0, len(candidates), size)
            for statistics in self._compute(candidates[start : start + size], inputs, labels)
        ]

    def _compute(self, candidates: Sequence[Changed], inputs: Any, labels: Any) -> list[Statistics]:
        """With one pass of the unpruned model for all of them."""
        stages = self.stages(inputs)
        numbers = [stages.chain.reached(leaves) for leaves in candidates]
        values = stages.run(self.variables, inputs, keep=set().union(*map(stages.chain.needed, numbers)))
        unpruned = stages.result(values)

        def one(leaves: Changed, again: Sequence[int]) -> Statistics:
            outputs = stages.result(stages.run_again(values, leaves, again)) if leaves else unpruned
            return self.measure(outputs, labels, unpruned)

        if self._threads == 1:
            return list(map(one, candidates, numbers))
        first = one(candidates[0], numbers[0])  # alone: the metric is compiled, once
        with concurrent.futures.ThreadPoolExecutor(self._threads) as threads:
            return [first, *threads.map(one, candidates[1:], numbers[1:])]

    def _split(self, candidates: Sequence[Changed], batch: Batch) -> tuple[int, int]:
        """How many rows and candidates go together."""
        rows = len(batch.valid)
        if self._memory is None:
            return rows, len(candidates)
        shape = _shape(batch.inputs)
        if shape not in self._chains:
            self._chains[shape] = cut(self._predict, self.variables, batch.inputs)
        chain = self._chains[shape]
        key = shape, tuple(map(frozenset, candidates))
        if key not in self._splits:
            again = [chain.reached(leaves) for leaves in candidates]
            limits = {'devices': self._mesh.size, 'at_once': self._threads}
            self._splits[key] = split(chain, again, self._memory, rows=rows, **limits)
        return self._splits[key]

    def stages(self, inputs: Any) -> Stages:
        """The stages for inputs of this shape; compiled once."""
        shape = _shape(inputs)
        if shape not in self._stages:
            self._stages[shape] = self.compiler.stages(self._predict, self.variables, inputs)
        return self._stages[shape]

    def texts(self, batches: Iterable[Batch]) -> list[str]:
        """The programs of the model and of the metric, for all shapes of batches: what tells them from others."""
        shapes = {_shape((batch.inputs, batch.labels)): batch for batch in batches}
        return list(map(self._text, shapes.values()))

    def _text(self, batch: Batch) -> str:
        given = jax.tree.map(abstract, (self.variables, batch.inputs, batch.labels))
        variables, inputs, labels = jax.tree.map(lambda leaf: leaf.update(sharding=None), given)
        outputs = jax.eval_shape(self._predict, variables, inputs)
        model = jax.jit(self._predict).lower(variables, inputs).as_text()
        metric = jax.jit(self.metric.measure).lower(outputs, labels, outputs).as_text()
        whole = f'{model}{metric}'
        return re.sub(r'\d{9,}', '', whole) if 'callback' in whole else whole  # addresses of host functions

    def place(self, batch: Batch) -> tuple[Any, Any]:
        """Inputs and labels of a batch, spread over the devices."""
        return self._spread((batch.inputs, batch.labels))

    def measure(self, outputs: Any, labels: Any, unpruned: Any) -> Statistics:
        """The metric's statistics `[b, ...]`; compiled for the first outputs of a shape, in the calling thread."""
        given = outputs, labels, unpruned
        if self._mesh.size > 1:
            given = self._spread(given)
        shape = _shape(given)
        if shape not in self._measures:
            rows = PartitionSpec(_IMAGES) if self._is_spread(given) else PartitionSpec()
            # Every device measures its own images: nothing is exchanged.
            spread = jax.shard_map(self.metric.measure, mesh=self._mesh, in_specs=rows, out_specs=rows, check_vma=False)
            # Settings such as `with jax.enable_x64(True)` are those of a thread: others only run the program.
            self._measures[shape] = jax.jit(spread).lower(*given).compile()
        return self._measures[shape](*given)

    def _is_spread(self, tree: Any) -> bool:
        lengths = [np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)]
        return self._mesh.size > 1 and all(length and length[0] % self._mesh.size == 0 for length in lengths)

    def _spread(self, tree: Any) -> Any:
        axes = PartitionSpec(_IMAGES) if self._is_spread(tree) else PartitionSpec()
        return jax.device_put(tree, NamedSharding(self._mesh, axes))

    def _everywhere(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))


def _is_array(leaf: Any) -> bool:
    """Random keys are not counted: nothing prunes them, and NumPy does not know them."""
    if isinstance(leaf, jax.Array):
        return not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    return isinstance(leaf, np.ndarray | np.generic)


def _shape(inputs: Any) -> Any:
    return tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(inputs))


def devices() -> list[jax.Device]:
    """Those of this process, or the one that was asked for."""
    chosen = jax.config.values.get('jax_default_device')
    return [chosen] if isinstance(chosen, jax.Device) else jax.local_devices()
