"""A page and a picture of the annotated samples, to be looked at before training."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from ...data.figures import blend, contact_sheet
from ...data.heatmap import decode_heatmap
from ...data.sentence_windows import decode_windows
from ...data.sheet_samples import SHEET, spread
from ...files import write_whole
from ...json_text import counted
from ..images import ImageError
from ..options import Options
from ..plan import Item, Plan
from ..write_sample import Written, write_sample

SAMPLES = 30  # on the page, drawn at random
SHOWN = 420  # pixels of the longer side of a picture on the page
SEED = 0
PAGE, PICTURE = "overlays.html", "contact_sheet.png"


def write_gallery(plan: Plan, options: Options) -> list[str]:
    """Write OUT/overlays.html and OUT/contact_sheet.png; returns lines that name them.

    The same samples are drawn for the same data. Nothing is written if no sample is annotated.
    """
    draws = np.random.default_rng(SEED)
    of_image: dict[Path, list[Item]] = {}
    for item in (item for items in plan.splits.values() for item in items):
        if item.annotations or item.windows:
            of_image.setdefault(item.image, []).append(item)
    # an image with several texts is shown once, with any of them
    annotated = [items[draws.integers(len(items))] for items in of_image.values()]
    order = draws.permutation(len(annotated))[:SAMPLES]
    samples = []
    for index in sorted(order):
        try:
            written = write_sample(annotated[index], options)
        except (ImageError, FileNotFoundError):
            continue  # --on-bad-sample skip: the writer has counted it
        if written.heatmap is not None or written.windows is not None:
            samples.append((annotated[index], written))
    if not samples:
        return []
    sheet = [
        (written.image, written.heatmap, f"{item.key}.png", item.text)
        for item, written in samples
        if written.heatmap is not None
    ]
    windows = [
        (written.image, decode_windows(*written.windows, item.key), item.key)
        for item, written in samples[:4]
        if written.windows is not None
    ]
    contact_sheet(spread(len(sheet), sheet.__getitem__, SHEET), options.out / PICTURE, windows)
    write_whole(options.out / PAGE, _page(plan, samples).encode())
    shown = counted(len(samples), "sample")
    return [f"look at them: {options.out / PAGE} ({shown}), {options.out / PICTURE}"]


def _page(plan: Plan, samples: list[tuple[Item, Written]]) -> str:
    """The page, with all pictures in it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = (Path(__file__).parent / "overlays.html.jinja").read_text(encoding="utf-8")
    entries = []
    for item, written in samples:
        image = Image.open(io.BytesIO(written.image)).convert("RGB")
        image.thumbnail((SHOWN, SHOWN))
        pictures = [("", _data(image))]
        if written.heatmap is not None:
            values = decode_heatmap(written.heatmap, f"{item.key}.png")
            pictures.append(("all annotations", _data(blend(image, values))))
        if written.windows is not None:
            windows = decode_windows(*written.windows, item.key)
            pictures += [
                (sentence, _data(blend(image, values / np.float32(values.max()))))
                for sentence, values in zip(windows.sentences, windows.heatmaps)
            ]
        entries.append({"key": item.key, "text": item.text, "pictures": pictures})
    return environment.from_string(template).render(entries=entries, summary=plan.summary())


def _data(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
