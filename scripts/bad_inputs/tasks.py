"""Bad inputs and flags of the other evaluation tasks, and bad saved indexes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .harness import Case
from .world import Maker, evaluate, model, pixels, png, put, rows, world
from .zero_shots import DEEP, Found


def probe(*flags: object, lines: list[str] | None = None) -> Maker:
    return put(
        {"t.csv": "\n".join(rows() if lines is None else lines) + "\n"},
        evaluate("linear-probe", *flags),
    )


def _other_task_cases() -> Found:
    t, one = ("--data", "t.csv"), ("--data", "t.csv", "--classes", "0", "1")
    yield from [
        ("probe without data", probe(), ("--data",)),
        ("probe of both forms", probe(*t, "--train-data", "t.csv"), ("--data",)),
        ("probe without classes", probe(*t), ("t.csv", "--classes")),
        ("probe: --fractions 0", probe(*one, "--fractions", 0), ("--fractions",)),
        ("probe: --fractions nan", probe(*one, "--fractions", "nan"), ("--fractions",)),
        ("probe: --resamples 0", probe(*one, "--resamples", 0), ("--resamples",)),
        ("probe: --seed -1", probe(*one, "--seed", "-1"), ("--seed",)),
        ("probe: no such split column", probe(*one, "--split-column", "part"), ("t.csv", "part")),
        (
            "probe: an unknown split",
            probe(*one, "--split-column", "patient"),
            ("t.csv", "row 1", "patient"),
        ),
        ("probe: two rows", probe(*one, lines=rows()[:3]), ("2 patients", "t.csv")),
        (
            "probe: sides share images",
            probe("--train-data", "t.csv", "--test-data", "t.csv", "--classes", "0", "1"),
            ("both", "train"),
        ),
        ("probe: one class twice", probe(*t, "--classes", "0", "0"), ("--classes|classes",)),
        ("probe: a class in no row", probe(*t, "--classes", "0", "1", "2"), ("2|class",)),
        (
            "retrieval: group rule without column",
            put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--rule", "group")),
            ("--group-column",),
        ),
        (
            "retrieval: blank group",
            put(
                {"t.csv": "\n".join([*rows()[:4], "images/3.png,x,,0,,train"])},
                evaluate("retrieval", *t, "--rule", "group", "--group-column", "patient"),
            ),
            ("t.csv", "row 4", "patient"),
        ),
        (
            "retrieval: no such label",
            put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--labels", "size")),
            ("t.csv", "size"),
        ),
        (
            "retrieval: index onto a file",
            put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--save-index", "t.csv")),
            ("t.csv",),
        ),
        (
            "quality: --pairs 1",
            put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--pairs", 1)),
            ("--pairs",),
        ),
        (
            "quality: --pairs -3",
            put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--pairs", "-3")),
            ("--pairs",),
        ),
        (
            "quality: --draws 0",
            put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--draws", 0)),
            ("--draws",),
        ),
        (
            "quality: --seed -1",
            put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--seed", "-1")),
            ("--seed",),
        ),
        (
            "quality: one sample",
            put({"t.csv": "\n".join(rows()[:2])}, evaluate("embedding-quality", *t)),
            ("pairs|sample",),
        ),
        (
            "quality: no such group",
            put(
                {"t.csv": "\n".join(rows())},
                evaluate("embedding-quality", *t, "--group-column", "size"),
            ),
            ("t.csv", "size"),
        ),
        (
            "quality: recipe of numbers",
            put(
                {"t.csv": "\n".join(rows()), "classes.json": '{"classes": 3}'},
                evaluate("embedding-quality", *t),
            ),
            ("classes.json",),
        ),
        (
            "sensitivity without heatmaps",
            put(
                {"t.csv": "filepath,title\nimages/0.png,a\nimages/1.png,b\n"},
                evaluate("sensitivity", *t),
            ),
            ("t.csv", "heatmap"),
        ),
        (
            "sensitivity of one heatmap",
            put({"t.csv": "\n".join(rows()[:3])}, evaluate("sensitivity", *t)),
            ("t.csv", "1"),
        ),
        (
            "sensitivity: --seed -1",
            put({"t.csv": "\n".join(rows())}, evaluate("sensitivity", *t, "--seed", "-1")),
            ("--seed",),
        ),
        (
            "sensitivity: no such text",
            put(
                {"t.csv": "\n".join(rows())}, evaluate("sensitivity", *t, "--text-column", "report")
            ),
            ("report",),
        ),
        (
            "sensitivity: a table without images",
            put(
                {"t.csv": "\n".join(rows()), "h.csv": "a,b\n1,2\n"},
                evaluate("sensitivity", *t, "--heatmaps", "h.csv"),
            ),
            ("h.csv",),
        ),
        (
            "sensitivity: a heatmap of a missing file",
            put(
                {"t.csv": "\n".join([*rows()[:5], "images/4.png,x,gone.png,1,4,train"])},
                evaluate("sensitivity", *t),
            ),
            ("t.csv", "row 5", "gone.png"),
        ),
        (
            "search: --top 0",
            put(
                {"a.png": png(pixels(0))},
                [
                    "evaluate",
                    "search",
                    "a.png",
                    *("--index", world() / "index"),
                    *("--model", model()),
                    *("--top", 0),
                ],
            ),
            ("--top",),
        ),
    ]


def index(change: Callable[[Path], object], command: str = "search") -> Maker:
    """A case with a changed copy of the good index, for `search` or `report`."""

    def make(folder: Path) -> list[object]:
        shutil.copytree(
            world() / ("index" if command == "search" else "reports_index"), folder / "index"
        )
        change(folder / "index")
        (folder / "a.png").write_bytes(png(pixels(0)))
        if command == "search":
            return [
                "evaluate",
                "search",
                "a.png",
                *("--index", "index"),
                *("--model", model()),
                *("--device", "cpu"),
            ]
        return [
            "report",
            "a.png",
            *("--index", "index"),
            *("--model", model()),
            *("--device", "cpu"),
            *("--writer", "copy"),
        ]

    return make


def facts(**changes: object) -> Callable[[Path], object]:
    """Changes entries of index.json; None leaves an entry out."""

    def change(folder: Path) -> None:
        found = {**json.loads((folder / "index.json").read_text()), **changes}
        (folder / "index.json").write_text(
            json.dumps({key: value for key, value in found.items() if value is not None})
        )

    return change


def _index_cases() -> Found:
    yield from [
        ("index: no such folder", index(lambda folder: shutil.rmtree(folder)), ("index",)),
        (
            "index: broken JSON",
            index(lambda folder: (folder / "index.json").write_text("{")),
            ("index.json",),
        ),
        (
            "index: JSON of a list",
            index(lambda folder: (folder / "index.json").write_text("[]")),
            ("index.json",),
        ),
        (
            "index: JSON of brackets",
            index(lambda folder: (folder / "index.json").write_bytes(DEEP)),
            ("index.json",),
        ),
        ("index: no files named", index(facts(files=None)), ("index.json",)),
        ("index: files a list", index(facts(files=["index.faiss"])), ("index.json",)),
        ("index: no encoder", index(facts(encoder=None)), ("index.json", "encoder")),
        ("index: encoder a text", index(facts(encoder="x")), ("index.json", "encoder")),
        (
            "index: of another model",
            index(facts(encoder={"weights_hash": "0" * 64, "model": "m", "pretrained": "p"})),
            ("index", "model"),
        ),
        (
            "index: FAISS file damaged",
            index(lambda folder: (folder / "index.faiss").write_bytes(b"x" * 500)),
            ("index.faiss",),
        ),
        (
            "index: FAISS file damaged, hash made right",
            index(_rehashed(b"x" * 500)),
            ("index.faiss",),
        ),
        ("index: FAISS file cut, hash made right", index(_rehashed(None)), ("index.faiss",)),
        (
            "index: a file outside the folder",
            index(facts(files={"../a.png": "0" * 64})),
            ("a.png|index.json",),
        ),
        (
            "report: index of retrieval",
            index(
                lambda folder: [shutil.rmtree(folder), shutil.copytree(world() / "index", folder)],
                "report",
            ),
            ("index", "examples"),
        ),
        (
            "report: examples a text",
            index(facts(examples="x"), "report"),
            ("index.json", "examples"),
        ),
        (
            "report: examples of nothing",
            index(facts(examples=[{}]), "report"),
            ("index.json", "examples"),
        ),
        (
            "report: snippets a text",
            index(facts(snippets="x"), "report"),
            ("index.json", "snippets"),
        ),
        ("report: no seed", index(facts(seed=None), "report"), ("index.json", "seed")),
        ("report: pick of no name", index(facts(pick="best"), "report"), ("index.json", "pick")),
        (
            "report: --out is there",
            put(
                {"o": "", "a.png": png(pixels(0))},
                [
                    "report",
                    "a.png",
                    *("--index", world() / "reports_index"),
                    *("--model", model()),
                    *("--writer", "copy"),
                    *("--out", "o"),
                ],
            ),
            ("--out o",),
        ),
    ]


def _rehashed(content: bytes | None) -> Callable[[Path], object]:
    """Replaces index.faiss (None: cuts it in half) and updates its hash in index.json."""

    def change(folder: Path) -> None:
        import hashlib

        path = folder / "index.faiss"
        path.write_bytes(
            path.read_bytes()[: len(path.read_bytes()) // 2] if content is None else content
        )
        files = json.loads((folder / "index.json").read_text())["files"]
        facts(files={**files, "index.faiss": hashlib.sha256(path.read_bytes()).hexdigest()})(folder)

    return change


def cases() -> Iterator[Case]:
    for found in (_other_task_cases, _index_cases):
        yield from (Case(name, "evaluation files", make, words) for name, make, words in found())
