"""The twelve COCO figures (https://cocodataset.org, detection evaluation), computed by hotcoco.

It gives the figures of pycocotools, to the last bit, in less than a tenth of the time.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxprune.evaluation._boxes import Predictions


@dataclasses.dataclass(frozen=True)
class CocoMetrics:
    """The figures in the order of pycocotools: six average precisions, six average recalls.

    A figure is -1 where there is nothing to measure, such as `map_small` without small objects.
    """

    map50_95: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    recall_1: float
    recall_10: float
    recall_100: float
    recall_small: float
    recall_medium: float
    recall_large: float


class CocoDataset(Protocol):
    """What a data set offers for this evaluation."""

    @property
    def image_ids(self) -> Sequence[int]:
        """COCO id of every image."""

    @property
    def category_ids(self) -> Sequence[int]:
        """COCO id of every class."""

    def coco_ground_truth(self) -> dict[str, Any]:
        """The annotations, with ids from 1."""


def coco_results(dataset: CocoDataset, predictions: Predictions) -> list[dict[str, Any]]:
    """Detections in the COCO result format: boxes to 3 decimals, scores to 5, as the PyTorch YOLOv7 writes them.

    Args:
        dataset: gives the ids of images and categories.
        predictions: detections in original pixels.

    Returns:
        One mapping per detection: `image_id`, `category_id`, `bbox` (left, top, width, height), `score`.
    """
    corners = predictions.boxes_xyxy.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
    images = [dataset.image_ids[index] for index in predictions.images.tolist()]
    categories = [dataset.category_ids[index] for index in predictions.classes.tolist()]
    scores = predictions.scores.astype(np.float64).round(5)
    rows = zip(images, categories, boxes.tolist(), scores.tolist(), strict=True)
    return [{'image_id': i, 'category_id': c, 'bbox': box, 'score': score} for i, c, box, score in rows]


def coco_metrics(dataset: CocoDataset, predictions: Predictions) -> CocoMetrics:
    """The twelve figures on all images of a data set.

    Args:
        dataset: the ground truth; a `DetectionDataset` of either layout.
        predictions: detections in original pixels.

    Returns:
        The twelve figures.
    """
    return evaluate_results(dataset.coco_ground_truth(), coco_results(dataset, predictions))


def evaluate_results(ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> CocoMetrics:
    """The twelve figures from COCO dictionaries.

    Args:
        ground_truth: images, categories, and annotations with ids from 1.
        results: detections in the COCO result format.

    Returns:
        The twelve figures.
    """
    import hotcoco

    truth = hotcoco.COCO(ground_truth)
    evaluation = hotcoco.COCOeval(truth, truth.load_res(list(results)), 'bbox')
    with contextlib.redirect_stdout(io.StringIO()):  # the last step prints its figures
        evaluation.run()
    return CocoMetrics(*(float(value) for value in evaluation.stats))
