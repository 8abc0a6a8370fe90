"""What a preview of a detector's scan needs: how the training loss changes with every channel."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxprune import data, models, progress, pruning
from jaxprune.pipeline import _evaluate
from jaxprune.pipeline._scan_detection import DetectionScan, drawn, raw_heads
from jaxprune.pipeline._scan_loss import ImageLoss, most_boxes, padded_targets


def gates(task: DetectionScan, images: int, *, seed: int = 0) -> pruning.Evidence:
    """Differentiates the training loss of images of a scan by a gate of every channel; for `sensitivity.preview`.

    One program, as all images have the smallest common shape, and one backward pass per image. What objectness should
    be depends on the predicted boxes; as in training, that is not differentiated.

    Args:
      task: model and data; whatever it measures.
      images: how many, drawn from the data set; all, where it has fewer.
      seed: of the draw.

    Raises:
      UserError: for fewer than one image, and where model, data set and image size do not fit.
    """
    spec = task.model.spec
    some = drawn(task.dataset, min(images, len(task.dataset)), seed)
    _evaluate.check_classes(some, spec)
    models.check_size(spec, task.image_size, task.image_size)
    opened = data.EvalBatches(some, task.image_size, batch=1, group=len(some), stride=spec.max_stride, keep_bytes=None)
    losses, length = ImageLoss.of(spec, task.image_size), most_boxes(some)

    def loss(variables: models.Variables, batch: Any) -> Array:
        return losses(raw_heads(task.model, variables, batch['images']), batch)['loss'][0]

    with progress.bar('preview', len(some), unit='images') as advance:

        def each() -> Iterator[dict[str, np.ndarray]]:
            for batch in opened:
                yield {'images': batch.images, **padded_targets(batch, length)}
                advance()

        return pruning.gather_gates(models.connectivity(spec), loss, task.variables, each())
