"""Convert annotations of experts to heatmaps.

Annotations are fixations, points, boxes, ellipses, polygons or masks.

    fixations = Fixations(x, y, duration)  # pixels of the original image, seconds
    heatmap = render(fixations, image_size=(3056, 2544), size=224, config=RenderConfig(sigma=150))
    if heatmap is not None:  # None: nothing can be drawn, the sample is not annotated
        save_heatmap(heatmap, "image.png")

Conventions: sizes are (height, width); x grows to the right, y down; pixel i covers
i <= x < i + 1.
"""

from .errors import GazeError
from .files import save_heatmap, write_manifest
from .fixations import Fixations
from .kernels import area_average
from .render import Heatmap, RenderConfig, merge, render
from .rle import decode_rle
from .shapes import Boxes, Ellipses, Mask, Points, Polygons
from .stored import Annotation, MaskFile, RleMask, Union

__all__ = [
    "Annotation",
    "Boxes",
    "Ellipses",
    "Fixations",
    "GazeError",
    "Heatmap",
    "Mask",
    "MaskFile",
    "Points",
    "Polygons",
    "RenderConfig",
    "RleMask",
    "Union",
    "area_average",
    "decode_rle",
    "merge",
    "render",
    "save_heatmap",
    "write_manifest",
]
