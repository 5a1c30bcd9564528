"""Bad shards in the layout of the eCLIP authors: archives, manifests and maps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .harness import Case
from .mimic import TAIL
from .world import Maker, pixels, png, put, shard


def _authors(members: dict[str, bytes]) -> Maker:
    def make(folder: Path) -> list[object]:
        (folder / "src" / "train").mkdir(parents=True)
        shard(folder / "src" / "train" / "a.tar", members)
        return ["prepare", "eclip-shards", "src", "out", *TAIL]

    return make


def _experts(changes: dict[str, bytes]) -> Maker:
    def make(folder: Path) -> list[object]:

        (folder / "src" / "train").mkdir(parents=True)
        (folder / "expert").mkdir()
        shard(
            folder / "src" / "train" / "a.tar",
            {"m.frontal_img": png(pixels(0)), "m.report": b"Text."},
        )
        members = {
            "img.jpg": png(pixels(0)),
            "report.txt": b"Text.",
            "manifest.json": b'[{"heatmap": "h.npz"}]',
            "h.npz": b"PK",
            **changes,
        }
        shard(
            folder / "expert" / "e.tar", {f"m.{name}": content for name, content in members.items()}
        )
        return ["prepare", "eclip-shards", "src", "out", "--expert", "expert", *TAIL]

    return make


def _authors_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    authors = {"m.frontal_img": b"x", "m.report": b"Text."}
    yield from [
        (
            "eclip-shards: none",
            put({"src/a": ""}, ["prepare", "eclip-shards", "src", "out"]),
            ("src",),
        ),
        (
            "eclip-shards: not a tar",
            put({"src/train/a.tar": "hello" * 300}, ["prepare", "eclip-shards", "src", "out"]),
            ("a.tar",),
        ),
        ("eclip-shards: an unreadable image", _authors(authors), ("a.tar", "m")),
        (
            "eclip-shards: a manifest of brackets",
            _experts({"manifest.json": b"[" * 100000}),
            ("e.tar", "m", "manifest"),
        ),
        (
            "eclip-shards: a manifest of text",
            _experts({"manifest.json": b"x"}),
            ("e.tar", "m", "manifest"),
        ),
        (
            "eclip-shards: a pickled map",
            _experts({"h.npz": b"\x80\4cos\nsystem\n."}),
            ("e.tar", "m", "h.npz"),
        ),
        (
            "eclip-shards: a map as JSON of 10^12 cells",
            _experts(
                {
                    "h.npz": (
                        json.dumps(
                            {"shape": [10**6, 10**6], "indices": [], "indptr": [0], "data": []}
                        ).encode()
                    )
                }
            ),
            ("e.tar", "m", "h.npz"),
        ),
        (
            "eclip-shards: a map as JSON of brackets",
            _experts({"h.npz": b"[" * 100000}),
            ("e.tar", "m", "h.npz"),
        ),
        (
            "eclip-shards: a map of endless numbers",
            _experts({"h.npz": b'{"shape": [1e999, 4], "indices": [], "indptr": [], "data": []}'}),
            ("e.tar", "m", "h.npz"),
        ),
    ]


def cases() -> Iterator[Case]:
    yield from (Case(name, "raw data sets", make, words) for name, make, words in _authors_cases())
