"""Damaged copies of MIMIC-CXR, and bad values of the flags that all data sets share."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from . import mimic_trees as trees
from .bombs import deflated, png_bomb
from .harness import Case
from .world import Maker, put

Change = Callable[[Path], object]
TAIL = ("--size", 32, "--workers", 1)


def mimic(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        change(trees.write_mimic(folder / "mimic"))
        return ["prepare", "mimic-cxr", "mimic", "out", "--evaluation", "none", *TAIL, *flags]

    return make


def write(name: str, content: bytes | str) -> Change:
    return lambda root: (root / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def cell(name: str, row: int, column: str, value: object) -> Change:
    """Changes one cell of a table; rows count from 1."""

    def change(root: Path) -> None:
        import pandas as pd

        frame = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        frame.loc[row - 1, column] = str(value)
        frame.to_csv(root / name, index=False)

    return change


def without(name: str, column: str) -> Change:
    def change(root: Path) -> None:
        import pandas as pd

        pd.read_csv(root / name, dtype=str, keep_default_na=False).drop(columns=column).to_csv(
            root / name, index=False
        )

    return change


METADATA, SPLIT, LABELS = (
    "mimic-cxr-2.0.0-metadata.csv.gz",
    "mimic-cxr-2.0.0-split.csv.gz",
    "mimic-cxr-2.0.0-chexpert.csv.gz",
)


def as_zip(name: str, members: dict[str, bytes]) -> Change:
    """Replaces the .gz table by a zip archive of these members."""

    def change(root: Path) -> None:
        (root / name).unlink()
        with zipfile.ZipFile(root / name.replace(".gz", ".zip"), "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)

    return change


def _gz_damaged(root: Path) -> None:
    content = bytearray((root / METADATA).read_bytes())
    content[40:60] = b"\xff" * 20
    (root / METADATA).write_bytes(content)


def _mimic_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("MIMIC: no such folder", put({}, ["prepare", "mimic-cxr", "gone", "out"]), ("gone",)),
        ("MIMIC: no metadata", mimic(lambda root: (root / METADATA).unlink()), ("metadata",)),
        (
            "MIMIC: gz cut",
            mimic(lambda root: (root / METADATA).write_bytes((root / METADATA).read_bytes()[:80])),
            (METADATA,),
        ),
        ("MIMIC: gz damaged", mimic(_gz_damaged), (METADATA,)),
        ("MIMIC: text named .gz", mimic(write(METADATA, "dicom_id\n")), (METADATA,)),
        ("MIMIC: empty gz", mimic(write(METADATA, b"")), (METADATA,)),
        ("MIMIC: gz of an empty table", mimic(write(METADATA, gzip.compress(b""))), (METADATA,)),
        (
            "MIMIC: zip of two tables",
            mimic(as_zip(METADATA, {"a.csv": b"a\n", "b.csv": b"b\n"})),
            ("metadata", ".zip"),
        ),
        ("MIMIC: zip of nothing", mimic(as_zip(METADATA, {})), ("metadata", ".zip")),
        (
            "MIMIC: zip of a picture",
            mimic(as_zip(METADATA, {"a.csv": b"\x89PNG\r\n\x1a\n" + bytes(range(256))})),
            ("metadata", ".zip"),
        ),
        (
            "MIMIC: encrypted zip",
            mimic(
                lambda root: [
                    (root / METADATA).unlink(),
                    write("mimic-cxr-2.0.0-metadata.csv.zip", _encrypted())(root),
                ]
            ),
            ("metadata", ".zip"),
        ),
        ("MIMIC: gz of 1.5 GB of one cell", mimic(write(METADATA, _gz_bomb())), (METADATA,)),
        (
            "MIMIC: no column of views",
            mimic(without(METADATA, "ViewPosition")),
            (METADATA, "ViewPosition"),
        ),
        ("MIMIC: a strange id", mimic(cell(METADATA, 2, "dicom_id", "../x")), (METADATA, "row 2")),
        (
            "MIMIC: an id twice",
            mimic(cell(METADATA, 2, "dicom_id", trees.dicom(0))),
            (METADATA, "row 2"),
        ),
        (
            "MIMIC: a patient of letters",
            mimic(cell(METADATA, 2, "subject_id", "abc")),
            (METADATA, "row 2", "subject_id"),
        ),
        ("MIMIC: an unknown split", mimic(cell(SPLIT, 3, "split", "valid")), (SPLIT, "row 3")),
        ("MIMIC: a label of 7", mimic(cell(LABELS, 1, "Edema", "7")), (LABELS, "row 1", "Edema")),
        ("MIMIC: no labels", mimic(lambda root: (root / LABELS).unlink()), ("chexpert",)),
        (
            "MIMIC: sectioned table of other columns",
            mimic(write("s.csv", "a,b\n1,2\n"), "--sectioned", "mimic/s.csv"),
            ("s.csv", "study"),
        ),
        (
            "MIMIC: excluded patients of other columns",
            mimic(write("x.csv", "a,b\n1,2\n"), "--exclude-subjects", "mimic/x.csv"),
            ("x.csv", "patient"),
        ),
        (
            "MIMIC: an unreadable image",
            mimic(lambda root: trees.image_file(root, 0).write_bytes(b"x")),
            (trees.dicom(0),),
        ),
        (
            "MIMIC: an image of 3.6 GB",
            mimic(lambda root: trees.image_file(root, 0).write_bytes(png_bomb(60000, 60000))),
            (trees.dicom(0),),
        ),
        ("MIMIC: a report that is a folder", mimic(_report_folder), ("s59000000.txt",)),
        ("prepare: --size 3", mimic(lambda root: None, "--size", 3), ("--size",)),
        ("prepare: --size big", mimic(lambda root: None, "--size", "big"), ("--size",)),
        ("prepare: --quality 0", mimic(lambda root: None, "--quality", 0), ("--quality",)),
        ("prepare: --workers 0", mimic(lambda root: None, "--workers", 0), ("--workers",)),
        ("prepare: --part 2/2", mimic(lambda root: None, "--part", "2/2"), ("--part",)),
        ("prepare: --limit -1", mimic(lambda root: None, "--limit", "-1"), ("--limit",)),
        ("prepare: --shard-size 0", mimic(lambda root: None, "--shard-size", 0), ("--shard-size",)),
        (
            "prepare: OUT holds other files",
            mimic(
                lambda root: [
                    (root.parent / "out").mkdir(),
                    (root.parent / "out" / "x").write_text(""),
                ]
            ),
            ("out",),
        ),
        (
            "prepare: OUT is a file",
            mimic(lambda root: (root.parent / "out").write_text("")),
            ("out",),
        ),
        (
            "prepare: OUT started with broken settings",
            mimic(
                lambda root: [
                    (root.parent / "out" / ".chunks").mkdir(parents=True),
                    (root.parent / "out" / ".chunks" / "settings.json").write_text("{"),
                ]
            ),
            ("settings.json",),
        ),
        (
            "prepare: a broken record of a chunk",
            mimic(_broken_chunk),
            (".chunks", "train-000000.json"),
        ),
        ("prepare: an unknown data set", put({}, ["prepare", "mimic", "a", "b"]), ("mimic",)),
        (
            "prepare: phantoms of -1",
            put({}, ["prepare", "phantom", "out", "--train", "-1"]),
            ("train", "-1"),
        ),
        (
            "prepare: phantoms annotated twice over",
            put({}, ["prepare", "phantom", "out", "--annotated", 2]),
            ("annotated",),
        ),
        (
            "prepare: phantoms annotated nan",
            put({}, ["prepare", "phantom", "out", "--annotated", "nan"]),
            ("annotated",),
        ),
    ]


def _broken_chunk(root: Path) -> None:
    from .harness import run_command

    command = ["prepare", "mimic-cxr", "mimic", "out", "--evaluation", "none", *TAIL]
    run_command(command)
    (root.parent / "out" / ".chunks" / "train-000000.json").write_text("{")


def _report_folder(root: Path) -> None:
    path = trees.report_path(root, *trees.IMAGES[0][:2])
    path.unlink()
    path.mkdir()


def _encrypted() -> bytes:
    from .bombs import zipped

    content = b"dicom_id\n1\n"
    return zipped("a.csv", deflated(content, 0), len(content), flags=1)


def _gz_bomb() -> bytes:
    head = gzip.compress(b"")[:10]
    return head + deflated(b"dicom_id,subject_id,study_id,ViewPosition\n", 1500 << 20) + bytes(8)


def cases() -> Iterator[Case]:
    yield from (Case(name, "raw data sets", make, words) for name, make, words in _mimic_cases())
