"""Write a result to disk: result.json, predictions.npz, figures and the HTML page."""

from __future__ import annotations

import io
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ...config import UserError
from ...files import write_whole
from ...json_text import read_json
from ...version import __version__
from .html_page import render_report
from .result import Result, markdown, plain


def versions() -> dict[str, str]:
    return {
        "openclip_eclip": __version__,
        "open_clip_torch": version("open_clip_torch"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def refuse_foreign_folder(out: Path, task: str, unfinished: str = "") -> None:
    """UserError: `out` holds files, but no earlier result of this task.

    `unfinished`: name of a file that an unfinished run of the task leaves.
    """
    if not out.exists() or not any(out.iterdir()) or (unfinished and (out / unfinished).is_file()):
        return
    earlier = out / "result.json"
    earlier_task = read_json(earlier).get("task") if earlier.is_file() else None
    if earlier_task != task:
        content = f"a result of {earlier_task}" if earlier_task else "files that are not a result"
        raise UserError(
            f"{out} holds {content};"
            f" expected a new or empty folder, or an earlier result of {task}."
        )


def write_result(result: Result, out: Path) -> None:
    """Write all files of a result; result.json is last, so a folder with it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for stem, figure in result.figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        pictures[stem] = buffer.getvalue()
        write_whole(out / f"{stem}.png", pictures[stem])
    if result.predictions:
        buffer = io.BytesIO()
        # numpy's stub takes any name for its own flag allow_pickle
        np.savez_compressed(buffer, **result.predictions)  # type: ignore[arg-type]
        write_whole(out / "predictions.npz", buffer.getvalue())
    record = {
        "task": result.task,
        "settings": result.settings,
        "versions": versions(),
        "values": result.values,
        "notes": result.notes,
    }
    write_whole(out / "result.md", markdown(result).encode())
    write_whole(out / "report.html", render_report(result, record, pictures).encode())
    write_whole(out / "result.json", json.dumps(plain(record), indent=2, allow_nan=False).encode())
