"""Pseudo-heatmaps of a model for unannotated images, in tables and shards, and their errors."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import TINY, Launcher, write_shard, write_table
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from openclip_eclip import pseudo_heatmaps as pseudo
from openclip_eclip.data.check import main as check
from openclip_eclip.data.shards.tar_source import index_shard
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.prepare.__main__ import main

MODEL = ("--model", "tiny", "--pretrained", "random", "--device", "cpu", "--workers", "0")


def make(out: Path, data: Path | str, *flags: str) -> int:
    return main(["pseudo-heatmaps", str(out), "--data", str(data), *MODEL, *flags])


def read_map(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def to_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the attention of the model: it attends to the lightest position."""

    def attend(encoder: object, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        assert pixels.shape[1:] == (3, 32, 32) and len(captions) == len(pixels)
        return adaptive_avg_pool2d(pixels.mean(1), 4).flatten(1).softmax(1).unflatten(1, (4, 4))

    monkeypatch.setattr(pseudo, "attention_maps", attend)


def lit(size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    """A black image with a white corner of an eighth of its sides.

    `corner` is (0 for top or 1 for bottom, 0 for left or 1 for right).
    """
    values = np.zeros(size[::-1], np.uint8)
    rows, columns = (
        slice(0, side // 8) if at == 0 else slice(side - side // 8, side)
        for side, at in zip(values.shape, corner)
    )
    values[rows, columns] = 255
    return Image.fromarray(values)


@pytest.mark.slow
def test_output_table_has_a_heatmap_for_every_image(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Rows, their order and other columns are kept.

    A heatmap of an expert is the same file; the new files hold the attention maps of the model.
    """
    table = write_table(tmp_path / "data", 7, annotated=[2, 5])
    before = pd.read_csv(table)
    before.assign(filepath=[f"images/{i}.png" for i in range(7)], label=range(7)).to_csv(
        table, index=False
    )
    out = tmp_path / "taught"
    assert make(out, table, "--batch-size", "3") == 0
    assert (
        capsys.readouterr().out == f"pseudo-heatmaps: 5 written, 2 expert heatmaps kept, in {out}\n"
    )
    after = pd.read_csv(out / "train.csv")
    assert list(after) == ["filepath", "title", "heatmap", "label"]
    assert after["label"].tolist() == list(range(7))
    assert after["title"].equals(before["title"])
    assert all(
        (out / path).samefile(tmp_path / "data" / "images" / f"{i}.png")
        for i, path in enumerate(after["filepath"])
    )
    assert [Path(path).name for path in after["heatmap"]] == [
        "000001.png",
        "000002.png",
        "2.npy",
        "000004.png",
        "000005.png",
        "5.npy",
        "000007.png",
    ]
    assert after["heatmap"][0] == "heatmaps/000001.png"
    assert (out / after["heatmap"][2]).samefile(tmp_path / "data" / "images" / "2.npy")
    encoder = load_encoder("tiny", "random", device="cpu")
    for i in (0, 4, 6):
        pixels = encoder.transform(
            Image.open(tmp_path / "data" / "images" / f"{i}.png").convert("RGB")
        )[None]  # square: no crop in either transform
        attention = interpolate(
            pseudo.attention_maps(encoder, pixels, [before["title"][i]])[None],
            size=(32, 32),
            mode="bilinear",
        )[0, 0]
        np.testing.assert_allclose(
            read_map(out / after["heatmap"][i]), 255 * attention / attention.max(), atol=1
        )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == {"made": 5, "expert": 2, "unreadable": 0}
    assert manifest["parameters"]["weights_hash"] == encoder.facts["weights_hash"]
    assert check([str(out / "train.csv"), "--sheet", str(tmp_path / "sheet.png")]) == 0


@pytest.mark.slow
def test_report_changes_the_map_only_without_an_attention_pool(tmp_path: Path) -> None:
    """For two reports of one image, similarity maps differ, but attention of a pool does not."""
    (tmp_path / "pooled.json").write_text(
        json.dumps(
            {
                **TINY,
                "vision_cfg": {
                    **TINY["vision_cfg"],
                    "attentional_pool": True,
                    "attn_pooler_heads": 2,
                },
            }
        )
    )
    open_clip.add_model_config(tmp_path / "pooled.json")
    pixels = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)
    for name, same in (("tiny", False), ("pooled", True)):
        maps = pseudo.attention_maps(
            load_encoder(name, "random", device="cpu"),
            pixels,
            ["a nodule", "effusion on the left side"],
        )
        assert torch.allclose(*maps, atol=1e-4) == same
        assert torch.allclose(maps.sum((1, 2)), torch.ones(2))


@pytest.mark.slow
def test_low_precision(tmp_path: Path) -> None:
    """The maps of a bf16 model are fp32 and close to those of an fp32 model."""
    pixels = torch.randn(2, 3, 32, 32)
    exact, low = (
        pseudo.attention_maps(
            load_encoder("tiny", "random", precision=precision, device="cpu"),
            pixels,
            ["a nodule"] * 2,
        )
        for precision in ("fp32", "bf16")
    )
    assert low.dtype == exact.dtype == torch.float32 and not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, atol=0.02, rtol=0.1)


@pytest.mark.parametrize(
    ("size", "shape"), [((80, 40), (16, 32)), ((30, 60), (32, 16)), ((40, 40), (32, 32))]
)
@pytest.mark.parametrize("corner", [(0, 1), (1, 0)])
def test_map_covers_the_whole_image(
    tmp_path: Path,
    to_light: None,
    size: tuple[int, int],
    shape: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    """A map has the proportions of its image; the corner is that of the image, not of a crop."""
    lit(size, corner).save(tmp_path / "wide.png")
    (tmp_path / "t.tsv").write_text("img\tcaption\nwide.png\ta nodule\n")
    assert (
        make(
            tmp_path / "out",
            tmp_path / "t.tsv",
            *("--csv-img-key", "img"),
            *("--csv-caption-key", "caption"),
            *("--csv-heatmap-key", "gaze"),
        )
        == 0
    )
    row = pd.read_csv(tmp_path / "out" / "t.tsv", sep="\t").iloc[0]
    values = read_map(tmp_path / "out" / row["gaze"])
    assert values.shape == shape
    assert values[-corner[0], -corner[1]] == 255
    assert values[corner[0] - 1, corner[1] - 1] < 200


def test_sentence_windows_are_kept(tmp_path: Path, to_light: None) -> None:
    table = write_table(tmp_path / "data", 2)
    (tmp_path / "data" / "w.windows.json").write_text("[]")
    pd.read_csv(table).assign(windows=["w.windows.json", ""]).to_csv(table, index=False)
    assert make(tmp_path / "out", table) == 0
    cells = pd.read_csv(tmp_path / "out" / "train.csv", keep_default_na=False)["windows"]
    assert (tmp_path / "out" / cells[0]).samefile(tmp_path / "data" / "w.windows.json")
    assert cells[1] == ""


@pytest.mark.slow
def test_output_shards_have_one_more_member(
    tmp_path: Path, to_light: None, capsys: pytest.CaptureFixture
) -> None:
    """Shards keep their names, and samples their order and all their bytes.

    Annotated samples are unchanged.
    """
    corners = {"b": (0, 1), "c": (1, 1), "a": (1, 0)}  # c is annotated
    for number in (0, 1):
        members = {}
        for key, corner in corners.items():
            stream, heat = io.BytesIO(), io.BytesIO()
            lit((40, 20), corner).save(stream, "PNG")
            # of another size: the bytes of the image would be a fault
            lit((20, 10), corner).save(heat, "PNG")
            members |= {
                f"{key}.png": stream.getvalue(),
                f"{key}.txt": f"report {key}".encode(),
                f"{key}.json": b"{}",
                **({"c.heatmap.png": heat.getvalue()} if key == "c" else {}),
            }
        write_shard(tmp_path / f"train-{number}.tar", members)
    out = tmp_path / "out"
    assert make(out, tmp_path / "train-{0..1}.tar", "--batch-size", "2") == 0
    assert "4 written, 2 expert heatmaps kept" in capsys.readouterr().out
    for number in (0, 1):
        old, new = (
            index_shard(tmp_path / f"train-{number}.tar"),
            index_shard(out / f"train-{number}.tar"),
        )
        assert [entry.key for entry in new] == list(corners) and new[1].read() == old[1].read()
        for was, entry in zip(old[::2], new[::2]):
            content, (top, left) = entry.read(), corners[entry.key]
            values = np.asarray(Image.open(io.BytesIO(content.pop("heatmap.png"))))
            assert content == was.read() and values.shape == (16, 32) and values[-top, -left] == 255
    assert json.loads((out / "sizes.json").read_text()) == {"train-0.tar": 3, "train-1.tar": 3}
    assert check([str(out / "train-0.tar"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    assert (
        make(
            tmp_path / "third", f"{tmp_path / 'train-0.tar'}::{tmp_path / 'other' / 'train-0.tar'}"
        )
        == 2
    )


@pytest.mark.parametrize(
    ("broken", "flags", "code", "message"),
    [
        ("filled", (), 2, "is not empty; expected a new folder"),
        ("none", (), 2, "every image already has a heatmap"),
        ("image", (), 2, "row 2, column 'filepath'"),
        ("missing", (), 2, "no such image"),
        ("image", ("--on-bad-sample", "skip"), 0, "2 written, 0 expert heatmaps kept"),
        ("tables", (), 2, "2 tables; expected one table"),
        ("column", (), 2, "Name yours with --csv-img-key"),
        ("grid", (), 2, "there is nothing to align"),
    ],
)
def test_errors_and_skipped_images(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    broken: str,
    flags: tuple,
    code: int,
    message: str,
) -> None:
    table, out = (
        write_table(tmp_path, 3, annotated=range(3) if broken == "none" else ()),
        tmp_path / "out",
    )
    data = f"{table}::{table}" if broken == "tables" else table
    if broken == "filled":
        out.mkdir()
        (out / "x").touch()
    elif broken in ("image", "missing"):
        (tmp_path / "images" / "1.png").unlink()
        if broken == "image":
            (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    elif broken == "column":
        table.write_text(table.read_text().replace("filepath", "file"))
    elif broken == "grid":
        (tmp_path / "one.json").write_text(
            json.dumps({**TINY, "vision_cfg": {**TINY["vision_cfg"], "patch_size": 32}})
        )
        open_clip.add_model_config(tmp_path / "one.json")
        flags = ("--model", "one")
    assert make(out, data, *flags) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    if code == 0:
        assert "1 image without a heatmap, unreadable" in captured.out
        assert pd.read_csv(out / "train.csv")["heatmap"].isna().tolist() == [False, True, False]


@pytest.mark.slow
def test_student_trains_on_pseudo_heatmaps_of_a_teacher_run(
    launcher: Launcher, tmp_path: Path
) -> None:
    """The three commands: train a teacher, write its pseudo-heatmaps, train a student on them."""
    write_table(tmp_path, 16, annotated=[1, 4])
    flags = (
        *("--model", "tiny"),
        *("--recipe", "eclip-plus"),
        *("--precision", "fp32"),
        *("--workers", 0),
        *("--warmup", 1),
        *("--batch-size", 8),
        *("--epochs", 1),
        *("--device", "cpu"),
        *("--logs", "logs"),
    )
    launcher.train((*flags, "--train-data", "train.csv", "--name", "teacher"))
    done = launcher.run(
        "openclip_eclip.prepare",
        ("pseudo-heatmaps", "taught", "--model", "logs/teacher", "--data", "train.csv"),
    )
    assert "14 written, 2 expert heatmaps kept" in done.stdout
    launcher.train((*flags, "--train-data", "taught/train.csv", "--name", "student"))
    assert "eclip: 2 annotated samples" in launcher.log("teacher")
    assert "eclip: 16 annotated samples" in launcher.log("student")
