"""Data sets on disk, letterboxing, and batches."""

from jaxprune.data._images import is_image
from jaxprune.data._letterbox import letterbox, load_image, read_image
from jaxprune.data.batching import KEEP_BYTES, EvalBatch, EvalBatches, label_boxes
from jaxprune.data.datasets import DetectionDataset, load_dataset

__all__ = [
    'KEEP_BYTES',
    'DetectionDataset',
    'EvalBatch',
    'EvalBatches',
    'is_image',
    'label_boxes',
    'letterbox',
    'load_dataset',
    'load_image',
    'read_image',
]
