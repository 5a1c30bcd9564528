"""Bad webdataset shards, for the check, training, validation and evaluation."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .bombs import png_bomb
from .harness import Case
from .world import (
    COUNT,
    Maker,
    evaluate,
    heat,
    npy,
    pixels,
    png,
    put,
    sample,
    shard,
    table,
    train,
    world,
)

Members = list[tuple[str, bytes]]


def good(count: int = COUNT) -> Members:
    return [pair for i in range(count) for pair in sample(i).items()]


def edited(
    edit: Callable[[Members], Members], command: Sequence[object] = ("check", "a.tar")
) -> Maker:
    """A case with a.tar with changed members."""

    def make(folder: Path) -> list[object]:
        shard(folder / "a.tar", edit(good()))
        return list(command)

    return make


def replaced(name: str, content: bytes | None, new_name: str = "") -> Callable[[Members], Members]:
    """Changes the content or the name of one member; None leaves it out."""

    def edit(members: Members) -> Members:
        return [
            (new_name or key if key == name else key, value if key != name else content)
            for key, value in members
            if key != name or content is not None
        ]

    return edit


def added(after: str, *more: tuple[str, bytes]) -> Callable[[Members], Members]:
    def edit(members: Members) -> Members:
        position = [name for name, _ in members].index(after) + 1
        return [*members[:position], *more, *members[position:]]

    return edit


def raw(change: Callable[[bytes], bytes], command: Sequence[object] = ("check", "a.tar")) -> Maker:
    """A case with a.tar with changed bytes."""

    def make(folder: Path) -> list[object]:
        shard(folder / "a.tar", good())
        (folder / "a.tar").write_bytes(change((folder / "a.tar").read_bytes()))
        return list(command)

    return make


def _header_damaged(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        offset = archive.getmembers()[9].offset
    return content[:offset] + b"\xff" * 100 + content[offset + 100 :]


def _between_samples(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return content[: archive.getmembers()[12].offset]


EVIL = b"cos\nsystem\n(S'touch ran_code'\ntR."


def _pickled(extension: str, val: bool) -> Maker:
    """A pickle beside a good sample; the answer of a decoder that unpickles it is a file, and
    `ran_code` in the output.
    """

    def make(folder: Path) -> list[object]:
        table(folder)
        shard(folder / "a.tar", added("s3.txt", (f"s3.{extension}", EVIL))(good()))
        import os
        import sys

        from openclip_eclip import train as command

        flags = train(
            "--train-data",
            *(
                ("train.csv", "--val-data", "a.tar", "--val-num-samples", COUNT)
                if val
                else ("a.tar", "--train-num-samples", COUNT)
            ),
        )
        sys.argv = [str(word) for word in flags]
        code = command.run()
        sys.stdout.write(
            "no code of the shard ran\n"
            if not os.path.exists("ran_code")
            else "error: code of the shard RAN\n"
        )
        raise SystemExit(code)

    return make


def _sizes(folder: Path) -> list[object]:
    shard(folder / "a.tar", good())
    (folder / "sizes.json").write_text(json.dumps({"a.tar": 800}))
    return ["check", "a.tar"]


def _few(count: int, *flags: object) -> Maker:
    return edited(lambda members: members[: 3 * count], train("--train-data", "a.tar", *flags))


def _val(edit: Callable[[Members], Members]) -> Maker:
    def make(folder: Path) -> list[object]:
        table(folder)
        shard(folder / "val.tar", edit(good()))
        return train(
            "--train-data", "train.csv", "--val-data", "val.tar", "--val-num-samples", COUNT
        )

    return make


def _folder(folder: Path) -> list[object]:
    (folder / "a.tar").mkdir()
    return ["check", "a.tar"]


def _dots(members: Members) -> Members:
    return [(f"1.2.840.{name[1]}.{name.partition('.')[2]}", content) for name, content in members]


def _classes(members: Members) -> Members:
    """Gives every sample class 1, but s3 class 9."""
    return [
        pair
        for name, content in members
        for pair in (
            (name, content),
            *([(f"{name[:2]}.cls", b"9" if name[1] == "3" else b"1")] * name.endswith(".txt")),
        )
    ]


def cases() -> Iterator[Case]:
    zero_shot = evaluate(
        "zero-shot",
        *("--data", "a.tar"),
        *("--classes", world() / "classes.txt"),
        *("--templates", world() / "templates.txt"),
    )
    retrieval = evaluate("retrieval", "--data", "a.tar")
    found = [
        ("no such shard", put({}, ["check", "gone.tar"]), ("gone.tar",)),
        ("no such shard in training", put({}, train("--train-data", "gone.tar")), ("gone.tar",)),
        (
            "second shard of the braces missing",
            edited(lambda m: m, train("--train-data", "{a,b}.tar")),
            ("b.tar",),
        ),
        ("empty file", put({"a.tar": b""}, ["check", "a.tar"]), ("a.tar",)),
        ("a folder", _folder, ("a.tar",)),
        ("text", put({"a.tar": "not a tar\n" * 200}, ["check", "a.tar"]), ("a.tar",)),
        ("gzip", raw(gzip.compress), ("a.tar",)),
        ("no sample", edited(lambda m: []), ("a.tar", "no sample|0 samples|no samples|empty")),
        ("cut within a member", raw(lambda content: content[:9000]), ("a.tar",)),
        ("cut between samples", raw(_between_samples), ("a.tar",)),
        ("a damaged header", raw(_header_damaged), ("a.tar",)),
        ("a key twice", edited(lambda m: m + m[3:6]), ("a.tar", "s1")),
        ("a member twice", edited(added("s3.txt", ("s3.txt", b"Other words."))), ("a.tar", "s3")),
        ("members of one key not together", edited(lambda m: m[1:] + m[:1]), ("a.tar", "s0")),
        ("no image", edited(replaced("s3.png", None)), ("a.tar", "s3", "image")),
        ("no text", edited(replaced("s3.txt", None)), ("a.tar", "s3", "txt")),
        ("empty text", edited(replaced("s3.txt", b" \n")), ("a.tar", "s3")),
        ("text nan", edited(replaced("s3.txt", b"nan")), ("a.tar", "s3")),
        (
            "text in Latin-1",
            edited(replaced("s3.txt", "Röntgen".encode("latin-1"))),
            ("a.tar", "s3"),
        ),
        (
            "text in Latin-1, in training",
            edited(
                replaced("s3.txt", "Röntgen".encode("latin-1")),
                train("--train-data", "a.tar", "--train-num-samples", 8),
            ),
            ("a.tar", "s3"),
        ),
        ("image of garbage", edited(replaced("s3.png", b"nothing")), ("a.tar", "s3")),
        ("image cut", edited(replaced("s3.png", png(pixels(3))[:200])), ("a.tar", "s3")),
        ("image of 3.6 GB", edited(replaced("s3.png", png_bomb(60000, 60000))), ("a.tar", "s3")),
        ("two images", edited(added("s3.txt", ("s3.jpg", png(pixels(4))))), ("a.tar", "s3")),
        (
            "heatmap.jpg",
            edited(replaced("s3.heatmap.png", png(heat(3)), "s3.heatmap.jpg")),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "heatmap.tif",
            edited(replaced("s3.heatmap.png", png(heat(3)), "s3.heatmap.tif")),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "gaze.png",
            edited(replaced("s3.heatmap.png", png(heat(3)), "s3.gaze.png")),
            ("a.tar", "s3", "gaze"),
        ),
        (
            "mask.npy",
            edited(replaced("s3.heatmap.png", npy(heat(3)), "s3.mask.npy")),
            ("a.tar", "s3", "mask"),
        ),
        (
            "two heatmaps",
            edited(added("s3.txt", ("s3.heatmap.npy", npy(heat(5))))),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "heatmap of other proportions",
            edited(replaced("s3.heatmap.png", png(heat(3)[:20]))),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "heatmap is the image",
            edited(replaced("s3.heatmap.png", png(pixels(3)))),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "heatmap constant",
            edited(replaced("s3.heatmap.png", png(heat(3) * 0 + 9))),
            ("a.tar", "s3", "heatmap"),
        ),
        (
            "windows.json alone",
            edited(added("s3.txt", ("s3.windows.json", b"[]"))),
            ("a.tar", "s3", "windows"),
        ),
        ("keys with dots", edited(_dots), ("a.tar", "dot")),
        ("fewer samples than a batch", _few(3, "--train-num-samples", 3), ("batch", "3")),
        (
            "fewer samples than a batch for each worker",
            _few(6, "--workers", 2, "--train-num-samples", 6),
            ("workers|shard|batch",),
        ),
        (
            "fewer shards than workers",
            _few(8, "--workers", 4, "--train-num-samples", 8),
            ("workers", "shard"),
        ),
        (
            "every sample bad, skipped",
            edited(
                lambda m: [(n, b"x") if n.endswith(".png") else (n, c) for n, c in m],
                train("--train-data", "a.tar", "--train-num-samples", 8, "--on-bad-sample", "skip"),
            ),
            ("a.tar|sample|batch",),
        ),
        (
            "validation shard with a bad image",
            _val(replaced("s3.png", b"nothing")),
            ("val.tar", "s3"),
        ),
        ("validation shard without text", _val(replaced("s3.txt", None)), ("val.tar", "s3")),
        (
            "validation shard missing",
            lambda folder: train(
                "--train-data", table(folder), "--val-data", "gone.tar", "--val-num-samples", 8
            ),
            ("gone.tar",),
        ),
        ("evaluation: class unknown", edited(_classes, zero_shot), ("a.tar", "s3", "label")),
        (
            "evaluation: json broken",
            edited(added("s3.txt", ("s3.json", b"{")), retrieval),
            ("a.tar", "s3", "json"),
        ),
        (
            "evaluation: json a list",
            edited(added("s3.txt", ("s3.json", b"[1]")), retrieval),
            ("a.tar", "s3", "json"),
        ),
        (
            "evaluation: json of brackets",
            edited(added("s3.txt", ("s3.json", b"[" * 100000)), retrieval),
            ("a.tar", "s3", "json"),
        ),
        (
            "evaluation: cls of bytes",
            edited(added("s3.txt", ("s3.cls", b"\xff\xfe")), retrieval),
            ("a.tar", "s3", "cls"),
        ),
        (
            "evaluation: text in Latin-1",
            edited(replaced("s3.txt", b"R\xf6ntgen"), retrieval),
            ("a.tar", "s3"),
        ),
        (
            "evaluation: no image",
            edited(replaced("s3.png", None), retrieval),
            ("a.tar", "s3", "image"),
        ),
        (
            "overlap of a broken json",
            edited(added("s3.txt", ("s3.json", b"{")), ["overlap", "a.tar", "a.tar"]),
            ("a.tar", "s3", "json"),
        ),
    ]
    yield from (Case(name, "shards", make, words) for name, make, words in found)
    warned = [
        ("a pickle in a validation shard", _pickled("pyd", True), ("no code of the shard ran",)),
        ("a pickle in a training shard", _pickled("pickle", False), ("no code of the shard ran",)),
        ("sizes.json is wrong", _sizes, ("sizes.json", "800")),
        (
            "macOS's ._ members",
            edited(
                lambda m: [
                    pair
                    for name, content in m
                    for pair in ((f"._{name}", b"\0\5\x16\7 x"), (name, content))
                ]
            ),
            ("8 samples|._",),
        ),
    ]
    yield from (Case(name, "shards", make, words, warns=True) for name, make, words in warned)
