"""The arithmetic of maps: separable Gaussian responses, exact area averages, exact fills. No
full-resolution map is made.

`scipy.ndimage.gaussian_filter` of an impulse is an outer product of two 1-D responses, and so is
its average over the rectangle of an output pixel. A response is a shifted kernel, plus its mirror
images for mode="reflect"; its sum up to any place is a look-up in the kernel's running sum. So
every output row costs a few look-ups a fixation, at any size of the image.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

TRUNCATE = 4.0  # SciPy's default: the kernel ends at int(4 sigma + 0.5)
SAMPLES = 16  # columns in a column, where an outline is slanted


def gaussian_responses(
    position: np.ndarray,
    sigma: np.ndarray,
    length: int,
    count: int,
    *,
    reflect: bool = True,
    window: np.ndarray | None = None,
) -> np.ndarray:
    """Responses of `length` pixels to impulses at pixels `position`, averaged over `count` equal
    parts, float64 (N, count).

    Args:
        position: int (N,), 0 .. length - 1.
        sigma: float (N,), pixels, > 0.
        reflect: fold what leaves the axis back (SciPy's mode="reflect", period 2 length); False: it
            is lost.
        window: float (N, 2), keep only from .. to (pixels, fractions allowed).
    """
    table, offset, radius = _running_sums(sigma)
    edges = np.linspace(0, length, count + 1)[None, :]
    places = edges if window is None else np.clip(edges, window[:, :1], window[:, 1:])
    total = np.zeros((len(position), count + 1))
    for centre in _images(position, length, int(radius.max(initial=0)) if reflect else None):
        near = np.clip(places - centre[:, None] + radius[:, None], 0, 2 * radius[:, None] + 1)
        left = np.minimum(near.astype(np.int64), 2 * radius[:, None])
        below = table[left + offset[:, None]]
        total += below + (near - left) * (table[left + offset[:, None] + 1] - below)
    return np.maximum(np.diff(total, axis=1), 0) * (count / length)


def _running_sums(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Running sums of SciPy's kernels end to end, and each fixation's offset into them and radius;
    equal sigmas share one.
    """
    unique, which = np.unique(sigma, return_inverse=True)
    radii = (TRUNCATE * unique + 0.5).astype(np.int64)
    tables = []
    for s, r in zip(unique, radii):
        kernel = np.exp(-0.5 * (np.arange(-r, r + 1) / s) ** 2)
        tables.append(np.concatenate([[0.0], np.cumsum(kernel / kernel.sum())]))
    starts = np.cumsum([0, *(len(table) for table in tables)])[:-1]
    return np.concatenate(tables) if tables else np.zeros(1), starts[which], radii[which]


def _images(position: np.ndarray, length: int, reach: int | None) -> list[np.ndarray]:
    """The impulses and their mirror images that come within `reach` of the axis; None: no
    mirrors.
    """
    if reach is None:
        return [position]
    folds = range(-(reach // (2 * length)) - 1, reach // (2 * length) + 2)
    images = [start + 2 * length * fold for fold in folds for start in (position, -1 - position)]
    return [image for image in images if ((image + reach >= 0) & (image - reach < length)).any()]


def interval_overlaps(low: np.ndarray, high: np.ndarray, length: int, count: int) -> np.ndarray:
    """Share of each of `count` equal parts of 0 .. length that lies in low .. high, float64 (N,
    count).
    """
    edges = np.linspace(0, length, count + 1)[None, :]
    return np.diff(np.clip(edges, low[:, None], high[:, None]), axis=1) * (count / length)


def area_average(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average (H, W) over the exact area of each pixel of an (h, w) grid, fractions of pixels
    included; float64.
    """
    rows, columns = (_averaging(full, part) for full, part in zip(values.shape, size))
    return rows @ (columns @ np.asarray(values, dtype=np.float64).T).T


def _averaging(length: int, count: int) -> csr_array:
    """The (count, length) matrix of shares: each output part's overlap with each pixel, rows adding
    up to 1.
    """
    edges = np.linspace(0, length, count + 1)
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    pixel = np.concatenate([np.arange(a, b) for a, b in zip(first, last)])
    part = np.repeat(np.arange(count), last - first)
    share = np.minimum(pixel + 1, edges[part + 1]) - np.maximum(pixel, edges[part])
    return csr_array((share * (count / length), (part, pixel)), shape=(count, length))


def fill_ellipse(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Covered share of each pixel by the ellipse in `box` (xmin, ymin, xmax, ymax in output
    pixels), float64 (h, w).
    """
    left, top, right, bottom = box
    cuts = _cuts(left, right, size[1])
    # equal slices of the angle, not of x: the outline is vertical at both ends
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
    """Covered share of each pixel by the polygon (K, 2) of x, y in output pixels, float64
    (h, w).
    """
    xs, ys, weights = [], [], []
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0)):
        # empty for a vertical edge, which bounds no area below it
        x, weight = _columns(min(x0, x1), max(x0, x1), size[1])
        xs.append(x)
        ys.append(y0 + (x - x0) * ((y1 - y0) / (x1 - x0)) if len(x) else x)
        weights.append(weight * np.sign(x1 - x0))
    cover = _fill(np.concatenate(xs), np.concatenate(ys), np.concatenate(weights), size)
    return np.minimum(np.abs(cover), 1)  # the winding number's sign is the direction of the outline


def _cuts(left: float, right: float, width: int) -> np.ndarray:
    """left .. right within the map, cut where a pixel column ends, (K + 1,); a single 0 for
    nothing.
    """
    left, right = max(left, 0.0), min(right, float(width))
    return (
        np.unique(np.concatenate([[left, right], np.arange(np.ceil(left), right)]))
        if right > left
        else np.zeros(1)
    )


def _columns(left: float, right: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of SAMPLES slices of each pixel column's part within left .. right, and the slices'
    widths, both (S,).
    """
    cuts = _cuts(left, right, width)
    slices = np.diff(cuts) / SAMPLES
    middles = cuts[:-1, None] + slices[:, None] * (np.arange(SAMPLES) + 0.5)
    return middles.ravel(), np.repeat(slices, SAMPLES)


def _fill(x: np.ndarray, y: np.ndarray, weight: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sum of slices that begin at height y and reach to the bottom: exact in y, (h, w)."""
    height, width = size
    y = np.clip(y, 0, height)
    row = np.floor(y).astype(int)
    column = np.minimum(x.astype(int), width - 1)
    # steps along the column: the row holding y gets the part below y, the next row what is missing
    # to the whole
    place = np.concatenate([row, row + 1]) * width + np.concatenate([column, column])
    step = np.concatenate([weight * (row + 1 - y), weight * (y - row)])
    steps = np.bincount(place, step, minlength=(height + 2) * width).reshape(height + 2, width)
    return np.cumsum(steps, axis=0)[:height]
