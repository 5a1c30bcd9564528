"""Write regions as pre-annotations of Label Studio: brush strokes that an expert corrects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from .brush import encode_brush
from .predicted import Predicted, Region, at_size, check_new, whole_file

FROM, TO = "label", "image"  # names of the tags in `labelling_interface`
LOCAL = "/data/local-files/?d="


def write_label_studio(
    path: Path, images: Iterable[Predicted], model_version: str, prefix: str = ""
) -> dict[str, int]:
    """Write one file of tasks, an image at a time; empty regions are not written.

    Args:
        path: the JSON to import in Label Studio.
        images: their regions; masks are written at the size of the image.
        model_version: what Label Studio shows as the author.
        prefix: what comes before the name of an image: LOCAL for files that Label Studio serves,
            or the address of a store.

    Returns:
        counts of "images", "regions" and "empty regions".

    Raises:
        UserError: an image comes twice.
    """
    known: set[str] = set()
    written = empty = 0
    with whole_file(path) as file:
        file.write("[")
        for name, size, regions in images:
            check_new(name, known, path)
            results = [
                result
                for i, region in enumerate(regions, 1)
                if (result := _result(region, size, f"{len(known)}-{i}")) is not None
            ]
            scores = [region["score"] for region in results if "score" in region]
            prediction: dict[str, Any] = {"model_version": model_version, "result": results}
            if scores:
                prediction["score"] = sum(scores) / len(scores)
            address = f"{prefix}{quote(name) if prefix else name}"
            task = {"data": {TO: address}, "predictions": [prediction]}
            file.write(f"{',' if len(known) > 1 else ''}\n{json.dumps(task)}")
            written += len(results)
            empty += len(regions) - len(results)
        file.write("]\n")
    return {"images": len(known), "regions": written, "empty regions": empty}


def labelling_interface(labels: Iterable[str]) -> str:
    """The XML of a labelling interface that shows these pre-annotations."""
    names = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    return (
        f'<View>\n  <Image name="{TO}" value="${TO}" zoom="true"/>\n'
        f'  <BrushLabels name="{FROM}" toName="{TO}">\n{names}  </BrushLabels>\n</View>\n'
    )


def _result(region: Region, size: tuple[int, int], identity: str) -> dict[str, Any] | None:
    """A brush stroke; None for an empty region."""
    label, mask, score = region
    mask = at_size(mask, size)
    if not mask.any():
        return None
    result = {
        "id": identity,
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]},
    }
    if score is not None:
        result["score"] = float(score)
    return result
