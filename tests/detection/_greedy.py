"""Non-maximum suppression once more, slow and plain: one candidate after the other, in numpy."""

import numpy as np


def greedy_nms(decoded, *, conf, iou, multi_label, agnostic=False, classes=None, candidates=30000, detections=300):
    """Detections [n, 6] of one image [N, 5 + C]: x1 y1 x2 y2, confidence, class."""
    rows = _candidates(decoded.astype(np.float32), np.float32(conf), multi_label, classes)
    rows = rows[np.argsort(-rows[:, 4], kind='stable')][:candidates]
    kept = []
    while len(rows) and len(kept) < detections:
        first, rows = rows[0], rows[1:]
        kept.append(first)
        other_class = (rows[:, 5] != first[5]) & (not agnostic)
        rows = rows[other_class | ~(_iou(first, rows).astype(np.float64) > iou)]
    return np.array(kept, np.float32).reshape(-1, 6)


def _candidates(decoded, conf, multi_label, classes):
    known = decoded.shape[1] - 5
    scores = decoded[:, 4:5] if known == 1 else decoded[:, 4:5] * decoded[:, 5:]
    wanted = (scores > conf) & (decoded[:, 4:5] > conf)
    if not multi_label:
        wanted &= np.arange(known) == scores.argmax(axis=1)[:, None]
    if classes is not None:
        wanted &= np.isin(np.arange(known), classes)
    box, label = wanted.nonzero()
    corners = np.concatenate(
        [decoded[:, :2] - decoded[:, 2:4] / 2, decoded[:, :2] + decoded[:, 2:4] / 2], axis=1, dtype=np.float32
    )
    return np.concatenate([corners[box], scores[box, label][:, None], label[:, None].astype(np.float32)], axis=1)


def _iou(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:4], others[:, 2:4])
    inter = np.maximum(high - low, 0).prod(axis=1)
    union = (box[2:4] - box[:2]).prod() + (others[:, 2:4] - others[:, :2]).prod(axis=1) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
