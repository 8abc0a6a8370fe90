import json
import pathlib

import numpy as np
import pytest

from jaxprune.evaluation import Predictions, Targets

SMALL = pathlib.Path(__file__).parent.parent / 'golden' / 'trained'


def corners(boxes_ltwh):
    return np.concatenate([boxes_ltwh[:, :2], boxes_ltwh[:, :2] + boxes_ltwh[:, 2:]], axis=1).astype(np.float32)


@pytest.fixture(scope='module')
def original():
    """Detections of the trained PyTorch model (of 0.002 and more, boxes to 0.1 pixels), the labels, its figures."""
    with np.load(SMALL / 'detections-small.npz') as arrays:
        whole = {key: arrays[key].astype(np.int64) for key in ('images', 'classes', 'target_images', 'target_classes')}
        scores = (arrays['scores'] / 1e5).astype(np.float32)
        predictions = Predictions(whole['images'], whole['classes'], scores, corners(arrays['boxes'] / 10))
        targets = Targets(whole['target_images'], whole['target_classes'], corners(arrays['target_boxes']))
    return predictions, targets, json.loads((SMALL / 'metrics.json').read_text())
