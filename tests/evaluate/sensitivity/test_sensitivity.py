"""Positions of every kind of tower, heatmaps under the evaluation transform, and the task."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import TINY
from open_clip.model import _build_vision_tower
from PIL import Image
from torch.nn.functional import interpolate, normalize

from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.placebo import centre_map
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.inputs.encoder import Encoder
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.heatmaps import (
    join_heatmaps,
    read_heatmap_tensor,
    suspicious_maps,
)
from openclip_eclip.evaluate.sensitivity import task as sensitivity
from openclip_eclip.evaluate.sensitivity.task import derangement
from openclip_eclip.metrics.pointing import pointing_scores
from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.towers.pool_attention import pool_attention
from openclip_eclip.towers.positions import (
    encode_positions,
    encode_tokens,
    project_tokens,
    similarity_map,
)

VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TIMM = {"timm_proj": "linear"}
TOWERS = {  # name: (config, side, grid, whether the positions' mean is the feature)
    "vit-class-token": (VIT, 64, (4, 4), False),
    "vit-average": ({**VIT, "pool_type": "avg"}, 64, (4, 4), True),
    "vit-attention-pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2},
        64,
        (4, 4),
        False,
    ),
    "modified-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, 64, (2, 2), False),
    "timm-vit-average": (
        {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg"},
        224,
        (14, 14),
        True,
    ),
    "timm-vit-token": (
        {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"},
        224,
        (14, 14),
        False,
    ),
    "timm-resnet": ({**TIMM, "timm_model_name": "resnet18", "timm_pool": "avg"}, 64, (2, 2), True),
    "timm-resnet-attention": (
        {"timm_proj": "", "timm_model_name": "resnet18", "timm_pool": "abs_attn"},
        224,
        (7, 7),
        False,
    ),
    "timm-convnext": (
        {**TIMM, "timm_model_name": "convnext_atto", "timm_pool": "avg"},
        64,
        (2, 2),
        False,
    ),
    "timm-swin": (
        {**TIMM, "timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "avg"},
        224,
        (7, 7),
        True,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_positions_of_each_kind_of_tower_have_the_expected_shape(name: str) -> None:
    config, side, grid, is_mean = TOWERS[name]
    torch.manual_seed(0)
    tower = _build_vision_tower(24, {**config, "image_size": side}).eval()
    with torch.no_grad():
        pixels = torch.randn(2, 3, side, side)
        positions, features = encode_positions(tower, pixels), tower(pixels)
        assert positions.shape == (2, *grid, 24)
        assert torch.isfinite(positions).all()
        if is_mean:
            torch.testing.assert_close(positions.mean((1, 2)), features, atol=1e-4, rtol=1e-4)
        else:
            assert not torch.allclose(positions.mean((1, 2)), features, atol=1e-4)
        assert not torch.allclose(positions[:, 0, 0], positions[:, -1, -1])


@pytest.mark.parametrize("name", ["vit-average", "timm-resnet", "timm-convnext"])
def test_features_of_an_image_with_one_position_are_those_of_the_position(name: str) -> None:
    config, _, grid, _ = TOWERS[name]
    side = 16 if "vit" in name else 32
    tower = _build_vision_tower(24, {**config, "image_size": side}).eval()
    with torch.no_grad():
        pixels = torch.randn(2, 3, side, side)
        torch.testing.assert_close(
            encode_positions(tower, pixels)[:, 0, 0], tower(pixels), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-average", "modified-resnet", "timm-swin"])
def test_rows_and_columns_are_not_swapped(name: str) -> None:
    """A change in a corner of the image changes the position of that corner most."""
    config, side, (rows, columns), _ = TOWERS[name]
    torch.manual_seed(0)
    tower = _build_vision_tower(24, {**config, "image_size": side}).eval()
    with torch.no_grad():
        pixels = torch.randn(1, 3, side, side)
        changed = pixels.clone()
        changed[..., : side // columns, -side // columns :] += 3  # top right
        difference = (encode_positions(tower, changed) - encode_positions(tower, pixels)).norm(
            dim=-1
        )[0]
    assert divmod(int(difference.argmax()), columns) == (0, columns - 1)


def test_unknown_towers_are_an_error() -> None:
    with pytest.raises(UserError, match="Linear: its features by position are not known"):
        encode_positions(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))


def test_similarity_is_a_cosine() -> None:
    positions = torch.tensor([[[[3.0, 4.0], [0.0, -2.0]]]])
    torch.testing.assert_close(
        similarity_map(positions, torch.tensor([[0.0, 1.0]])), torch.tensor([[[0.8, -1.0]]])
    )


def test_heatmaps_get_the_geometry_of_the_image(tmp_path: Path) -> None:
    """A wide image is resized by its shorter side and cropped at the centre.

    A mark on the image and on the map stay together.
    """
    pixels = np.zeros((40, 80), np.uint8)
    pixels[10:14, 50:54] = 255
    Image.fromarray(pixels).save(tmp_path / "film.png")
    Image.fromarray(pixels[::2, ::2]).save(tmp_path / "map.png")  # half the resolution
    pd.DataFrame({"filepath": ["film.png"], "heatmap": ["map.png"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    data = join_heatmaps(read_eval_set(tmp_path / "t.csv"), "heatmap", None)
    transform = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    image = Image.open(tmp_path / "film.png").convert("RGB")
    heatmap, transformed = read_heatmap_tensor(data, 0, image, transform)[0], transform(image)[0]
    assert heatmap.shape == transformed.shape == (32, 32)
    assert heatmap.max() == 1
    centre = [
        float((values.sum(axis) * torch.arange(32)).sum() / values.sum())
        for values in (heatmap, transformed)
        for axis in (1, 0)
    ]
    assert centre[:2] == pytest.approx(centre[2:], abs=0.5)
    Image.fromarray(
        np.eye(20, 40, dtype=np.uint8) * 0 + np.pad([[255]], ((0, 19), (0, 39))).astype(np.uint8)
    ).save(tmp_path / "map.png")
    with pytest.raises(UserError, match="is 0 everywhere in the centre crop"):
        read_heatmap_tensor(data, 0, image, transform)


def test_paths_in_a_second_table_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heatmaps are beside that table, or in the current folder.

    An image in it twice, or a cell that can mean two files, is an error.
    """
    for folder in ("data", "gaze", "start"):
        (tmp_path / folder).mkdir()
    for name in ("data/a.png", "data/b.png", "gaze/own.png", "start/other.png"):
        Image.new("L", (8, 8), 255).save(tmp_path / name)
    table, gaze = tmp_path / "data" / "t.csv", tmp_path / "gaze" / "g.csv"
    pd.DataFrame({"filepath": ["a.png", "b.png"]}).to_csv(table, index=False)
    rows = pd.DataFrame({"filepath": ["a.png", "b.png"], "heatmap": ["own.png", "other.png"]})
    rows.to_csv(gaze, index=False)
    monkeypatch.chdir(tmp_path / "start")
    for path in (gaze, Path("..") / "gaze" / "g.csv"):
        data = join_heatmaps(read_eval_set(table), "heatmap", path)
        assert [Path(cell).resolve() for cell in data.table["heatmap"]] == [
            tmp_path / "gaze" / "own.png",
            tmp_path / "start" / "other.png",
        ]
    (tmp_path / "start" / "own.png").write_bytes(b"")
    with pytest.raises(DataError, match="'own.png' in a table of .*gaze may be"):
        join_heatmaps(read_eval_set(table), "heatmap", gaze)
    pd.concat([rows, rows[:1]]).to_csv(gaze, index=False)
    with pytest.raises(
        DataError, match="g.csv: a.png has several heatmaps; expected one row for each image"
    ):
        join_heatmaps(read_eval_set(table), "heatmap", gaze)
    for content, message in (
        (b"", "g.csv: empty; expected a table"),
        (b"filepath,heatmap\n\xff.png,own.png\n", "g.csv, line 2: byte 0xff"),
        (
            b"filepath,heatmap\na.png,own.png,,\nb.png,other.png,,,\n",
            "g.csv, line 2: 4 fields, the header has 2",
        ),
    ):
        gaze.write_bytes(content)
        with pytest.raises(DataError, match=message):
            join_heatmaps(read_eval_set(table), "heatmap", gaze)


def test_shared_and_swapped_maps_and_near_columns_are_named(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.eye(8, dtype=np.uint8) * (40 + i)).save(tmp_path / f"{i}.png")
    for i in range(4):
        Image.fromarray(np.tri(8, dtype=np.uint8) * (40 + i)).save(tmp_path / f"map{i}.png")
    path = tmp_path / "t.csv"

    def result(*maps: str) -> list[str]:
        path.write_text(
            "filepath,heatmap\n" + "".join(f"{i}.png,{name}.png\n" for i, name in enumerate(maps))
        )
        return suspicious_maps(join_heatmaps(read_eval_set(path), "heatmap", None))

    assert result("map0", "map1", "map2", "map3") == []
    assert result("map0", "map0", "map0", "map3") == [
        "1 heatmap serves 3 different images (one of them 3); expected each image to have its own."
    ]
    assert result("1", "2", "3", "map0") == [
        "3 heatmaps are images of other samples; expected maps."
    ]
    path.write_text("filepath,heat_map\n0.png,1.png\n")
    with pytest.raises(UserError, match="no heatmaps; .* Did you mean 'heat_map'"):
        join_heatmaps(read_eval_set(path), "heatmap", None)


def test_derangement_has_no_fixed_point() -> None:
    for count in (2, 3, 50):
        order = derangement(count, 7)
        assert sorted(order) == list(range(count))
        assert all(i != target for i, target in enumerate(order))
        assert order == derangement(count, 7)
    centre = centre_map((9, 5))
    assert centre.argmax() == 4 * 5 + 2
    assert centre[0, 2] == pytest.approx(centre[8, 2])
    assert centre[0, 2] < 0.1


@pytest.mark.parametrize("name", ["vit-class-token", "modified-resnet"])
def test_maps_are_those_of_the_attention_methods(name: str) -> None:
    """Bit for bit what the formulas give, for each image its own text and its wrong one."""
    config, side, grid, _ = TOWERS[name]
    torch.manual_seed(0)
    visual = _build_vision_tower(24, {**config, "image_size": side}).eval()
    model = SimpleNamespace(visual=visual)
    encoder = Encoder(model, lambda image: None, lambda texts: None, torch.device("cpu"), "fp32")
    pixels, heatmaps, others = torch.rand(3, 3, side, side), *torch.rand(2, 3, 1, side, side)
    text, wrong = normalize(torch.randn(2, 3, 24), dim=-1)
    maps, sides, inside = sensitivity._maps(encoder, pixels, heatmaps, others, text, wrong)
    assert sides == grid and inside.shape == (3, 2)
    with torch.inference_mode():
        tokens = encode_tokens(visual, pixels)[1]
        expected = {
            "own report": similarity_map(project_tokens(visual, tokens), text),
            "another report": similarity_map(project_tokens(visual, tokens), wrong),
        }
        attention = pool_attention(visual, tokens)
        if attention is not None:
            expected = {"attention pool": attention.exp(), **expected}
        for key, small in expected.items():
            large = interpolate(small[:, None], size=side, mode="bilinear", align_corners=False)
            np.testing.assert_array_equal(maps[key], large[:, 0])
    assert list(maps) == [*expected, "centre", "another heatmap"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sensitivity") / "phantoms"
    assert prepare(["phantom", str(out), "--train", "4", "--test", "12"]) == 0
    return out


@pytest.mark.slow
def test_task_with_and_without_processor(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = [
        *("--pretrained", "random", "--data", str(phantoms / "test.csv")),
        *("--heatmaps", str(phantoms / "test_gaze.csv"), "--device", "cpu", "--workers", "0"),
        *("--cache", "none", "--batch-size", "5", "--heatmap-column", "gaze"),
    ]
    assert (
        main(["sensitivity", "--model", "eclip-tiny", *common, "--out", str(tmp_path / "e")]) == 0
    )
    values = json.loads((tmp_path / "e" / "result.json").read_text())["values"]
    assert values["identity_error"] < 1e-10
    assert values["grid"] == [2, 2]
    cosine = {name: result["cosine"]["value"] for name, result in values["processor"].items()}
    assert cosine["ones"] == pytest.approx(1, abs=1e-5)
    assert cosine["true"] < 0.999
    assert values["processor"]["ones"]["text_change"]["value"] == pytest.approx(0, abs=1e-5)
    assert (
        values["pointing"]["another heatmap"]["NSS"]["value"]
        != values["pointing"]["own report"]["NSS"]["value"]
    )
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "result.json",
        "result.md",
        "report.html",
        "maps.png",
        "predictions.npz",
    }
    assert main(["sensitivity", "--model", "tiny", *common, "--out", str(tmp_path / "p")]) == 0
    plain = json.loads((tmp_path / "p" / "result.json").read_text())
    assert "processor" not in plain["values"]
    assert any("No heatmap processor" in note for note in plain["notes"])
    assert plain["values"]["pointing"] == values["pointing"]
    assert (
        main(
            [
                *("sensitivity", "--model", "eclip-tiny"),
                *common,
                *("--precision", "bf16", "--out", str(tmp_path / "l")),
            ]
        )
        == 0
    )
    low = json.loads((tmp_path / "l" / "result.json").read_text())["values"]
    assert low["identity_error"] < 1e-3
    assert low["processor"]["true"]["cosine"]["value"] == pytest.approx(cosine["true"], abs=0.02)
    capsys.readouterr()
    assert main(["sensitivity", "--model", "tiny", *common[:4], "--out", str(tmp_path / "n")]) == 2
    assert "no heatmaps; expected a column 'heatmap'" in capsys.readouterr().err


@pytest.mark.slow
def test_attention_pool_is_the_map_of_a_tower_that_has_one(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are those of the enlarged attention of the pool.

    The figure and the value `look` show it.
    """
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TINY["text_cfg"],
    }
    (tmp_path / "pooled.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "pooled.json")
    torch.manual_seed(0)
    model = open_clip.create_model("pooled").eval()
    model.visual.attnpool.q_proj.weight.data *= 1000  # untrained attention is all but even
    shown = []
    monkeypatch.setattr(
        sensitivity,
        "_picture",
        lambda pictures, draw=sensitivity._picture: shown.extend(pictures) or draw(pictures),
    )
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    table = phantoms / "test.csv"
    assert (
        main(
            [
                *("sensitivity", "--model", "pooled", "--pretrained", str(tmp_path / "weights.pt")),
                *("--data", str(table), "--heatmaps", str(phantoms / "test_gaze.csv")),
                *("--heatmap-column", "gaze", "--device", "cpu", "--workers", "0"),
                *("--cache", "none", "--out", str(tmp_path / "o")),
            ]
        )
        == 0
    )
    values = json.loads((tmp_path / "o" / "result.json").read_text())["values"]
    assert values["look"] == "attention pool" == next(iter(values["pointing"]))
    assert values["pointing"]["own report"] != values["pointing"]["attention pool"]
    data, transform = (
        join_heatmaps(read_eval_set(table), "gaze", phantoms / "test_gaze.csv"),
        open_clip.image_transform(64, is_train=False),
    )
    scores, maps = [], []
    for row in range(len(data)):
        image = Image.open(phantoms / data.column("filepath")[row]).convert("RGB")
        with torch.no_grad():
            log = pool_attention(
                model.visual, encode_tokens(model.visual, transform(image)[None])[1]
            )
        result = torch.nn.functional.interpolate(log.exp()[None], size=(64, 64), mode="bilinear")[
            0, 0
        ]
        maps.append(result.numpy())
        scores.append(
            pointing_scores(
                result.numpy(), read_heatmap_tensor(data, row, image, transform)[0].numpy()
            )["NSS"]
        )
    assert values["pointing"]["attention pool"]["NSS"]["value"] == pytest.approx(
        np.mean(scores), abs=1e-4
    )
    assert max(one.max() / one.min() for one in maps) > 2
    assert len(shown) == 6
    assert all(np.allclose(picture[2], one, atol=1e-5) for picture, one in zip(shown, maps))
