"""Good inputs, from which the bad ones are made.

They are images, heatmaps, tables, shards, a model, a run and an index, made once by child
processes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .harness import ROOT, finish, run_command, start

Maker = Callable[[Path], Sequence[object]]
SIDE, COUNT = 48, 8
WORDS = ("nodule", "effusion", "cardiomegaly", "normal", "opacity", "fracture", "edema", "mass")
CONFIG = json.loads((ROOT / "examples" / "configs" / "tiny" / "open_clip_config.json").read_text())
SETTINGS = (
    *("--precision", "fp32"),
    *("--workers", 0),
    *("--device", "cpu"),
    *("--batch-size", 4),
    *("--epochs", 1),
    *("--warmup", 1),
    *("--lr", 1e-3),
    *("--log-every-n-steps", 1),
    *("--logs", "logs"),
    *("--name", "run"),
)


def world() -> Path:
    """The folder of the good inputs."""
    return Path(os.environ["BAD_INPUTS_WORLD"])


def pixels(i: int, side: int = SIDE) -> np.ndarray:
    """Image number i, (side, side) uint8: noise around a gradient."""
    return np.clip(
        np.random.default_rng(i).normal(90 + 10 * i, 30, (side, side)) + np.arange(side), 0, 255
    ).astype(np.uint8)


def heat(i: int) -> np.ndarray:
    """Heatmap number i, (SIDE, SIDE) uint8."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[4 + i : 20 + i, 10:30] = np.arange(20, dtype=np.uint8) * 10 + 20
    return values


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def npy(values: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def npz(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def sample(i: int) -> dict[str, bytes]:
    """The members of a good sample, {name: content}."""
    return {
        f"s{i}.png": png(pixels(i)),
        f"s{i}.txt": f"Finding {WORDS[i % 8]} number {i}.".encode(),
        f"s{i}.heatmap.png": png(heat(i)),
    }


def shard(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def rows(count: int = COUNT) -> list[str]:
    """The lines of a good table, with its header."""
    lines = ["filepath,title,heatmap,label,patient,fold"]
    for i in range(count):
        heatmap, fold = f"images/{i}.heatmap.png" if i % 2 else "", ("train", "test")[i % 4 == 0]
        text = f"Finding {WORDS[i]} number {i}."
        lines.append(f"images/{i}.png,{text},{heatmap},{i % 2},{i},{fold}")
    return lines


def link_images(folder: Path) -> None:
    """Links the good images into the folder of a case."""
    if not (folder / "images").exists():
        (folder / "images").symlink_to(world() / "images")


def table(folder: Path, lines: Sequence[str] | None = None, name: str = "train.csv") -> Path:
    """Writes a table of `lines` (default: good ones), with the images beside it."""
    link_images(folder)
    path = folder / name
    path.write_text("\n".join(rows() if lines is None else lines) + "\n", encoding="utf-8")
    return path


def put(files: Mapping[str, bytes | str], command: Sequence[object]) -> Maker:
    """Makes a case of these files, the good images, and the command that reads them."""

    def make(folder: Path) -> Sequence[object]:
        link_images(folder)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return command

    return make


def model(name: str = "model") -> str:
    return f"local-dir:{world() / name}"


def train(*flags: object, model_name: str | None = None) -> list[object]:
    """The command of a small training run; later flags override earlier ones."""
    return [
        "train",
        "--model",
        model_name or f"local-dir:{ROOT / 'examples' / 'configs' / 'tiny'}",
        *SETTINGS,
        *flags,
    ]


def evaluate(task: str, *flags: object) -> list[object]:
    """The command of an evaluation of the good model."""
    return [
        "evaluate",
        task,
        *("--model", model()),
        *("--device", "cpu"),
        *("--workers", 0),
        *("--cache", "none"),
        *("--out", "out"),
        *flags,
    ]


def build(folder: Path) -> None:
    """Makes all good inputs in `folder`.

    Raises:
        RuntimeError: a command failed; the message holds its output.
    """
    os.environ["BAD_INPUTS_WORLD"] = str(folder)
    (folder / "images").mkdir(parents=True)
    for i in range(COUNT):
        (folder / "images" / f"{i}.png").write_bytes(png(pixels(i)))
        (folder / "images" / f"{i}.heatmap.png").write_bytes(png(heat(i)))
    table(folder)
    shard(
        folder / "good.tar",
        {name: content for i in range(COUNT) for name, content in sample(i).items()},
    )
    (folder / "classes.txt").write_text("normal\nopacity\n")
    (folder / "templates.txt").write_text("a chest image with {c}\n")
    _in_child(folder, _write_model)
    _in_child(
        folder, lambda: run_command(train("--train-data", "train.csv", "--save-frequency", 1))
    )
    _in_child(
        folder,
        lambda: run_command(evaluate("retrieval", "--data", "train.csv", "--save-index", "index")),
    )
    shutil.rmtree(folder / "out")
    half = [rows()[0], *rows()[1:5]], [rows()[0], *rows()[5:]]
    for name, lines in zip(("test.csv", "other.csv"), half):
        table(folder, lines, name)
    _in_child(
        folder,
        lambda: run_command(
            evaluate(
                "reports",
                *("--data", "test.csv"),
                *("--train-data", "other.csv"),
                *("--writer", "copy"),
                *("--save-index", "reports_index"),
                *("--snippets", 2),
            )
        ),
    )


def _write_model() -> int:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    built = open_clip.create_model(
        f"local-dir:{ROOT / 'examples' / 'configs' / 'tiny'}", load_weights=False
    )
    target = Path("model")
    target.mkdir()
    (target / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_file(
        {key: value.contiguous() for key, value in built.state_dict().items()},
        target / "open_clip_model.safetensors",
    )
    return 0


def _in_child(folder: Path, work: object) -> None:
    began = time.monotonic()
    outcome = finish(start(work, folder), folder, began, 120)
    if outcome.code:
        raise RuntimeError(
            f"the good inputs cannot be made (exit code {outcome.code}):\n{outcome.output[-3000:]}"
        )
