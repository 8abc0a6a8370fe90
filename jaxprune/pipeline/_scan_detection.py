"""A detector and a data set as the scan engine reads them."""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxprune import data, detection, evaluation, models, pruning, sensitivity, trees
from jaxprune.errors import UserError
from jaxprune.pipeline import _evaluate
from jaxprune.pipeline._evaluate import ORIGINAL, NmsSettings
from jaxprune.pipeline._scan_loss import Heads, ImageLoss, most_boxes, padded_targets

Measured = Literal['map', 'loss', 'distance']
Plans = Mapping[tuple[int | None, float], pruning.Plan]


@dataclasses.dataclass(frozen=True)
class DetectionScan:
    """What is scanned, on what, and what is measured.

    Attributes:
      model, variables: the detector.
      dataset, image_size, batch: the images.
      settings: how detections are made; only `map` makes any.
      measured: `map` (P, R and mAP), `loss` (that of training, and its components) or `distance` (of the raw heads to
        those of the unpruned model; looks at no labels).
      shuffle: seed of a random order of the images; None: by aspect ratio.
    """

    model: models.Detector
    variables: models.Variables
    dataset: data.DetectionDataset
    image_size: int
    batch: int
    settings: NmsSettings = ORIGINAL
    shuffle: int | None = None
    measured: Measured = 'map'

    def __post_init__(self) -> None:
        if self.measured not in get_args(Measured):
            raise UserError(f'{self.measured!r} cannot be measured: give one of {", ".join(get_args(Measured))}')

    @functools.cached_property
    def batches(self) -> 'Batches':
        """The data set, decoded in the first pass."""
        opened = _evaluate.open_batches(
            self.dataset,
            self.model.spec,
            self.image_size,
            self.batch,
            devices=len(sensitivity.devices()),
            shuffle=self.shuffle,
        )
        targets = functools.partial(padded_targets, length=most_boxes(self.dataset))
        return Batches(opened, targets if self.measured == 'loss' else _frames)

    @property
    def metric(self) -> sensitivity.Metric:
        """What `measured` names."""
        if self.measured == 'loss':
            return sensitivity.Mean('loss', self._loss)
        if self.measured == 'distance':
            return sensitivity.Mean('distance', sensitivity.distance)
        return DetectionMetric(_evaluate.targets(self.dataset, self.image_size), self.model.spec, self.settings)

    @property
    def scanned(self) -> sensitivity.Model:
        """Raw heads of `uint8` images."""
        return sensitivity.Model(functools.partial(raw_heads, self.model), self.variables)

    def digest(self, *ranking: Any) -> str:
        """Of everything that a row depends on."""
        settings = {'map': self.settings, 'loss': self._loss}.get(self.measured)
        inputs = (repr(self.model.spec), self.variables, self.image_size, self.batch, self.measured, repr(settings))
        return trees.digest(*inputs, *ranking, *_evaluate.dataset_digest(self.dataset))

    @property
    def _loss(self) -> ImageLoss:
        return ImageLoss.of(self.model.spec, self.image_size)

    def candidates(self, plans: Plans) -> list[sensitivity.Candidate]:
        """The cells, with what each model would cost."""
        return [self._candidate(*cell, plan) for cell, plan in plans.items()]

    def cost(self, plan: pruning.Plan | None = None) -> dict[str, float]:
        """Columns that say what the model costs, after a plan."""
        spec = self.model.spec if plan is None else self.model.spec.resize(pruning.widths(plan))
        cost = models.spec_cost(spec, self.image_size)
        return {'parameters_published': cost.parameters_published, 'gflops': cost.gflops}

    def _candidate(self, layer: int | None, rate: float, plan: pruning.Plan) -> sensitivity.Candidate:
        return sensitivity.Candidate(layer=layer, rate=rate, plan=plan, cost=self.cost(plan))


def raw_heads(model: models.Detector, variables: models.Variables, images: UInt8[Array, 'b h w 3']) -> Heads:
    """Predictions before the sigmoid, level by level."""
    return models.forward(model, variables, images.astype(jnp.float32) / 255)


def drawn(dataset: data.DetectionDataset, images: int, seed: int) -> data.DetectionDataset:
    """So many images of a data set, in their order; `UserError` where it has fewer, or for what is no seed."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f'seed {seed}: give a whole number, 0 or more')
    if not 1 <= images <= len(dataset):
        raise UserError(
            f'{images} images: {dataset.file} has {len(dataset)} in {dataset.split}; give 1 to {len(dataset)}'
        )
    return dataset.subset(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:images]))


@dataclasses.dataclass(frozen=True)
class Batches:
    """Evaluation batches; `labels` says what of each of them the metric reads."""

    batches: data.EvalBatches
    labels: Callable[[data.EvalBatch], Any]
    part: slice = dataclasses.field(default_factory=lambda: slice(None))

    def __len__(self) -> int:
        return len(range(len(self.batches))[self.part])

    def __getitem__(self, part: slice) -> 'Batches':
        return dataclasses.replace(self, part=part)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pixels of every batch."""
        return self.batches.pixels

    def __iter__(self) -> Iterator[sensitivity.Batch]:
        for batch in self.batches.some(self.part):
            yield sensitivity.Batch(batch.images, self.labels(batch), batch.valid)


def _frames(batch: data.EvalBatch) -> dict[str, np.ndarray]:
    """What leads from a batch's pixels back to the original images."""
    frames = {name: getattr(batch, name) for name in ('valid', 'indices', 'sizes', 'gains', 'pads')}
    return jax.tree.map(np.float32, frames)


@dataclasses.dataclass(frozen=True)
class DetectionMetric:
    """The PyTorch YOLOv7's metric; on the device detections are made, on the host they are matched."""

    targets: evaluation.Targets
    spec: models.ArchSpec
    settings: NmsSettings
    name: str = 'detection'

    def measure(self, outputs: Heads, labels: Any, unpruned: Any) -> Any:
        """Detections in the pixels of the network's input, and the labels as they came."""
        decoded = detection.decode(outputs, jnp.asarray(self.spec.anchors), self.spec.strides)
        return detection.nms(decoded, **_evaluate.nms_options(self.settings)), labels

    def kept(self, statistics: Any) -> dict[str, np.ndarray]:
        """Detections as they match the labels, in 14 bytes each, and the images that were looked at."""
        found, labels = statistics
        frames = types.SimpleNamespace(**{**labels, 'valid': labels['valid'] > 0})
        here = labels['indices'].astype(np.int32)
        matched = evaluation.matched(evaluation.collect(found, frames), self._targets_of(here))
        return {
            'here': here,
            'images': matched.images.astype(np.int32),
            'classes': matched.classes.astype(np.int32),
            'scores': matched.scores,
            'correct': np.packbits(matched.correct, axis=1),
        }

    def figures(self, kept: dict[str, np.ndarray], weights: Float[np.ndarray, 'r n']) -> dict[str, np.ndarray]:
        """P, R and mAP."""
        images = np.zeros((len(weights), 1 + max(int(kept['here'].max()), int(self.targets.images.max(initial=0)))))
        images[:, kept['here']] = weights
        correct = np.unpackbits(kept['correct'], axis=1, count=len(evaluation.THRESHOLDS)).astype(bool)
        images_of, classes = (kept[name].astype(np.int64) for name in ('images', 'classes'))
        matched = evaluation.Matched(images_of, classes, kept['scores'], correct)
        metrics = evaluation.resampled_metrics(matched, self.targets, len(self.spec.classes), images)
        return {name: getattr(metrics, name) for name in _evaluate.COLUMNS}

    def _targets_of(self, images: Int[np.ndarray, ' b']) -> evaluation.Targets:
        """The labels of some images; all labels are in the order of the images."""
        first, last = (np.searchsorted(self.targets.images, images, side=side) for side in ('left', 'right'))
        count = last - first
        mine = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
        return evaluation.Targets(*(column[mine] for column in vars(self.targets).values()))
