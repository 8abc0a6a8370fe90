"""The metric as loops over boxes, and random scenes to try it on."""

import itertools

import numpy as np

from jaxprune.evaluation import Predictions, Targets


def naive_overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    inner = width * height
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def naive_match(predictions, targets):
    """Per detection the IoU with the target that it wins, or 0: the description's loop over boxes."""
    won = np.zeros(len(predictions), np.float32)
    taken = set()
    for d in np.argsort(-predictions.scores, kind='stable'):
        place = predictions.images[d], predictions.classes[d]
        goals = [t for t in range(len(targets)) if (targets.images[t], targets.classes[t]) == place]
        overlaps = [naive_overlap(predictions.boxes_xyxy[d], targets.boxes_xyxy[t]) for t in goals]
        if overlaps and max(overlaps) > 0.5 and goals[int(np.argmax(overlaps))] not in taken:
            taken.add(goals[int(np.argmax(overlaps))])
            won[d] = max(overlaps)
    return won


def read_curve(x, points):
    """Straight lines between the points; at a jump the last of its points counts."""
    before = max(i for i, point in enumerate(points) if point[0] <= x)
    if before == len(points) - 1:
        return points[-1][1]
    (x0, y0), (x1, y1) = points[before], points[before + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def naive_average(hits, total):
    found, points = 0, []
    for count, hit in enumerate(hits, 1):
        found += hit
        points.append((found / total, found / count))
    points = [(0.0, 1.0), *points, (points[-1][0] + 0.01, 0.0)]
    points = [(x, max(y for _, y in points[i:])) for i, (x, _) in enumerate(points)]
    values = [read_curve(k / 100, points) for k in range(101)]
    return sum((left + right) / 2 for left, right in itertools.pairwise(values)) / 100


def naive_at(level, scores, hits, total):
    """Precision and recall at a confidence, read between the two detections beside it."""
    found, points = 0, []
    for count, (score, hit) in enumerate(zip(scores, hits, strict=True), 1):
        found += hit
        points.append((-float(score), found / count, found / total))
    if -level < points[0][0]:
        return 1.0, 0.0
    return tuple(read_curve(-level, [(point[0], point[axis]) for point in points]) for axis in (1, 2))


def naive_metric(predictions, targets, classes, levels):
    """The metric box by box; `levels` are the confidences at which precision and recall are read."""
    won, curves, averages = naive_match(predictions, targets), [], []
    for kind in range(classes):
        total = int(np.sum(targets.classes == kind))
        mine = np.flatnonzero(predictions.classes == kind)
        mine = mine[np.argsort(-predictions.scores[mine], kind='stable')]
        if not total:
            continue
        if not len(mine):
            averages.append([0.0] * 10)
            curves.append([(0.0, 0.0)] * len(levels))
            continue
        thresholds = np.linspace(0.5, 0.95, 10, dtype=np.float32)
        averages.append([naive_average(won[mine] > threshold, total) for threshold in thresholds])
        curves.append([naive_at(level, predictions.scores[mine], won[mine] > 0, total) for level in levels])
    return np.array(curves), np.array(averages)


def scene(seed, *, images=3, classes=3, boxes=12, spread=6.0, tied=False):
    """Random labels, and detections of which many overlap one or more of them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (boxes, 2))
    target = np.concatenate([corner, corner + rng.uniform(5, 40, (boxes, 2))], axis=1)
    owner, kind = rng.integers(0, images, boxes), rng.integers(0, classes, boxes)
    pick = rng.integers(0, boxes, 4 * boxes)
    found = target[pick] + rng.normal(0, spread, (len(pick), 4)) * rng.uniform(0, 1, (len(pick), 1))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    scores = rng.choice(5, len(pick)) / 5 if tied else rng.uniform(0.001, 1, len(pick))
    wrong = rng.uniform(size=len(pick)) < 0.2
    kinds = np.where(wrong, rng.integers(0, classes, len(pick)), kind[pick])
    keep = rng.uniform(size=boxes) < 0.8  # some detections are of nothing, and some classes have no labels
    targets = Targets(owner[keep], kind[keep], target[keep].astype(np.float32))
    return Predictions(owner[pick], kinds, scores.astype(np.float32), found.astype(np.float32)), targets
