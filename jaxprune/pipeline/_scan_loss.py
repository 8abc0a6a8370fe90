"""A detector's training loss as what a scan measures: of every image, whatever batch it stands in."""

import dataclasses
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxprune import data, detection, models

Heads = tuple[Float[Array, 'b h w a p'], ...]


@dataclasses.dataclass(frozen=True)
class ImageLoss:
    """The anchor-matched loss of every image, and its components, weighted as in training.

    Each image is a batch of its own: the figures are means over images, and do not depend on how they were batched. (In
    training the components are means over all boxes of a batch.)

    Attributes:
      anchors: per level, per anchor: width and height in pixels.
      strides: per level, in pixels.
      config: weights, already scaled.
    """

    anchors: tuple[tuple[tuple[float, float], ...], ...]
    strides: tuple[int, ...]
    config: detection.LossConfig

    @classmethod
    def of(cls, spec: models.ArchSpec, image_size: int) -> Self:
        """The default weights, scaled as training on images of this size scales them."""
        weights = detection.LossConfig()
        scaled = weights.scaled(levels=len(spec.strides), classes=len(spec.classes), image_size=image_size)
        return cls(spec.anchors, spec.strides, scaled)

    def __call__(self, outputs: Heads, labels: Any, unpruned: Any = None) -> dict[str, Float[Array, ' b']]:
        """`loss`, `loss_box`, `loss_obj`, `loss_cls` of raw heads and the labels of `padded_targets`."""

        def of_image(heads: Heads, targets: Array, valid: Array) -> dict[str, Array]:
            one = [head[None] for head in heads]
            loss, parts = detection.anchor_loss(
                one, targets[None], valid[None], anchors=self.anchors, strides=self.strides, config=self.config
            )
            return {'loss': loss, **{f'loss_{name}': part for name, part in parts._asdict().items()}}

        return jax.vmap(of_image)(outputs, labels['targets'], labels['boxes'])


def most_boxes(dataset: data.DetectionDataset) -> int:
    """The most labels that an image has, at least 1: one length serves all batches, so one program does."""
    return max([1, *map(len, dataset.labels)])


def padded_targets(batch: data.EvalBatch, length: int) -> dict[str, np.ndarray]:
    """A batch's labels in the coordinates of the network's input, as training reads them.

    Args:
      batch: letterboxed images and their labels.
      length: rows per image; at least `most_boxes`.

    Returns:
      `targets`, `float32 [b, length, 5]`: class, centre x, centre y, width, height as fractions of the letterboxed
      image; `boxes`, `bool [b, length]`, False for padding, where targets are 0.
    """
    counts = np.array([len(rows) for rows in batch.labels])
    boxes = np.arange(length)[None] < counts[:, None]
    border = batch.pads / np.array(batch.images.shape[2:0:-1], np.float32)
    scale, shift = np.tile(1 - 2 * border, 2), np.pad(border, ((0, 0), (0, 2)))
    owner, rows = np.repeat(np.arange(len(counts)), counts), np.concatenate(batch.labels)
    targets = np.zeros((*boxes.shape, 5), np.float32)
    targets[boxes] = np.concatenate([rows[:, :1], rows[:, 1:] * scale[owner] + shift[owner]], axis=1)
    return {'targets': targets, 'boxes': boxes}
