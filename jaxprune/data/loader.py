"""Training batches of one shape, the same in every run: what an epoch holds follows from the seed and its number."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxprune.data._letterbox import load_image
from jaxprune.data.augment import AugmentConfig, augment
from jaxprune.data.datasets import DetectionDataset
from jaxprune.errors import UserError

_MOSAIC = 4


class TrainBatch(NamedTuple):
    """What one training step reads.

    Attributes:
      images: RGB.
      targets: class, centre x, centre y, width, height in 0..1; zeros where not valid.
      valid: false for padding.
    """

    images: UInt8[np.ndarray, 'b h w 3']
    targets: Float[np.ndarray, 'b m 5']
    valid: Bool[np.ndarray, 'b m']


class TrainBatches:
    """Augmented batches of a data set; call it with the number of an epoch.

    Every epoch visits every picture once, in a new order; its last batch is filled up with pictures of a further
    order, so that all batches have one shape. Pictures are decoded and resized once and kept as `uint8`, unless they
    would take more than `keep_bytes`.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        image_size: int,
        *,
        batch: int,
        config: AugmentConfig,
        seed: int = 0,
        threads: int | None = None,
        keep_bytes: int = 4 << 30,
    ) -> None:
        """Plans the batches; nothing is decoded yet.

        Args:
          dataset: the split to learn from.
          image_size: height and width of the batches, in pixels.
          batch: pictures per batch.
          config: augmentation.
          seed: of order and augmentation; the number of threads never matters.
          threads: that decode and augment ahead of the training step; None: one per core.
          keep_bytes: the most memory that decoded pictures may take.

        Raises:
          UserError: for an empty data set or a batch size below 1.
        """
        if batch < 1 or not len(dataset.images):
            raise UserError(f'{len(dataset.images)} training pictures in batches of {batch}: both must be at least 1')
        self.batch, self.image_size, self.seed = batch, image_size, seed
        self._dataset, self._config = dataset, config
        self._threads = threads or os.cpu_count() or 1
        self._max_boxes = max(1, _MOSAIC * max(len(rows) for rows in dataset.labels))
        relative = dataset.sizes / dataset.sizes.max(axis=1, keepdims=True)
        self._keep = 3 * image_size**2 * float(relative.prod(axis=1).sum()) <= keep_bytes
        self._pictures: dict[int, UInt8[np.ndarray, 'h w 3']] = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self._dataset.images) / self.batch)

    def __call__(self, epoch: int) -> Iterator[TrainBatch]:
        """The batches of epoch `epoch`, a few of them prepared ahead.

        Raises:
          UserError: if grain is not installed, or a picture cannot be read.
        """
        grain = _grain()
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        rows = len(self) * self.batch
        order = grain.MapDataset.source(range(len(self._dataset.images))).seed(seed).shuffle()
        samples = order.repeat(math.ceil(rows / len(self._dataset.images)))[:rows].random_map(self._sample)
        ahead = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=3 * self.batch)
        return iter(samples.to_iter_dataset(ahead).batch(self.batch, batch_fn=self._stack))

    def _source(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        picture = self._pictures.get(index)
        if picture is None:
            picture, *_ = load_image(self._dataset.images[index], self.image_size, augment=True)
            if self._keep:
                self._pictures[index] = picture
        return picture, self._dataset.labels[index]

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        count = len(self._dataset.images)
        return augment(index, self._source, count, self.image_size, config=self._config, rng=rng)

    def _stack(self, samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> TrainBatch:
        counts = np.array([len(labels) for _, labels in samples])
        valid = np.arange(self._max_boxes)[None] < counts[:, None]
        targets = np.zeros((len(samples), self._max_boxes, 5), np.float32)
        targets[valid] = np.concatenate([labels for _, labels in samples])
        return TrainBatch(np.stack([picture for picture, _ in samples]), targets, valid)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise UserError('training reads its data with grain, which is not installed: pip install grain') from error
    return grain
