"""Write heatmaps as PNG files that training reads, and a manifest of how a set was made."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
from PIL import Image

from ..files import sha256, write_whole
from ..version import __version__
from .errors import GazeError
from .render import Heatmap

MANIFEST = "manifest.json"


def save_heatmap(heatmap: Heatmap, path: str | Path, bits: int = 8) -> Path:
    """Write a grey PNG of 8 or 16 bits, complete or not at all; training reads both.

    The maximum of the map becomes 255 or 65535. A 16-bit map of smooth gaze is six times larger (90
    instead of 15 kB at 224 x 269), because its lower bytes do not compress.

    Raises:
        GazeError: a path without .png, or other bits.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise GazeError(
            f"heatmap file {path.name!r}; expected a name that ends in .png, which stores grey"
            " values exactly."
        )
    if bits not in (8, 16):
        raise GazeError(f"heatmap file {path.name!r}: {bits} bits; expected 8 or 16.")
    top = 2**bits - 1
    scaled = heatmap.values.astype(np.float64) / heatmap.values.max() * top
    stream = io.BytesIO()
    Image.fromarray(np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)).save(
        stream, "PNG"
    )
    write_whole(path, stream.getvalue())
    return path


def write_manifest(
    folder: str | Path,
    parameters: Mapping[str, Any],
    inputs: Iterable[str | Path],
    counts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder`/manifest.json: parameters, versions, and the SHA-256 of every input.

    Args:
        folder: an existing folder.
        parameters: a mapping that JSON can hold, such as dataclasses.asdict of a RenderConfig.
        inputs: the files that the maps were made from.
        counts: maps written, annotations used and dropped.

    Raises:
        GazeError: an input that is no file, or a value that JSON cannot hold.
    """
    record = {
        "parameters": dict(parameters),
        "versions": {
            "openclip_eclip": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pillow": PIL.__version__,
        },
        "inputs": [_fingerprint(Path(path)) for path in inputs],
        "counts": dict(counts or {}),
    }
    try:
        text = json.dumps(record, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GazeError(
            f"manifest: {error}; expected plain numbers, text, lists, mappings. Convert numpy"
            " scalars with .item()."
        ) from error
    path = Path(folder) / MANIFEST
    write_whole(path, text.encode() + b"\n")
    return path


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
    except OSError as error:
        raise GazeError(
            f"manifest: input {str(path)!r} cannot be read ({error}); expected a file."
        ) from error
