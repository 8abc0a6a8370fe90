"""Pictures of geometric shapes with their boxes, in whole-number arithmetic only, so that every machine draws the same.

Everything is tested at `FINE` × `FINE` points per pixel; a pixel's coverage is the number of points inside, so edges
are smooth and boxes are exact to a quarter of a pixel.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring')
FINE = 4
_UNIT = 1024  # one radius, in the coordinates of the outlines below
_SINE = np.rint(np.sin(np.arange(450) * np.pi / 180) * _UNIT).astype(np.int64)  # by whole degrees; cosine is 90 further


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image and its shapes: `boxes_xyxy` in pixels, of the whole shape, hidden parts too, cut at the border."""

    image_bgr: UInt8[np.ndarray, 'size size 3']
    classes: Int[np.ndarray, 'n']
    boxes_xyxy: Float[np.ndarray, 'n 4']


@dataclasses.dataclass(frozen=True)
class _Mask:
    """The fine points inside an outline, in a window of whole pixels that starts at a given row and column of them."""

    row: int
    column: int
    inside: Bool[np.ndarray, 'rows columns']

    def place(self, scale: int) -> tuple[slice, slice]:
        """The window on a canvas with `scale` points per pixel."""
        rows, columns = (count // FINE for count in self.inside.shape)
        return (
            slice(self.row * scale, (self.row + rows) * scale),
            slice(self.column * scale, (self.column + columns) * scale),
        )

    def coverage(self) -> Int[np.ndarray, 'h w']:
        """Per pixel, how many of its `FINE²` points are inside."""
        rows, columns = self.inside.shape
        return self.inside.reshape(rows // FINE, FINE, columns // FINE, FINE).sum((1, 3))

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        rows, columns = np.flatnonzero(self.inside.any(1)), np.flatnonzero(self.inside.any(0))
        left, top = columns[0] / FINE + self.column, rows[0] / FINE + self.row
        return left, top, (columns[-1] + 1) / FINE + self.column, (rows[-1] + 1) / FINE + self.row


def draw(size: int, key: Sequence[int]) -> Picture:
    """Draws the picture that belongs to a size in pixels and a key of whole numbers, such as (seed, split, index)."""
    random = np.random.RandomState(list(key))  # frozen streams; those of the newer generators may change
    canvas = _background(random, size)
    for _ in range(random.randint(0, 5)):
        canvas = _paint(canvas, _bar(random, size), random.randint(0, 256, 3))
    shapes = _arrange(random, size)
    for _, mask in shapes:
        canvas = _paint(canvas, mask, _fill(random, canvas, mask))
    for _ in range(random.randint(0, 3)):
        canvas = _paint(canvas, _bar(random, size), random.randint(0, 256, 3))
    grain = random.randint(3, 33)
    canvas = np.clip(canvas + random.randint(-grain, grain + 1, canvas.shape), 0, 255)
    boxes = np.array([mask.box() for _, mask in shapes], np.float64).reshape(-1, 4)
    return Picture(canvas.astype(np.uint8), np.array([kind for kind, _ in shapes], np.int64), boxes)


def _background(random: np.random.RandomState, size: int) -> Int[np.ndarray, 'size size 3']:
    """Random colours on a grid of 2 × 2 (a gradient) to 9 × 9 (a texture), enlarged linearly."""
    cells = random.randint(1, 9)
    base, spread = random.randint(40, 216, 3), random.randint(10, 71)
    grid = base + random.randint(-spread, spread + 1, (cells + 1, cells + 1, 3))
    low, part = np.divmod(np.arange(size) * cells, size)
    rows = grid[low] * (size - part)[:, None, None] + grid[low + 1] * part[:, None, None]
    return (rows[:, low] * (size - part)[:, None] + rows[:, low + 1] * part[:, None]) // size**2


def _arrange(random: np.random.RandomState, size: int) -> list[tuple[int, _Mask]]:
    """One to six (class, mask), back to front; the border and later ones hide at most 40 % of each."""
    owner = np.zeros((size * FINE, size * FINE), np.uint8)
    shapes: list[tuple[int, _Mask]] = []
    areas: list[int] = []
    for _ in range(random.randint(1, 7)):
        kind = random.randint(len(CLASSES))
        mask, area = _shape(random, kind, size)
        covered = owner.copy()
        covered[mask.place(FINE)][mask.inside] = len(shapes) + 1
        seen = np.bincount(covered.ravel(), minlength=len(shapes) + 2)[1:]
        if np.all(seen * 10 >= np.array([*areas, area]) * 6):
            owner, shapes, areas = covered, [*shapes, (kind, mask)], [*areas, area]
    return shapes


def _shape(random: np.random.RandomState, kind: int, size: int) -> tuple[_Mask, int]:
    """A mask with its centre in the image, and its area in fine points before the border cut it."""
    largest = random.randint(size * FINE // 6, size * FINE * 2 // 7)
    radius, degrees = random.randint(size * FINE // 11, largest), random.randint(360)
    centre = random.randint(0, size * FINE, 2)
    y, x, first = _points(centre, radius)
    if CLASSES[kind] in ('circle', 'ring'):
        squared = x * x + y * y
        inside = squared <= radius * radius
        inside &= (squared * 10 >= 3 * radius * radius) | (CLASSES[kind] == 'circle')
    else:
        inside = _polygon(_outline(CLASSES[kind], degrees) * radius // _UNIT, y, x)
    return _crop(inside, first, size), int(inside.sum())


def _outline(name: str, degrees: int) -> Int[np.ndarray, 'n 2']:
    """Corners (y, x) of a class, at most one `_UNIT` from the centre."""
    corners, inner = {'square': (4, 1), 'triangle': (3, 1), 'star': (5, 2)}[name]
    angles = (degrees + np.arange(corners * inner) * 360 // (corners * inner)) % 360
    reach = np.where(np.arange(len(angles)) % inner, _UNIT * 9 // 20, _UNIT)
    return np.stack([_SINE[angles], _SINE[angles + 90]], 1) * reach[:, None] // _UNIT


def _bar(random: np.random.RandomState, size: int) -> _Mask:
    """A straight line one to three pixels wide, up to half an image long: never an object."""
    half, width, degrees = random.randint(size // 4, size), random.randint(2, 7), random.randint(360)
    along = np.array([_SINE[degrees], _SINE[degrees + 90]])
    across = np.array([along[1], -along[0]])
    corners = np.stack([half * along + width * across, half * along - width * across])
    y, x, first = _points(random.randint(0, size * FINE, 2), half + width)
    return _crop(_polygon(np.concatenate([corners, -corners]) // _UNIT, y, x), first, size)


def _points(centre: Int[np.ndarray, '2'], reach: int) -> tuple[np.ndarray, np.ndarray, Int[np.ndarray, '2']]:
    """Fine points around a centre, as offsets from it ([h, 1] and [1, w]), and the first row and column of pixels."""
    first, last = (centre - reach) // FINE, (centre + reach) // FINE + 1
    y, x = (np.arange(low * FINE, high * FINE) - middle for low, high, middle in zip(first, last, centre, strict=True))
    return y[:, None], x[None, :], first


def _polygon(corners: Int[np.ndarray, 'n 2'], y: np.ndarray, x: np.ndarray) -> Bool[np.ndarray, 'h w']:
    """Points inside a polygon: those from which a ray to the left crosses an odd number of edges."""
    inside = np.zeros((y.size, x.size), bool)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        right = (x - x0) * abs(y1 - y0) > (x1 - x0) * (y - y0) * np.sign(y1 - y0)
        inside ^= right & ((y0 > y) != (y1 > y))
    return inside


def _crop(inside: Bool[np.ndarray, 'h w'], first: Int[np.ndarray, '2'], size: int) -> _Mask:
    """The part of a mask that is in the image."""
    low = np.maximum(first, 0)
    skip, stop = (low - first) * FINE, (size - first) * FINE
    return _Mask(int(low[0]), int(low[1]), inside[skip[0] : stop[0], skip[1] : stop[1]])


def _fill(random: np.random.RandomState, canvas: np.ndarray, mask: _Mask) -> Int[np.ndarray, '...']:
    """A colour [3] that differs from what is behind, or two shades of it in stripes [h, w, 3]."""
    behind = canvas[mask.place(1)].sum((0, 1)) // mask.coverage().size
    colour = random.randint(0, 256, 3)
    while np.abs(colour - behind).max() < 45:
        colour = random.randint(0, 256, 3)
    rows, columns = mask.coverage().shape
    slope, period, depth = (
        random.randint(-2, 3, 2),
        random.randint(4, 10),
        random.randint(0, 2) * random.randint(15, 46),
    )
    stripe = (np.arange(rows)[:, None] * slope[0] + np.arange(columns) * slope[1]) % period * 2 >= period
    return np.clip(colour + depth * stripe[:, :, None], 0, 255)


def _paint(canvas: Int[np.ndarray, 'h w 3'], mask: _Mask, colour: np.ndarray) -> Int[np.ndarray, 'h w 3']:
    """The canvas with a colour over it where the mask covers it."""
    canvas = canvas.copy()
    part, weight = canvas[mask.place(1)], mask.coverage()[:, :, None]
    canvas[mask.place(1)] = (part * (FINE**2 - weight) + colour * weight) // FINE**2
    return canvas
