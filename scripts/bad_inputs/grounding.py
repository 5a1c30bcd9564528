"""Bad inputs and flags of `evaluate grounding`, and bad tables of phrases."""

from __future__ import annotations

from collections.abc import Iterator

from .harness import Case
from .world import Maker, evaluate, put, rows
from .zero_shots import Found


def ground(table: str, *flags: object) -> Maker:
    """A case of a table of phrases on the good images."""
    annotations = ("--annotations", "p.csv", "--images", "images")
    return put({"p.csv": table}, evaluate("grounding", *annotations, *flags))


def _grounding_cases() -> Found:
    t, good = ("--data", "t.csv"), "\n".join(rows())
    head = "filepath,phrase,x,y,w,h,segmentation,mask\n"
    first = "0.png,a,1,1,9,9,,\n"
    yield from [
        ("grounding without data", put({"t.csv": good}, evaluate("grounding")), ("--data",)),
        (
            "grounding: --images alone",
            put({"t.csv": good}, evaluate("grounding", *t, "--images", "images")),
            ("--annotations",),
        ),
        (
            "grounding: --limit 1",
            put({"t.csv": good}, evaluate("grounding", *t, "--limit", 1)),
            ("--limit",),
        ),
        (
            "grounding: a method that the tower lacks",
            put({"t.csv": good}, evaluate("grounding", *t, "--methods", "pool")),
            ("pool",),
        ),
        (
            "grounding: thresholds chosen on the test set",
            put({"t.csv": good}, evaluate("grounding", *t, "--threshold-data", "t.csv")),
            ("--threshold-data", "t.csv"),
        ),
        (
            "grounding: no such patient column",
            put({"t.csv": good}, evaluate("grounding", *t, "--patient-column", "person")),
            ("t.csv", "person"),
        ),
        (
            "grounding: no heatmap",
            put({"t.csv": "filepath,title\nimages/0.png,a\n"}, evaluate("grounding", *t)),
            ("t.csv", "heatmap"),
        ),
        ("grounding: no such images", ground(head + "9.png,a,1,1,9,9,,\n"), ("p.csv", "image")),
        ("grounding: one image", ground(head + first), ("image", "two")),
        ("grounding: a blank phrase", ground(head + "0.png,,1,1,9,9,,\n"), ("row 1", "phrase")),
        ("grounding: half a box", ground(head + "0.png,a,1,1,,9,,\n"), ("p.csv", "row 1", "w")),
        ("grounding: a box of words", ground(head + "0.png,a,1,1,z,9,,\n"), ("p.csv", "row 1")),
        (
            "grounding: two regions in a row",
            ground(head + '0.png,a,1,1,9,9,"[1,1,9,1,9,9]",\n'),
            ("row 1", "segmentation"),
        ),
        ("grounding: broken JSON", ground(head + "0.png,a,,,,,[1,\n"), ("row 1", "segmentation")),
        (
            "grounding: nested brackets",
            ground(f"{head}0.png,a,,,,,{'[' * 2000},\n"),
            ("row 1", "segmentation"),
        ),
        (
            "grounding: an outline of odd length",
            ground(head + '0.png,a,,,,,"[1,1,9,1,9,9,4]",\n'),
            ("row 1", "segmentation"),
        ),
        (
            "grounding: a mask that is not there",
            ground(head + "0.png,a,,,,,,gone.png\n"),
            ("row 1", "gone.png"),
        ),
        (
            "grounding: a template without its class",
            ground(head + first, "--phrases", "a thing"),
            ("--phrases", "{c}"),
        ),
        (
            "grounding: gaze",
            ground("image,fixation x,fixation y,duration\n0.png,1,1,100\n"),
            ("p.csv", "gaze"),
        ),
    ]


def cases() -> Iterator[Case]:
    yield from (Case(name, "grounding", make, words) for name, make, words in _grounding_cases())
