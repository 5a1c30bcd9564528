"""Render annotations as heatmaps, and merge the heatmaps of several readers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from ..data.images.options import MAX_PIXELS
from .errors import GazeError
from .fixations import Fixations
from .kernels import area_average, fill_boxes, fill_ellipse, fill_polygon, gaussian_responses
from .plausible import describe_off_image
from .shapes import Boxes, Ellipses, Mask, Points, Polygons
from .stored import Annotation, Stored, Union

logger = logging.getLogger(__name__)

# Maximum sigma, in longer sides of the image: wider ones draw flat maps, with kernels as wide
WIDEST = 10
# Minimum number of fixations, all off their image, for a warning; a short sentence may have a few
MANY_OFF = 10
DEFAULT_SIGMA = 150.0  # pixels of the original, the EGD-CXR authors' default
CHOICES = {
    "unit": ("pixels", "width", "degrees"),
    "weight": ("duration", "count"),
    "border": ("reflect", "none"),
    "overlap": ("max", "sum"),
    "normalise": ("max", "sum", "none"),
}
MERGES = ("mean", "noisy-or", "one")


@dataclass(frozen=True)
class RenderConfig:
    """How to draw. The default is the kernel of the EGD-CXR authors, weighted by duration.

    The REFLACX authors use RenderConfig(sigma=1, unit="degrees", border="none", normalise="sum");
    here the kernel is cut at 4 sigma.

    Raises:
        GazeError: an unknown choice, or a sigma that is not positive.
    """

    sigma: float | None = None  # None: 150 pixels for fixations and points, hard edges for areas
    # unit of sigma: "pixels" of the original, share of its "width", or "degrees" of visual angle
    unit: str = "pixels"
    weight: str = "duration"  # weight of a fixation: "duration" in seconds, or "count"
    # the part of a kernel beyond the image is folded back ("reflect"), or dropped ("none")
    border: str = "reflect"
    overlap: str = "max"  # where areas overlap: the larger weight ("max"), or the "sum"
    # divide by the "max" (for training) or by the "sum"; "none": weight per pixel of the original
    normalise: str = "max"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise GazeError(
                    f"render: {name}={getattr(self, name)!r}; expected one of {', '.join(choices)}."
                )
        if self.sigma is None and self.unit != "pixels":
            raise GazeError(
                f"render: unit {self.unit!r} without a sigma; expected both. Try 1 degree or 0.06"
                " of the width."
            )
        if self.sigma is not None and not 0 < self.sigma < np.inf:
            raise GazeError(
                f"render: sigma {self.sigma}; expected a positive number. None draws areas with"
                " hard edges."
            )


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A map, and the number of annotations in it."""

    values: np.ndarray  # float32 (h, w), >= 0, not all zero; maximum 1 unless normalised otherwise
    image_size: tuple[int, int]  # (height, width) of the original
    used: int  # annotations drawn
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> annotations not drawn


def render(
    annotation: Annotation,
    image_size: tuple[int, int],
    size: int | tuple[int, int] = 224,
    config: RenderConfig = RenderConfig(),
) -> Heatmap | None:
    """Draw `annotation`; None if nothing can be drawn (`annotation.usable` gives the reasons).

    Fixations and points: the result of `scipy.ndimage.gaussian_filter` on the weighted impulses,
    averaged over the area of each output pixel, up to rounding. Areas: the covered share of each
    output pixel, blurred at the size of the output if sigma is given.

    Args:
        annotation: in pixels of the original.
        image_size: (height, width) of the original.
        size: (height, width) of the map; a single number is the shorter side, and the map has the
            aspect ratio of the image, as training requires.
        config: see RenderConfig.

    Raises:
        GazeError: sizes below 1 or too large, degrees without pixels per degree, a mask of another
            size, positions in another unit (see `plausible`), or a sigma far wider than the image.
    """
    height, width = image_size
    if min(height, width) < 1:
        raise GazeError(
            f"render: image_size {image_size}; expected (height, width) of at least 1 pixel."
        )
    out = _output_size(image_size, size)
    while isinstance(annotation, Stored):  # what was kept in a file may be a mask in RLE
        annotation = annotation.load()
    if isinstance(annotation, Union):
        return _render_union(annotation, image_size, out, config)
    if isinstance(annotation, Fixations | Points):
        return _render_gaussians(annotation, image_size, out, config)
    if isinstance(annotation, Mask):
        mask, dropped = annotation.usable(image_size)
        values = None if mask is None else area_average(mask.values, out)
        used = 1
    elif isinstance(annotation, Boxes | Ellipses | Polygons):
        areas, dropped = annotation.usable(image_size)
        values = _draw_areas(areas, image_size, out, config.overlap)
        used = len(areas.weight)
    else:
        raise GazeError(
            f"render: an annotation of type {type(annotation).__name__}; expected Fixations,"
            " Points, Boxes, Ellipses, Polygons or Mask."
        )
    if values is not None and config.sigma is not None:
        values = _blur(values, image_size, config, config.sigma)
    return _finish(values, image_size, used, dropped, config)


def _render_union(
    union: Union, image_size: tuple[int, int], out: tuple[int, int], config: RenderConfig
) -> Heatmap | None:
    """The maximum of the maps of all parts, each with the maximum 1."""
    drawn = [render(part, image_size, out, config) for part in union.parts]
    maps = [heatmap for heatmap in drawn if heatmap is not None]
    if not maps:
        return None
    values = np.max([heatmap.values for heatmap in maps], axis=0)
    dropped: Counter[str] = Counter()
    for heatmap in maps:
        dropped.update(heatmap.dropped)
    used = sum(heatmap.used for heatmap in maps)
    return _finish(values.astype(np.float64), image_size, used, dict(dropped), config)


def _output_size(image_size: tuple[int, int], size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the map; GazeError if it is below 1 or too large."""
    if isinstance(size, (int, np.integer)):
        shorter = size
        height, width = (round(size * side / min(image_size)) for side in image_size)
    else:
        shorter = min(size)
        height, width = size
    if shorter < 1:
        raise GazeError(f"render: size {size}; expected at least 1 pixel.")
    if height * width > MAX_PIXELS:
        raise GazeError(
            f"render: a map of {height} x {width} (height x width); expected at most {MAX_PIXELS}"
            " pixels."
        )
    return height, width


def merge(
    heatmaps: Sequence[Heatmap | None], how: str = "mean", *, pick: int | np.random.Generator = 0
) -> Heatmap | None:
    """Merge the maps of several readers of one image, maximum 1; None if no reader has a map.

    Args:
        heatmaps: maps of one size; readers without a map (None) are left out.
        how: "mean"; "noisy-or", 1 - product of (1 - value), high where any reader looked; or "one"
            of the maps.
        pick: for "one": the index among the readers with a map, or a generator to draw it.

    Raises:
        GazeError: an unknown `how`, sizes that differ, values above 1 under noisy-or, or no such
            index.
    """
    if how not in MERGES:
        raise GazeError(f"merge: how={how!r}; expected one of {', '.join(MERGES)}.")
    present = [heatmap for heatmap in heatmaps if heatmap is not None]
    if not present:
        return None
    sizes = {(heatmap.values.shape, tuple(heatmap.image_size)) for heatmap in present}
    if len(sizes) > 1:
        raise GazeError(
            f"merge: maps and images of sizes {sorted(sizes)}; expected one size. Render all"
            " readers at the same size."
        )
    if how == "one":
        index = int(pick.integers(len(present))) if isinstance(pick, np.random.Generator) else pick
        if not 0 <= index < len(present):
            raise GazeError(
                f"merge: pick {index} of {len(present)} maps; expected 0 to {len(present) - 1}."
            )
        return present[index]
    stack = np.stack([heatmap.values for heatmap in present]).astype(np.float64)
    if how == "noisy-or" and stack.max() > 1:
        raise GazeError(
            f"merge: a value of {stack.max():g} under noisy-or; expected probabilities. Render with"
            " normalise='max'."
        )
    values = stack.mean(axis=0) if how == "mean" else 1 - np.prod(1 - stack, axis=0)
    dropped: dict[str, int] = {}
    for heatmap in present:
        for reason, count in heatmap.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return _finish(
        values,
        present[0].image_size,
        sum(heatmap.used for heatmap in present),
        dropped,
        RenderConfig(),
    )


def _render_gaussians(
    annotation: Fixations | Points,
    image_size: tuple[int, int],
    out: tuple[int, int],
    config: RenderConfig,
) -> Heatmap | None:
    """Draw fixations or points as Gaussians."""
    usable: Fixations | Points
    shown = None
    if isinstance(annotation, Fixations):
        usable, dropped = annotation.usable(image_size, config.weight, config.unit)
        weight = usable.duration if config.weight == "duration" else np.ones(len(usable))
        shown = usable.shown
    else:
        usable, dropped = annotation.usable(image_size)
        weight = usable.weight
    if len(usable.x) == 0:
        if dropped.get("off image", 0) >= MANY_OFF:
            logger.warning(
                "eclip: all %d valid positions lie off the image of %d x %d (height x width):"
                " nothing is drawn",
                dropped["off image"],
                *image_size,
            )
        return None
    xy = np.stack([annotation.x, annotation.y], axis=1)
    if warning := describe_off_image(dropped.get("off image", 0), xy, image_size):
        logger.warning("eclip: %s", warning)
    sigma_y, sigma_x = _sigmas(usable, image_size, config)
    reflect = config.border == "reflect"
    rows = gaussian_responses(
        usable.y.astype(np.int64),
        sigma_y,
        image_size[0],
        out[0],
        reflect=reflect,
        window=None if shown is None else shown[:, 1::2],
    )
    columns = gaussian_responses(
        usable.x.astype(np.int64),
        sigma_x,
        image_size[1],
        out[1],
        reflect=reflect,
        window=None if shown is None else shown[:, 0::2],
    )
    outside = int((rows.sum(axis=1) * columns.sum(axis=1) == 0).sum())
    if outside:
        dropped["kernel outside its window"] = outside
    values = (rows * weight[:, None]).T @ columns  # the sum of the outer products, (h, w)
    return _finish(values, image_size, len(usable.x) - outside, dropped, config)


def _sigmas(
    usable: Fixations | Points, image_size: tuple[int, int], config: RenderConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Sigma along y and along x in pixels of the original, each (N,)."""
    if config.unit == "degrees":
        if isinstance(usable, Points):
            raise GazeError(
                "render: sigma in degrees for points; expected pixels or a share of the width. A"
                " click has no visual angle."
            )
        # RenderConfig requires a sigma with degrees, `usable` a resolution
        assert config.sigma is not None and usable.ppd_y is not None and usable.ppd_x is not None
        along_y, along_x = config.sigma * usable.ppd_y, config.sigma * usable.ppd_x
    else:
        sigma = (
            DEFAULT_SIGMA
            if config.sigma is None
            else config.sigma * (image_size[1] if config.unit == "width" else 1)
        )
        along_y = along_x = np.full(len(usable.x), sigma)
    _refuse_wide(max(float(along_y.max()), float(along_x.max())), image_size, config)
    return along_y, along_x


def _refuse_wide(sigma: float, image_size: tuple[int, int], config: RenderConfig) -> None:
    """Raise a GazeError if sigma, in pixels, is far wider than the image.

    The default of 150 pixels is never too wide: small images are drawn with it, too.
    """
    if config.sigma is not None and sigma > max(WIDEST * max(image_size), DEFAULT_SIGMA):
        raise GazeError(
            f"render: a sigma of {sigma:.4g} pixels on an image of {image_size[0]} x"
            f" {image_size[1]} (height x width); expected one narrower than the image. Is its unit"
            " right?"
        )


def _draw_areas(
    areas: Boxes | Ellipses | Polygons,
    image_size: tuple[int, int],
    out: tuple[int, int],
    overlap: str,
) -> np.ndarray:
    """Weighted coverage of each output pixel, float64 (h, w)."""
    scale = np.array([out[1] / image_size[1], out[0] / image_size[0]])  # x, y
    combine = np.add if overlap == "sum" else np.maximum
    if isinstance(areas, Boxes):
        return fill_boxes(areas.xyxy * np.tile(scale, 2), areas.weight, out, combine)
    values = np.zeros(out)
    for i, weight in enumerate(areas.weight):
        if isinstance(areas, Ellipses):
            cover = fill_ellipse(areas.xyxy[i] * np.tile(scale, 2), out)
        else:
            cover = fill_polygon(areas.outlines[i] * scale, out)
        combine(values, weight * cover, out=values)
    return values


def _blur(
    values: np.ndarray, image_size: tuple[int, int], config: RenderConfig, sigma: float
) -> np.ndarray:
    """Blur a map of areas at the size of the output."""
    if config.unit == "degrees":
        raise GazeError(
            "render: sigma in degrees for an area; expected pixels, a share of the width, or None"
            " for hard edges."
        )
    sigma *= image_size[1] if config.unit == "width" else 1
    _refuse_wide(sigma, image_size, config)
    scaled = [sigma * part / full for part, full in zip(values.shape, image_size)]
    return gaussian_filter(
        values, scaled, mode="reflect" if config.border == "reflect" else "constant"
    )


def _finish(
    values: np.ndarray | None,
    image_size: tuple[int, int],
    used: int,
    dropped: dict[str, int],
    config: RenderConfig,
) -> Heatmap | None:
    """Normalise a map; None if it is empty."""
    if values is None or not values.max() > 0:
        return None
    values = np.maximum(values, 0)  # cumulative sums may leave -1e-17
    if config.normalise != "none":
        values = values / (values.max() if config.normalise == "max" else values.sum())
    height, width = image_size
    return Heatmap(values.astype(np.float32), (height, width), used, dropped)
