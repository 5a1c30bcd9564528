"""Small shards of the eCLIP authors: members, manifests, sparse maps, and their errors."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import read_shard, write_shard
from PIL import Image
from scipy.sparse import csr_matrix

from openclip_eclip.data.check import check_entries
from openclip_eclip.data.shards.tar_source import index_shard
from openclip_eclip.prepare.__main__ import main

SIZE = (40, 30)  # height, width
NPZ = "heatmap_0.npz"


def picture(seed: int = 0, form: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)).save(
        stream, form
    )
    return stream.getvalue()


def csr(values: np.ndarray, **changes: object) -> bytes:
    """A matrix as scipy.sparse.save_npz writes it, with the arrays of `changes` replaced."""
    matrix, stream = csr_matrix(values), io.BytesIO()
    arrays = {
        "shape": np.array(matrix.shape),
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "data": matrix.data,
    }
    np.savez(stream, **{**arrays, **changes, "format": b"csr"})
    return stream.getvalue()


def spot(row: int, column: int, peak: float = 0.5) -> np.ndarray:
    values = np.zeros(SIZE)
    values[row : row + 8, column : column + 8] = peak
    return values


def expert(
    key: str, maps: dict[str, bytes], manifest: object = None, snippets: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """The members of one expert sample; the manifest names `maps` and `snippets` in order."""
    texts = {f"snippet_{i}.txt": text.encode() for i, text in enumerate(snippets)}
    entries = [
        {"heatmap": name, "snippet": f"snippet_{i}.txt"} if i < len(snippets) else {"heatmap": name}
        for i, name in enumerate(maps)
    ]
    members = {
        "img.jpg": picture(),
        "report.txt": b"A nodule.",
        "manifest.json": json.dumps(entries if manifest is None else manifest).encode(),
    }
    return {f"{key}.{name}": content for name, content in {**members, **maps, **texts}.items()}


def pair(key: str, seed: int = 0, form: str = "JPEG") -> dict[str, bytes]:
    return {
        f"{key}.frontal_img": picture(seed, form),
        f"{key}.report": f"Report {key}, 5 µm.".encode(),
    }


def write(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_shard(folder / name, members)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "src" / "train", "a.tar", {**pair("k1"), **pair("k2", 2, "PNG")})
    write(tmp_path / "src" / "train", "b.tar", pair("k3", 3))
    write(tmp_path / "src" / "val", "a.tar", pair("k4", 4))
    return tmp_path / "src"


def prepare(tmp_path: Path, *flags: object, out: str = "out") -> int:
    return main(["eclip-shards", str(tmp_path / "src"), str(tmp_path / out), *map(str, flags)])


def read_map(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_pairs_become_shards(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prepare(tmp_path, "--size", 20) == 0 and "train 3, val 1" in capsys.readouterr().out
    out = tmp_path / "out"
    assert json.loads((out / "sizes.json").read_text()) == {
        "train-000000.tar": 2,
        "train-000001.tar": 1,
        "val-000000.tar": 1,
    }
    written = read_shard(out / "train-000000.tar")
    assert list(written) == ["k1.jpg", "k1.txt", "k2.jpg", "k2.txt"]
    assert written["k2.txt"].decode() == "Report k2, 5 µm."
    assert Image.open(io.BytesIO(written["k2.jpg"])).format == "JPEG"
    assert Image.open(io.BytesIO(written["k2.jpg"])).size == (20, 27)
    assert prepare(tmp_path, "--size", "original", out="b") == 0
    written = read_shard(tmp_path / "b" / "train-000000.tar")
    assert written["k1.jpg"] == picture()
    assert Image.open(io.BytesIO(written["k2.jpg"])).size == SIZE[::-1]


@pytest.mark.slow
def test_heatmaps_are_the_mean_of_all_or_the_first(source: Path, tmp_path: Path) -> None:
    """Maps in [0, 1] and in [0, 255] have the same weight.

    The authors' reader would turn the first into zeros.
    """
    maps = {
        NPZ: csr(spot(0, 0)),
        "heatmap_1.json": (
            json.dumps(
                {
                    k: v.tolist()
                    for k, v in np.load(io.BytesIO(csr(spot(20, 16, 255).astype(np.uint8)))).items()
                    if k != "format"
                }
            ).encode()
        ),
        "2.npz": csr(spot(20, 16), data=np.full(64, 9, np.float16)),
    }
    write(tmp_path / "expert", "x.tar", expert("e1", maps, snippets=("Nodule here.", "There too.")))
    for how, low in (("mean", 128), ("first", 255)):
        assert (
            prepare(
                tmp_path,
                *("--expert", tmp_path / "expert"),
                *("--heatmaps", how),
                *("--size", "original"),
                out=how,
            )
            == 0
        )
        shard = tmp_path / how / "expert-000000.tar"
        written = read_shard(shard)
        drawn = read_map(written["e1.heatmap.png"])
        assert drawn.shape == SIZE
        assert drawn[4, 4] == low
        assert drawn[24, 20] == (255 if how == "mean" else 0)
        assert drawn[15, 4] == 0
        assert json.loads(written["e1.json"]) == {"snippets": ["Nodule here.", "There too."]}
        assert written["e1.txt"] == b"A nodule."
        assert not check_entries(index_shard(shard), decode_images=True).faults
    assert prepare(tmp_path, "--expert", tmp_path / "expert", "--size", 20, out="small") == 0
    small = read_shard(tmp_path / "small" / "expert-000000.tar")
    assert (
        Image.open(io.BytesIO(small["e1.jpg"])).size
        == read_map(small["e1.heatmap.png"]).shape[::-1]
        == (20, 27)
    )


def test_without_a_manifest_or_its_heatmap_samples_stay_as_plain_pairs(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lone = {name: content for name, content in expert("e3", {}).items() if "manifest" not in name}
    write(
        tmp_path / "expert",
        "x.tar",
        {
            **expert("e1", {}, [{"heatmap": NPZ}]),
            **expert("e2", {}, []),
            **lone,
            **expert("e4", {NPZ: csr(spot(0, 0))}, [{"heatmap": NPZ, "snippet": "gone.txt"}]),
        },
    )
    assert prepare(tmp_path, "--expert", tmp_path / "expert") == 0
    assert "expert 4" in capsys.readouterr().out
    written = read_shard(tmp_path / "out" / "expert-000000.tar")
    assert [name for name in written if "heatmap" in name] == ["e4.heatmap.png"]
    assert {f"e{i}.txt" for i in (1, 2, 3, 4)} <= set(written)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["left_out"] == {
        "not annotated: a heatmap named by the manifest is missing": 1,
        "a snippet is missing": 1,
        "not annotated: no or an empty manifest": 2,
    }
    assert (
        "x.tar, e1"
        in manifest["examples"]["not annotated: a heatmap named by the manifest is missing"][0]
    )


GOOD = csr(spot(0, 0))
BAD_MAPS = {
    "indices-out-of-range": (csr(spot(0, 0), indices=np.full(64, 30)), "indices must be < 30"),
    "fractional-indices": (csr(spot(0, 0), indices=np.full(64, 1.5)), "indices of type float64"),
    "indptr-length": (csr(spot(0, 0), indptr=np.arange(3)), "index pointer size"),
    "lengths-differ": (csr(spot(0, 0), data=np.ones(63)), "same size"),
    "three-dimensions": (csr(spot(0, 0), shape=np.array([40, 30, 1])), "shape must have length"),
    "no-dimension": (csr(spot(0, 0), shape=np.array(40)), "shape must have length"),
    "transposed": (csr(spot(0, 0).T), "fits transposed"),
    "half-size": (csr(spot(0, 0)[::2, ::2]), "20 x 15 .* --resized-heatmaps"),
    "nan": (csr(spot(0, 0), data=np.full(64, np.nan)), "NaN"),
    "negative": (csr(-spot(0, 0)), "no negative"),
    "all-zero": (csr(np.zeros(SIZE)), "all zero"),
    "object-array": (csr(spot(0, 0), data=np.array([{}] * 64)), "pickles"),
    "pickle": (b"\x80\x04K\x01.", "Pickles are never read"),
    "cut-off": (GOOD[:200], "unreadable"),
    "json": (b'{"shape": [40, 30]}', "KeyError 'indices'"),
    "json-objects": (
        b'{"shape": [1, 1], "indices": [0], "indptr": [0, 1], "data": [{}]}',
        "TypeError",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("content,message", BAD_MAPS.values(), ids=BAD_MAPS)
def test_error_of_a_bad_heatmap_names_shard_and_key(
    content: bytes, message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(
        tmp_path / "expert", "x.tar", {**expert("e1", {NPZ: GOOD}), **expert("e2", {NPZ: content})}
    )
    assert prepare(tmp_path, "--expert", tmp_path / "expert") == 2
    assert re.search(rf"x\.tar, e2\.heatmap_0\.npz.*{message}", capsys.readouterr().err)
    assert not (tmp_path / "out" / "expert-000000.tar").exists()
    assert (tmp_path / "out" / "train-000000.tar").exists()
    assert prepare(tmp_path, "--expert", tmp_path / "expert", "--on-bad-sample", "skip") == 0
    assert json.loads((tmp_path / "out" / "sizes.json").read_text())["expert-000000.tar"] == 1
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["skipped"]) == [
        f"{tmp_path / 'expert' / 'x.tar'}, e2"
    ]


def test_resized_maps_need_their_flag(source: Path, tmp_path: Path) -> None:
    write(tmp_path / "expert", "x.tar", expert("e1", {NPZ: csr(spot(20, 16)[::2, ::2])}))
    assert (
        prepare(
            tmp_path, "--expert", tmp_path / "expert", "--resized-heatmaps", "--size", "original"
        )
        == 0
    )
    drawn = read_map(read_shard(tmp_path / "out" / "expert-000000.tar")["e1.heatmap.png"])
    assert drawn.shape == SIZE and drawn[24, 20] == 255 and drawn[10, 20] == drawn[24, 6] == 0


BROKEN = {
    "expert-in-train": (
        lambda path: write_shard(path, expert("e1", {NPZ: GOOD})),
        r"b\.tar, e1: members .*without frontal_img and report",
    ),
    "no-image": (
        lambda path: write_shard(path, {**pair("k1"), "k1.frontal_img": b"none"}),
        r"b\.tar, k1\.frontal_img: unreadable",
    ),
    "empty-report": (
        lambda path: write_shard(path, {**pair("k1"), "k1.report": b" "}),
        r"k1\.report: empty",
    ),
    "latin-1": (
        lambda path: write_shard(path, {**pair("k1"), "k1.report": b"5 \xb5m"}),
        r"k1\.report: not UTF-8",
    ),
    "scattered": (
        lambda path: write_shard(path, {**pair("k1"), **pair("k2"), "k1.other": b""}),
        "k1: its members are not together",
    ),
    "cut-in-member": (
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        r"b\.tar: not a complete tar",
    ),
    "cut-in-header": (
        lambda path: path.write_bytes(path.read_bytes()[: header(path) + 100]),
        r"b\.tar: not a complete tar",
    ),
    "damaged-header": (
        lambda path: path.write_bytes(path.read_bytes()[: header(path)] + b"x" * 512 + bytes(1024)),
        r"b\.tar: not a complete tar",
    ),
    "no-samples": (lambda path: write_shard(path, {}), r"b\.tar: no samples"),
}


def header(path: Path) -> int:
    """The offset of the second member, in bytes."""
    with tarfile.open(path) as archive:
        return archive.getmembers()[1].offset


@pytest.mark.parametrize("change,message", BROKEN.values(), ids=BROKEN)
def test_bad_shards_are_errors(
    change, message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    change(source / "train" / "b.tar")
    assert prepare(tmp_path) == 2
    assert re.search(message, capsys.readouterr().err)
    # damaged archives are found before anything is written
    planned = not re.search("not a complete|no samples|not together", message)
    assert (tmp_path / "out" / "train-000000.tar").exists() == planned
    assert not (tmp_path / "out" / "train-000001.tar").exists()


@pytest.mark.parametrize(
    "manifest",
    [{"heatmap": NPZ}, ["heatmap_0.npz"], [{"heatmap": 1}], [{"snippet": "s.txt"}]],
    ids=str,
)
def test_manifests_of_another_form_are_errors(
    manifest: object, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "expert", "x.tar", expert("e1", {NPZ: GOOD}, manifest))
    assert prepare(tmp_path, "--expert", tmp_path / "expert") == 2
    assert "x.tar, e1.manifest.json: " in capsys.readouterr().err


def test_parts_equal_the_whole_and_repeated_runs_keep_shards(source: Path, tmp_path: Path) -> None:
    assert prepare(tmp_path, out="whole") == 0
    for part in ("1/2", "0/2"):
        assert prepare(tmp_path, "--part", part) == 0
    contents = [
        {
            str(path.relative_to(tmp_path / out)): path.read_bytes()
            for path in (tmp_path / out).rglob("*")
            if path.is_file()
        }
        for out in ("whole", "out")
    ]
    assert contents[0] == contents[1]
    kept, lost = tmp_path / "out" / "train-000000.tar", tmp_path / "out" / "train-000001.tar"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    lost.unlink()
    assert prepare(tmp_path) == 0
    assert lost.exists()
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before


def test_dry_run_reads_names_alone_and_limit_counts_by_split(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(
        tmp_path / "expert",
        "x.tar",
        {**expert("e1", {NPZ: b"not read"}), **{"e2.img.jpg": b"", "e2.report.txt": b""}},
    )
    assert prepare(tmp_path, "--expert", tmp_path / "expert", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "split train: 3 samples in 2 shards, 0 with a manifest" in printed
    assert "split expert: 2 samples in 1 shard, 1 with" in printed
    assert not (tmp_path / "out").exists()
    for limit, sizes in (
        (1, {"train-000000.tar": 1, "val-000000.tar": 1}),
        (2, {"train-000000.tar": 2, "val-000000.tar": 1}),
    ):
        assert prepare(tmp_path, "--limit", limit, out=f"out{limit}") == 0
        assert json.loads((tmp_path / f"out{limit}" / "sizes.json").read_text()) == sizes


def test_samples_of_a_table_get_new_file_names(tmp_path: Path) -> None:
    """A key such as ../../x does not leave OUT; the table can be trained on like the shards."""
    write(tmp_path / "src" / "train", "a.tar", {**pair("../../k1"), **pair("k2", 2)})
    write(
        tmp_path / "expert",
        "x.tar",
        expert("e1", {NPZ: csr(spot(0, 0))}, snippets=("Nodule here.",)),
    )
    assert (
        prepare(tmp_path, "--expert", tmp_path / "expert", "--format", "csv", "--workers", 1) == 0
    )
    out = tmp_path / "out"
    table, annotated = (
        pd.read_csv(out / f"{name}.csv", keep_default_na=False) for name in ("train", "expert")
    )
    assert list(table["key"]) == ["../../k1", "k2"]
    assert list(table["filepath"]) == [
        "images/train-000000-000000.jpg",
        "images/train-000000-000001.jpg",
    ]
    assert list(table["title"]) == ["Report ../../k1, 5 µm.", "Report k2, 5 µm."]
    assert list(table["heatmap"]) == ["", ""]
    assert read_map((out / annotated["heatmap"][0]).read_bytes())[4, 4] == 255
    assert "Nodule here." in annotated["snippets"][0]
    assert not list(out.glob("*.tar")) and not (out / "sizes.json").exists()


def test_other_settings_sources_and_wrong_folders_are_errors(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert prepare(tmp_path) == 0
    assert prepare(tmp_path, "--heatmaps", "first") == 2
    assert "other settings (heatmaps)" in capsys.readouterr().err
    # sizes tell: 10 KiB blocks
    write_shard(source / "train" / "b.tar", {**pair("k3"), **{f"k3.{i}": b"" for i in range(20)}})
    assert prepare(tmp_path) == 2 and "other settings (shards)" in capsys.readouterr().err
    assert prepare(tmp_path, "--expert", tmp_path / "none", out="b") == 2
    assert "no *.tar in this folder" in capsys.readouterr().err
    assert main(["eclip-shards", str(tmp_path), str(tmp_path / "b")]) == 2
    assert "neither train/*.tar nor val/*.tar" in capsys.readouterr().err
