"""Boxes, decoding, non-maximum suppression and losses: pure functions on arrays."""

from jaxprune.detection._decode import decode
from jaxprune.detection._losses import LossConfig, LossParts, anchor_loss
from jaxprune.detection._nms import Detections, nms
from jaxprune.detection.boxes import ciou, iou_matrix, xywh_to_xyxy, xyxy_to_xywh

__all__ = [
    'Detections',
    'LossConfig',
    'LossParts',
    'anchor_loss',
    'ciou',
    'decode',
    'iou_matrix',
    'nms',
    'xywh_to_xyxy',
    'xyxy_to_xywh',
]
