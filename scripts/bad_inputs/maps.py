"""Bad heatmaps in tables and shards, and bad sentence windows."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .bombs import deflated, npy_header, npz_bomb, png_bomb, zipped
from .harness import Case
from .world import (
    COUNT,
    SIDE,
    Maker,
    evaluate,
    heat,
    link_images,
    npy,
    npz,
    png,
    put,
    rows,
    sample,
    shard,
    train,
)

GOOD = heat(1)
WHERE = ("train.csv", "row 2", "heatmap")


def in_table(
    content: bytes, suffix: str, command: tuple[object, ...] = ("check", "train.csv")
) -> Maker:
    """A case with a table whose row 2 names a heatmap of this content."""
    lines = rows()
    lines[2] = f"images/1.png,A nodule.,bad.{suffix},1,1,test"
    return put({f"bad.{suffix}": content, "train.csv": "\n".join(lines) + "\n"}, list(command))


def in_shard(content: bytes, suffix: str) -> Maker:
    def make(folder: Path) -> list[object]:
        members = {name: value for i in range(COUNT) for name, value in sample(i).items()}
        del members["s3.heatmap.png"]
        shard(
            folder / "a.tar",
            {
                **{k: v for k, v in members.items() if k[1] != "3"},
                **{k: v for k, v in members.items() if k[1] == "3"},
                f"s3.heatmap.{suffix}": content,
            },
        )
        return ["check", "a.tar"]

    return make


def floats(**changes: float) -> np.ndarray:
    """The good map with other values in some cells."""
    values = GOOD.astype(np.float32)
    for name, value in changes.items():
        values[0, 0] = value
        assert name
    return values


def picture(mode: str, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GOOD).convert(mode).save(stream, kind)
    return stream.getvalue()


def csr(**changes: object) -> bytes:
    """A sparse map as SciPy writes it, with some arrays changed."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(GOOD.astype(np.float32))
    arrays = {
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "shape": np.array(GOOD.shape),
        "format": np.array(b"csr"),
    }
    return npz(
        **{name: value for name, value in {**arrays, **changes}.items() if value is not None}
    )


def archive(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def _deep_header() -> bytes:
    text = b"[" * 9000
    return b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text


def _heatmap_cases() -> Iterator[tuple[str, bytes, str]]:
    good = npy(GOOD)
    structured = np.zeros((SIDE, SIDE), [("a", "f4")])
    yield from [
        ("all zero", npy(np.zeros((SIDE, SIDE), np.uint8)), "npy"),
        ("constant", npy(np.ones((SIDE, SIDE), np.float32)), "npy"),
        ("constant PNG", png(np.full((SIDE, SIDE), 255, np.uint8)), "png"),
        ("NaN", npy(floats(a=np.nan)), "npy"),
        ("infinite", npy(floats(a=np.inf)), "npy"),
        ("negative", npy(floats(a=-1)), "npy"),
        ("infinite once it is float32", npy(GOOD.astype(np.float64) * 1e300), "npy"),
        ("three channels", npy(np.stack([GOOD] * 3)), "npy"),
        ("one dimension", npy(GOOD.ravel()), "npy"),
        ("no dimension", npy(np.array(3.0)), "npy"),
        ("no pixel", npy(np.zeros((0, SIDE))), "npy"),
        ("complex", npy(GOOD.astype(complex)), "npy"),
        ("text for numbers", npy(np.full((SIDE, SIDE), "a")), "npy"),
        ("dates", npy(np.zeros((SIDE, SIDE), "datetime64[s]")), "npy"),
        ("structured", npy(structured), "npy"),
        ("pickled", npy(np.array([[{"a": 1}]], dtype=object), allow_pickle=True), "npy"),
        ("other proportions", npy(GOOD[:30]), "npy"),
        ("cut .npy", good[:-40], "npy"),
        ("empty .npy", b"", "npy"),
        ("text named .npy", b"hello", "npy"),
        ("version 9 of .npy", good[:6] + b"\x09" + good[7:], "npy"),
        ("an .npy header of brackets", _deep_header(), "npy"),
        ("an .npy that promises 10^18 cells", npy_header((10**9, 10**9)) + bytes(100), "npy"),
        ("an .npy of negative shape", npy(GOOD).replace(b"(48, 48)", b"(-8, 48)"), "npy"),
        ("colour PNG", picture("RGB"), "png"),
        ("palette PNG", picture("P"), "png"),
        ("PNG with alpha", picture("LA"), "png"),
        ("cut PNG", png(GOOD)[:60], "png"),
        ("PNG of 3.6 GB", png_bomb(60000, 60000), "png"),
        ("PNG of 170 million pixels", png_bomb(17000, 10000), "png"),
        ("JPEG", picture("L", "JPEG"), "jpg"),
        ("text", b"1 2 3\n", "txt"),
        ("npz of 5.5 GB", npz_bomb((38000, 38000)), "npz"),
        ("npz of 1.3 GB of float64", npz_bomb((13000, 12500), dtype="<f8"), "npz"),
        (
            "npz that promises 10^12 cells",
            npz_bomb((10**6, 1)).replace(b"(1000000, 1)", b"(9999999, 9)"),
            "npz",
        ),
        ("npz of two maps", npz(a=GOOD, b=GOOD), "npz"),
        ("npz of nothing", archive({}), "npz"),
        ("zip of a text", archive({"a.txt": b"hello"}), "npz"),
        ("cut npz", npz(a=GOOD)[:-60], "npz"),
        ("encrypted npz", zipped("a.npy", deflated(good, 0), len(good), flags=1), "npz"),
        ("npz of an unknown compression", zipped("a.npy", good, len(good), method=97), "npz"),
        (
            "npz whose LZMA is damaged",
            archive({"a.npy": good}, zipfile.ZIP_LZMA).replace(good[:20], b"x" * 20)[:60]
            + archive({"a.npy": good}, zipfile.ZIP_LZMA)[80:],
            "npz",
        ),
        (
            "CSR of 13 GB",
            csr(
                shape=np.array([60000, 60000]),
                indptr=np.r_[csr_pointer(), np.full(60000 - SIDE, csr_pointer()[-1])],
            ),
            "npz",
        ),
        ("CSR without shape", csr(shape=None), "npz"),
        ("CSR of negative shape", csr(shape=np.array([-48, 48])), "npz"),
        ("CSR of three dimensions", csr(shape=np.array([48, 48, 3])), "npz"),
        ("CSR index beyond", csr(indices=np.full(GOOD.astype(bool).sum(), 4000)), "npz"),
        ("CSR of fractions as indices", csr(indices=np.full(GOOD.astype(bool).sum(), 1.5)), "npz"),
        ("CSR of text", csr(data=np.full(GOOD.astype(bool).sum(), "a")), "npz"),
        ("CSR whose shape is text", csr(shape=np.array(["a", "b"])), "npz"),
        ("CSR of endless shape", csr(shape=np.array([np.inf, 48.0])), "npz"),
    ]


def csr_pointer() -> np.ndarray:
    from scipy.sparse import csr_matrix

    return csr_matrix(GOOD.astype(np.float32)).indptr


def windows(text: object, maps: bytes | None, *, train_on: bool = False) -> Maker:
    """A case with these sentence windows in row 1; `text` is bytes, or an object for JSON."""

    def make(folder: Path) -> list[object]:
        link_images(folder)
        (folder / "w.windows.json").write_bytes(
            text if isinstance(text, bytes) else json.dumps(text).encode()
        )
        if maps is not None:
            (folder / "w.windows.npz").write_bytes(maps)
        lines = [
            "filepath,title,windows",
            "images/0.png,A nodule.,w.windows.json",
            *(f"images/{i}.png,Text {i}.," for i in range(1, 8)),
        ]
        (folder / "train.csv").write_text("\n".join(lines) + "\n")
        if train_on:
            return train("--train-data", "train.csv", "--method", "align", "--align-windows")
        return ["check", "train.csv"]

    return make


SENTENCES = [
    {"sentence": "A nodule.", "start": 0.5, "end": 1.5},
    {"sentence": "No effusion.", "start": 2.0, "end": 3.0},
]
MAPS = npz(heatmaps=np.stack([heat(1), heat(2)]))


def sentence(**changes: object) -> list[dict]:
    entry = {**SENTENCES[0], **changes}
    return [{key: value for key, value in entry.items() if value is not None}, SENTENCES[1]]


def _window_cases() -> Iterator[tuple[str, object, bytes | None]]:
    small = np.stack([heat(1), np.zeros((SIDE, SIDE), np.uint8)])
    yield from [
        ("cut JSON", json.dumps(SENTENCES).encode()[:-9], MAPS),
        ("empty JSON", b"", MAPS),
        ("JSON in Latin-1", json.dumps(SENTENCES).encode() + b"\xe9", MAPS),
        ("JSON of brackets", b"[" * 100000, MAPS),
        ("an object", {"a": 1}, MAPS),
        ("an empty list", [], MAPS),
        ("a list of numbers", [1, 2], MAPS),
        ("no start", sentence(start=None), MAPS),
        ("no sentence", sentence(sentence=None), MAPS),
        ("a number for a sentence", sentence(sentence=3), MAPS),
        ("text for a time", sentence(start="0.5"), MAPS),
        ("a time of 400 digits", sentence(end=10**400), MAPS),
        ("NaN for a time", b'[{"sentence": "A.", "start": NaN, "end": 1}]', MAPS),
        ("end before start", sentence(start=9), MAPS),
        ("empty sentence", sentence(sentence=" "), MAPS),
        ("one map too few", SENTENCES, npz(heatmaps=heat(1)[None])),
        ("maps under another name", SENTENCES, npz(maps=np.stack([heat(1), heat(2)]))),
        ("maps of float32", SENTENCES, npz(heatmaps=np.ones((2, SIDE, SIDE), np.float32))),
        ("one map of two dimensions", SENTENCES, npz(heatmaps=heat(1))),
        ("a map of zeros", SENTENCES, npz(heatmaps=small)),
        (
            "maps of other proportions",
            SENTENCES,
            npz(heatmaps=np.stack([heat(1)[:25], heat(2)[:25]])),
        ),
        ("pickled maps", SENTENCES, npz(heatmaps=np.array([{}], dtype=object))),
        ("cut npz", SENTENCES, MAPS[:-70]),
        ("no npz", SENTENCES, None),
        ("maps of 4 GB", SENTENCES, npz_bomb((2, 45000, 45000), "heatmaps.npy", "|u1")),
        (
            "encrypted maps",
            SENTENCES,
            zipped("heatmaps.npy", deflated(npy(heat(1)), 0), 2500, flags=1),
        ),
        (
            "maps of an unknown compression",
            SENTENCES,
            zipped("heatmaps.npy", npy(heat(1)), len(npy(heat(1))), method=98),
        ),
    ]


def cases() -> Iterator[Case]:
    for number, (name, content, suffix) in enumerate(_heatmap_cases()):
        yield Case(name, "heatmaps", in_table(content, suffix), WHERE)
        if number % 6 == 0 and suffix in ("npy", "npz", "png"):
            yield Case(
                f"{name}, in a shard",
                "heatmaps",
                in_shard(content, suffix),
                ("a.tar", "s3", "heatmap"),
            )
    sensitivity = evaluate("sensitivity", "--data", "train.csv")
    trained = train("--train-data", "train.csv")
    for name, content in (
        ("NaN", npy(floats(a=np.nan))),
        ("of 13 GB", csr(shape=np.array([60000, 60000]), indptr=np.full(60001, 1))),
        ("cut", npy(GOOD)[:-9]),
    ):
        suffix = "npz" if name == "of 13 GB" else "npy"
        yield Case(
            f"{name}, in training", "heatmaps", in_table(content, suffix, tuple(trained)), WHERE
        )
        yield Case(
            f"{name}, in sensitivity",
            "heatmaps",
            in_table(content, suffix, tuple(sensitivity)),
            ("train.csv", "row 2", "bad"),
        )
    for number, (name, text, maps) in enumerate(_window_cases()):
        yield Case(
            name,
            "windows",
            windows(text, maps, train_on=number % 9 == 0),
            ("train.csv", "row 1", "windows"),
        )
