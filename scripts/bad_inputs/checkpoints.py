"""Damaged and foreign checkpoints, which are resumed, exported and evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .configs import FILE
from .harness import Case
from .world import Maker, put, table, train, world


def run_copy(change: Callable[[Path], object], command: list[object]) -> Maker:
    """A case with a copy of the good run in logs/run, whose checkpoint `change(file)` changes."""

    def make(folder: Path) -> list[object]:
        shutil.copytree(world() / "logs", folder / "logs")
        change(folder / "logs" / "run" / "checkpoints" / "epoch_1.pt")
        table(folder)
        return command

    return make


def flip(position: float, count: int = 64) -> Callable[[Path], object]:
    """Changes `count` bytes at a position, given as a share of the file's length."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first = int(len(content) * position)
        content[first : first + count] = bytes(
            value ^ 0x55 for value in content[first : first + count]
        )
        path.write_bytes(content)

    return change


def saved(edit: Callable[[dict], object]) -> Callable[[Path], object]:
    """Saves the checkpoint again with changed content."""

    def change(path: Path) -> None:
        import torch

        content = torch.load(path, weights_only=True)
        content = edit(content) or content
        torch.save(content, path)

    return change


class Evil:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch ran_code",)


def _nan(content: dict) -> None:
    key = next(name for name in content["state_dict"] if name.endswith("visual.proj"))
    content["state_dict"][key] = content["state_dict"][key] * float("nan")


def _checkpoint_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    export = ["export", "logs/run", "exported"]
    resume = train(
        *("--train-data", "train.csv"),
        *("--epochs", 2),
        *("--resume", "logs/run/checkpoints/epoch_1.pt"),
        *("--name", "again"),
    )
    measured = [
        "evaluate",
        "retrieval",
        *("--model", "logs/run"),
        *("--device", "cpu"),
        *("--workers", 0),
        *("--cache", "none"),
        *("--out", "out"),
        *("--data", "train.csv"),
    ]
    damages = [
        (
            "cut in half",
            lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
        ),
        ("empty", lambda path: path.write_bytes(b"")),
        ("text", lambda path: path.write_text("hello")),
        ("bytes flipped early", flip(0.3)),
        ("bytes flipped late", flip(0.8)),
        ("a pickle that runs code", saved(lambda content: {**content, "extra": Evil()})),
        ("a list", saved(lambda content: [1, 2])),
        ("no state_dict", saved(lambda content: {"epoch": 1})),
        (
            "a tensor of another shape",
            saved(
                lambda content: content["state_dict"].update(
                    {
                        key: value[:1]
                        for key, value in content["state_dict"].items()
                        if key.endswith("visual.proj")
                    }
                )
            ),
        ),
        (
            "a zip of a text",
            lambda path: __import__("zipfile").ZipFile(path, "w").writestr("a.txt", "hello"),
        ),
    ]
    for number, (name, change) in enumerate(damages):
        yield f"{name}, export", run_copy(change, export), ("epoch_1.pt|checkpoints",)
        yield f"{name}, resume", run_copy(change, resume), ("epoch_1.pt",)
        if number % 2 == 0:
            yield (
                f"{name}, evaluate",
                run_copy(change, measured),
                ("epoch_1.pt|checkpoints|logs/run",),
            )
    yield (
        "weights of NaN, export",
        run_copy(saved(_nan), export),
        ("epoch_1.pt|visual.proj", "NaN|finite"),
    )
    yield "weights of NaN, evaluate", run_copy(saved(_nan), measured), ("NaN",)
    yield (
        "of another method",
        run_copy(lambda path: None, [*resume, "--method", "clip"]),
        ("epoch_1.pt", "method"),
    )
    yield (
        "of another model",
        run_copy(lambda path: None, [*resume, "--force-image-size", 32]),
        ("epoch_1.pt",),
    )
    yield (
        "resume of no epoch",
        run_copy(saved(lambda content: content.update(epoch="two")), resume),
        ("epoch_1.pt",),
    )
    yield (
        "export without config",
        run_copy(lambda path: (path.parents[1] / FILE).unlink(), export),
        (FILE,),
    )
    yield (
        "export of a broken config",
        run_copy(lambda path: (path.parents[1] / FILE).write_text("{"), export),
        (FILE,),
    )
    yield (
        "export into a full folder",
        run_copy(lambda path: None, ["export", "logs/run", "logs"]),
        ("logs",),
    )
    yield "export of nothing", put({}, ["export", "gone", "out"]), ("gone",)
    yield (
        "export of a run without checkpoints",
        run_copy(lambda path: path.unlink(), export),
        ("checkpoints",),
    )
    yield (
        "export onto a file",
        run_copy(lambda path: (path.parents[3] / "exported").write_text("x"), export),
        ("exported",),
    )
    yield (
        "export as a model that is none",
        run_copy(lambda path: (path.parents[1] / FILE).unlink(), [*export, "--model", "ViT-Z-99"]),
        ("ViT-Z-99",),
    )
    yield (
        "a run of this name is there",
        run_copy(lambda path: None, train("--train-data", "train.csv")),
        ("run", "--name|name"),
    )


def cases() -> Iterator[Case]:
    yield from (Case(name, "checkpoints", make, words) for name, make, words in _checkpoint_cases())
