"""From detections to metrics: the PyTorch YOLOv7's own, and COCO's."""

from jaxprune.evaluation._boxes import Predictions, Targets, collect, concatenate
from jaxprune.evaluation._matching import THRESHOLDS, Matched, match, matched
from jaxprune.evaluation.coco import CocoMetrics, coco_metrics, coco_results, evaluate_results
from jaxprune.evaluation.metrics import (
    DetectionMetrics,
    StackedMetrics,
    detection_metrics,
    metrics_of_many,
    resampled_metrics,
)

__all__ = [
    'THRESHOLDS',
    'CocoMetrics',
    'DetectionMetrics',
    'Matched',
    'Predictions',
    'StackedMetrics',
    'Targets',
    'coco_metrics',
    'coco_results',
    'collect',
    'concatenate',
    'detection_metrics',
    'evaluate_results',
    'match',
    'matched',
    'metrics_of_many',
    'resampled_metrics',
]
