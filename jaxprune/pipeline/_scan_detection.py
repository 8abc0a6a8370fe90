"""A detector and a data set as the scan engine reads them."""

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxprune import data, detection, evaluation, models, pruning, sensitivity, trees
from jaxprune.pipeline import _evaluate
from jaxprune.pipeline._evaluate import ORIGINAL, NmsSettings

Plans = Mapping[tuple[int | None, float], pruning.Plan]


@dataclasses.dataclass(frozen=True)
class DetectionScan:
    """What is scanned, on what, and how detections are made."""

    model: models.Detector
    variables: models.Variables
    dataset: data.DetectionDataset
    image_size: int
    batch: int
    settings: NmsSettings = ORIGINAL

    @functools.cached_property
    def batches(self) -> 'Batches':
        """The data set, decoded in the first pass."""
        opened = _evaluate.open_batches(
            self.dataset, self.model.spec, self.image_size, self.batch, devices=len(sensitivity.devices())
        )
        return Batches(opened)

    @property
    def metric(self) -> 'DetectionMetric':
        """P, R and mAP."""
        targets = _evaluate.targets(self.dataset, self.image_size)
        return DetectionMetric(targets, self.dataset.classes, self.settings)

    @property
    def scanned(self) -> sensitivity.Model:
        """Decoded predictions of `uint8` images."""
        return sensitivity.Model(functools.partial(_predict, self.model), self.variables)

    def digest(self, *ranking: Any) -> str:
        """Of everything that a row depends on."""
        inputs = (repr(self.model.spec), self.variables, self.image_size, self.batch, repr(self.settings))
        return trees.digest(*inputs, *ranking, *_evaluate.dataset_digest(self.dataset))

    def candidates(self, plans: Plans) -> list[sensitivity.Candidate]:
        """The cells, with what each model would cost."""
        return [self._candidate(*cell, plan) for cell, plan in plans.items()]

    def _candidate(self, layer: int | None, rate: float, plan: pruning.Plan) -> sensitivity.Candidate:
        cost = models.spec_cost(self.model.spec.resize(pruning.widths(plan)), self.image_size)
        columns = {'parameters_published': cost.parameters_published, 'gflops': cost.gflops}
        return sensitivity.Candidate(layer=layer, rate=rate, plan=plan, cost=columns)


def _predict(model: models.Detector, variables: models.Variables, images: UInt8[Array, 'b h w 3']) -> Array:
    return models.decoded(model, variables, images.astype(jnp.float32) / 255)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Evaluation batches; the labels are what leads from a batch's pixels back to the original images."""

    batches: data.EvalBatches

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pixels of every batch."""
        return self.batches.pixels

    def __iter__(self) -> Iterator[sensitivity.Batch]:
        for batch in self.batches:
            frames = {name: getattr(batch, name) for name in ('valid', 'indices', 'sizes', 'gains', 'pads')}
            yield sensitivity.Batch(batch.images, jax.tree.map(np.float32, frames), batch.valid)


@dataclasses.dataclass(frozen=True)
class DetectionMetric:
    """The PyTorch YOLOv7's metric; on the device detections are made, on the host they are matched."""

    targets: evaluation.Targets
    classes: int
    settings: NmsSettings
    name: str = 'detection'

    def measure(self, outputs: Float[Array, 'b n c'], labels: Any, unpruned: Any) -> Any:
        """Detections in the pixels of the network's input, and the labels as they came."""
        return detection.nms(outputs, **_evaluate.nms_options(self.settings)), labels

    def figures(self, statistics: Any, weights: Float[np.ndarray, 'r n']) -> dict[str, np.ndarray]:
        """P, R and mAP."""
        found, labels = statistics
        frames = types.SimpleNamespace(**{**labels, 'valid': labels['valid'] > 0})
        here = labels['indices'].astype(np.int64)
        images = np.zeros((len(weights), 1 + max(int(here.max()), int(self.targets.images.max(initial=0)))))
        images[:, here] = weights
        predictions = evaluation.collect(found, frames)
        metrics = evaluation.resampled_metrics(predictions, self.targets, self.classes, images)
        return {name: getattr(metrics, name) for name in _evaluate.COLUMNS}
