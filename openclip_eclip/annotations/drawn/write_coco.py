"""Write regions as COCO JSON, with masks in the packed RLE form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ...gaze import GazeError
from .predicted import Predicted, at_size, check_new, whole_file


def write_coco(path: Path, images: Iterable[Predicted], description: str = "") -> dict[str, int]:
    """Write one file, an image at a time; empty regions are not written.

    A mask is written at the size of its image, and `score` where there is one.

    Returns:
        counts of "images", "regions" and "empty regions".

    Raises:
        UserError: an image comes twice.
    """
    pictures: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    known: set[str] = set()
    written = empty = 0
    with whole_file(path) as file:
        file.write(f'{{"info": {json.dumps({"description": description})},\n"annotations": [')
        for name, size, regions in images:
            check_new(name, known, path)
            pictures.append(
                {"id": len(pictures) + 1, "file_name": name, "height": size[0], "width": size[1]}
            )
            for region in regions:
                mask = at_size(region.mask, size)
                if not mask.any():
                    empty += 1
                    continue
                category = categories.setdefault(region.label, len(categories) + 1)
                written += 1
                record = {
                    "id": written,
                    "image_id": len(pictures),
                    "category_id": category,
                    "segmentation": {"size": list(size), "counts": pack_rle(mask)},
                    "area": int(mask.sum()),
                    "bbox": _box(mask),
                    "iscrowd": 0,
                }
                if region.score is not None:
                    record["score"] = float(region.score)
                file.write(f"{',' if written > 1 else ''}\n{json.dumps(record)}")
        names = [{"id": number, "name": name} for name, number in categories.items()]
        file.write(f'],\n"images": {json.dumps(pictures)},\n"categories": {json.dumps(names)}}}\n')
    return {"images": len(pictures), "regions": written, "empty regions": empty}


def _box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of what is inside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def pack_rle(mask: np.ndarray) -> str:
    """The packed counts of a mask, bool (height, width); `decode_rle` of kind "coco" reads them.

    Raises:
        GazeError: no pixels.
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")  # down the columns
    if not len(flat):
        raise GazeError("rle: a mask without pixels; expected at least one.")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], [0] if flat[0] else [], edges, [len(flat)]]).astype(np.int64)
    counts = np.diff(starts)
    # from the fourth on, the difference from the count two before
    stored = np.concatenate([counts[:3], counts[3:] - counts[1:-2]]).tolist()
    return "".join(map(_pack, stored))


def _pack(value: int) -> str:
    """Groups of 5 bits, the lowest first; bit 6: another follows; bit 5 of the last: the sign."""
    text = ""
    while True:
        group = value & 0x1F
        value >>= 5
        ends = value == (-1 if group & 0x10 else 0)
        text += chr((group if ends else group | 0x20) + 48)
        if ends:
            return text
