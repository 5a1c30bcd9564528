"""One map over its image: the picture, its region, and a row of the table."""

from __future__ import annotations

import io
import textwrap
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from ..annotations.drawn.predicted import Region
from ..data.enlarge import enlarge
from ..data.figures import blend
from ..metrics.pointing import marked_region

INSIDE = 0.5  # of the way from the minimum to the maximum of a map: in the region
FLAT = 1e-6  # relative range below which a map has no contrast
SMALLEST, SHOWN = 400, 640  # pixels of the longer side of an overlay
LETTER, LINE = 7, 18  # pixels of a letter and a line of its caption
BAR = (120, 12)  # pixels of the bar of colours


class Look(NamedTuple):
    """What is written of one map."""

    row: dict[str, object]
    region: Region
    hit: bool | None  # whether the maximum is in the region that the expert marked; None: none
    png: bytes


def look_at(
    image: Image.Image, text: str, attention: np.ndarray, cosine: float, expert: np.ndarray | None
) -> Look:
    """The row, region and picture of one map (h, w) of an image, enlarged to it.

    Row and region are of the map enlarged bilinearly, as in all measures; the picture is bicubic.
    """
    large = on_image(attention, (image.height, image.width))
    low, high = float(attention.min()), float(attention.max())
    # rounding of a map without contrast marks nothing
    is_flat = high - low <= FLAT * max(abs(low), abs(high))
    mask = np.zeros(large.shape, bool) if is_flat else large >= low + INSIDE * (high - low)
    marked = _marked(expert, large.shape)
    y, x = (int(at) for at in np.unravel_index(large.argmax(), large.shape))
    hit = None if marked is None else bool(marked[y, x])
    row: dict[str, object] = {"text": text, "similarity": f"{cosine:.4f}", "x": x, "y": y}
    row["inside expert's region"] = "" if hit is None else int(hit)
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), SHOWN) / longer
    shown = image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1))
    picture = blend(shown, (attention - low) / ((high - low) or 1))
    facts = f"similarity of image and text: {cosine:.3f}"
    if marked is not None:
        _outline(picture, marked)
        facts += f"\nwhite line: the expert's region; the map's maximum: {'hit' if hit else 'miss'}"
    png = _captioned(picture, text, facts, (low, high))
    return Look(row, Region(text, mask), hit, png)


def on_image(attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) on an image of `size` (height, width), bilinear, float32."""
    values = torch.from_numpy(np.ascontiguousarray(attention, dtype=np.float32))
    return enlarge(values[None], size)[0].numpy()


def _marked(expert: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    """The region (height, width) bool that the expert marked; None without one."""
    if expert is None:
        return None
    return on_image(marked_region(np.asarray(expert)).astype(np.float32), size) >= 0.5


def _outline(picture: Image.Image, marked: np.ndarray) -> None:
    """Draw the border of a region, white on black, so that it is seen on every colour."""
    region = Image.fromarray(np.uint8(marked) * 255).resize(picture.size, Image.Resampling.NEAREST)
    # a margin, so that a region at the edge of the image has a border there
    wide = ImageOps.expand(region, 1, 0)
    edge = ImageOps.crop(ImageChops.subtract(wide, wide.filter(ImageFilter.MinFilter(3))), 1)
    picture.paste("black", mask=edge.filter(ImageFilter.MaxFilter(5)))
    picture.paste("white", mask=edge.filter(ImageFilter.MaxFilter(3)))


def _captioned(picture: Image.Image, text: str, facts: str, values: tuple[float, float]) -> bytes:
    """A PNG of the picture with a text, lines of facts, and the colours of `values` below."""
    width = max(picture.width // LETTER, 20)
    lines = [line for part in (text, *facts.split("\n")) for line in textwrap.wrap(part, width)]
    height = picture.height + LINE * (len(lines) + 1) + 4
    sheet = Image.new("RGB", (picture.width, height), "white")
    sheet.paste(picture, (0, 0))
    font, draw = ImageFont.load_default(14), ImageDraw.Draw(sheet)
    draw.text((4, picture.height), "\n".join(lines), "black", font)
    # the bar of colours, as over grey of an image
    left, top = 4, height - LINE - 1
    low, high = f"map: {values[0]:.3g}", f"{values[1]:.3g}"
    draw.text((left, top), low, "black", font)
    left += round(draw.textlength(low, font)) + 6
    ramp = np.linspace(0, 1, BAR[0], dtype=np.float32)[None]
    sheet.paste(blend(Image.new("L", BAR, 128), ramp), (left, top + 3))
    draw.text((left + BAR[0] + 6, top), high, "black", font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)  # as small as at 6 within 15 %, 3 times as fast
    return buffer.getvalue()
