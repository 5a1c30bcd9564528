"""Compute maps without a full-resolution map: Gaussian responses, area averages and fills.

`scipy.ndimage.gaussian_filter` of an impulse is an outer product of two 1-D responses, and so is
its average over the rectangle of an output pixel. A response is a shifted kernel, plus its mirror
images for mode="reflect". Its sum up to any position is a look-up in the cumulative sum of the
kernel. Each fixation therefore costs a few look-ups per output row, at any size of the image.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

TRUNCATE = 4.0  # SciPy's default: the kernel ends at int(4 sigma + 0.5)
SAMPLES = 16  # slices per pixel column, where an outline is slanted
TOGETHER = 256  # boxes on one grid, which grows with the square of their number


def gaussian_responses(
    position: np.ndarray,
    sigma: np.ndarray,
    length: int,
    count: int,
    *,
    reflect: bool = True,
    window: np.ndarray | None = None,
) -> np.ndarray:
    """Responses to impulses on an axis of `length` pixels, averaged over `count` equal parts.

    Returns float64 (N, count).

    Args:
        position: int (N,), pixels of the impulses, 0 .. length - 1.
        sigma: float (N,), pixels, > 0.
        reflect: fold back the part beyond the axis (SciPy's mode="reflect", period 2 length);
            False drops it.
        window: float (N, 2), keep the part from .. to only (pixels, fractions allowed).
    """
    table, offset, radius = _cumulative_kernels(sigma)
    edges = np.linspace(0, length, count + 1)[None, :]
    bounds = edges if window is None else np.clip(edges, window[:, :1], window[:, 1:])
    total = np.zeros((len(position), count + 1))  # sum of the response up to each bound
    for centre in _mirror_images(position, length, int(radius.max(initial=0)) if reflect else None):
        # the bounds as positions in the cumulative kernel, interpolated between its entries
        in_kernel = np.clip(bounds - centre[:, None] + radius[:, None], 0, 2 * radius[:, None] + 1)
        left = np.minimum(in_kernel.astype(np.int64), 2 * radius[:, None])
        below = table[left + offset[:, None]]
        total += below + (in_kernel - left) * (table[left + offset[:, None] + 1] - below)
    return np.maximum(np.diff(total, axis=1), 0) * (count / length)


def _cumulative_kernels(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cumulative sums of SciPy's kernels, concatenated; equal sigmas share one.

    Returns (sums, offset of each fixation's kernel (N,), radius of it (N,)).
    """
    unique, which = np.unique(sigma, return_inverse=True)
    radii = (TRUNCATE * unique + 0.5).astype(np.int64)
    tables = []
    for s, r in zip(unique, radii):
        kernel = np.exp(-0.5 * (np.arange(-r, r + 1) / s) ** 2)
        tables.append(np.concatenate([[0.0], np.cumsum(kernel / kernel.sum())]))
    starts = np.cumsum([0, *(len(table) for table in tables)])[:-1]
    return np.concatenate(tables) if tables else np.zeros(1), starts[which], radii[which]


def _mirror_images(position: np.ndarray, length: int, reach: int | None) -> list[np.ndarray]:
    """The impulses, and those of their mirror images that are within `reach` of the axis.

    `reach` None: no mirror images.
    """
    if reach is None:
        return [position]
    folds = range(-(reach // (2 * length)) - 1, reach // (2 * length) + 2)
    images = [start + 2 * length * fold for fold in folds for start in (position, -1 - position)]
    return [image for image in images if ((image + reach >= 0) & (image - reach < length)).any()]


def fill_boxes(
    boxes: np.ndarray, weight: np.ndarray, size: tuple[int, int], combine: np.ufunc
) -> np.ndarray:
    """Weights (N,) of boxes, averaged over the area of each pixel, float64 (h, w).

    `boxes` is (N, 4) of xmin, ymin, xmax, ymax in output pixels. `combine`, np.maximum or np.add,
    joins the weights where boxes overlap, before the average: boxes that share an edge within a
    pixel cover all of it.
    """
    values, ends = np.zeros(size), np.tile(size[::-1], 2)
    boxes = np.clip(boxes, 0, ends)
    for first in range(0, len(boxes), TOGETHER):
        group = slice(first, first + TOGETHER)
        # the pixels that the boxes reach: boxes are mostly small
        left, top = np.floor(boxes[group, :2].min(0)).astype(int)
        right, bottom = np.ceil(boxes[group, 2:].max(0)).astype(int)
        part = values[top:bottom, left:right]
        if part.size:
            moved = boxes[group] - np.tile([left, top], 2)
            combine(part, _fill_group(moved, weight[group], part.shape, combine), out=part)
    return values


def _fill_group(
    boxes: np.ndarray, weight: np.ndarray, size: tuple[int, int], combine: np.ufunc
) -> np.ndarray:
    """As `fill_boxes`, on a grid that is cut at the edges of all boxes and of all pixels."""
    cuts, edges, starts = [], [], []
    for axis, length in enumerate(size):  # y, x
        ends = boxes[:, [1 - axis, 3 - axis]]
        cuts.append(np.union1d(np.arange(length + 1), ends))
        edges.append(np.searchsorted(cuts[axis], ends))
        starts.append(np.searchsorted(cuts[axis], np.arange(length)))
    parts = np.zeros((len(cuts[0]) - 1, len(cuts[1]) - 1))
    for (top, bottom), (left, right), value in zip(*edges, weight):
        part = parts[top:bottom, left:right]
        combine(part, value, out=part)
    rows = np.add.reduceat(parts * np.diff(cuts[0])[:, None], starts[0], axis=0)
    return np.add.reduceat(rows * np.diff(cuts[1]), starts[1], axis=1)


def area_average(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average (H, W) over the exact area of each pixel of a grid of `size` (h, w), float64.

    Fractions of pixels are included.
    """
    rows, columns = (_averaging(full, part) for full, part in zip(values.shape, size))
    return rows @ (columns @ np.asarray(values, dtype=np.float64).T).T


def _averaging(length: int, count: int) -> csr_array:
    """The matrix (count, length) of the overlap of each part with each pixel; rows sum to 1."""
    edges = np.linspace(0, length, count + 1)
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    pixel = np.concatenate([np.arange(a, b) for a, b in zip(first, last)])
    part = np.repeat(np.arange(count), last - first)
    share = np.minimum(pixel + 1, edges[part + 1]) - np.maximum(pixel, edges[part])
    return csr_array((share * (count / length), (part, pixel)), shape=(count, length))


def fill_ellipse(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of each pixel covered by the ellipse in `box`, float64 (h, w).

    `box` is xmin, ymin, xmax, ymax in output pixels.
    """
    left, top, right, bottom = box
    cuts = _cuts(left, right, size[1])
    # slices of equal angle, not of equal width: the outline is vertical at both ends
    angle = np.arcsin(np.clip((2 * cuts - left - right) / (right - left), -1, 1))
    angles = angle[:-1, None] + np.diff(angle)[:, None] * (
        np.arange(2 * SAMPLES + 1) / (2 * SAMPLES)
    )
    weight = np.diff((right - left) / 2 * np.sin(angles[:, ::2]), axis=1).ravel()
    half = ((bottom - top) / 2 * np.cos(angles[:, 1::2])).ravel()
    x, middle = np.repeat((cuts[:-1] + cuts[1:]) / 2, SAMPLES), (top + bottom) / 2
    return _fill(
        np.concatenate([x, x]),
        np.concatenate([middle - half, middle + half]),
        np.concatenate([weight, -weight]),
        size,
    )


def fill_polygon(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of each pixel covered by the polygon `outline`, float64 (h, w).

    `outline` is (K, 2) of x, y in output pixels.
    """
    xs, ys, weights = [], [], []
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0)):
        # empty for a vertical edge, below which there is no area
        x, weight = _columns(min(x0, x1), max(x0, x1), size[1])
        xs.append(x)
        ys.append(y0 + (x - x0) * ((y1 - y0) / (x1 - x0)) if len(x) else x)
        weights.append(weight * np.sign(x1 - x0))
    cover = _fill(np.concatenate(xs), np.concatenate(ys), np.concatenate(weights), size)
    return np.minimum(np.abs(cover), 1)  # the sign of the winding number is the outline's direction


def _cuts(left: float, right: float, width: int) -> np.ndarray:
    """Cut left .. right, within the map, at the ends of pixel columns, (K + 1,); [0] if empty."""
    left, right = max(left, 0.0), min(right, float(width))
    if right <= left:
        return np.zeros(1)
    return np.unique(np.concatenate([[left, right], np.arange(np.ceil(left), right)]))


def _columns(left: float, right: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut left .. right into SAMPLES slices per pixel column: (midpoints, widths), both (S,)."""
    cuts = _cuts(left, right, width)
    slices = np.diff(cuts) / SAMPLES
    middles = cuts[:-1, None] + slices[:, None] * (np.arange(SAMPLES) + 0.5)
    return middles.ravel(), np.repeat(slices, SAMPLES)


def _fill(x: np.ndarray, y: np.ndarray, weight: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sum slices that begin at height y and extend to the bottom; exact in y, (h, w)."""
    height, width = size
    y = np.clip(y, 0, height)
    row = np.floor(y).astype(int)
    column = np.minimum(x.astype(int), width - 1)
    # Steps along a column, summed below: the row that contains y gets the part below y, the next
    # row gets the remainder to the full weight
    index = np.concatenate([row, row + 1]) * width + np.concatenate([column, column])
    step = np.concatenate([weight * (row + 1 - y), weight * (y - row)])
    steps = np.bincount(index, step, minlength=(height + 2) * width).reshape(height + 2, width)
    return np.cumsum(steps, axis=0)[:height]
