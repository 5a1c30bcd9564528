"""Which regions a map of few positions can point at, and the examples of the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from openclip_eclip.benchmark.align_cells import MODEL
from openclip_eclip.benchmark.does_it_help.data import GROUNDING, Data, attention_method
from openclip_eclip.benchmark.does_it_help.examples import COUNT, draw_examples
from openclip_eclip.benchmark.does_it_help.regions import (
    make_regions,
    reachable,
    read_test_regions,
)
from openclip_eclip.benchmark.does_it_help.report import _unjudged
from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.evaluate.grounding.phrases import GroundingSet
from openclip_eclip.evaluate.inputs.encoder import Encoder, load_encoder, tokenize
from openclip_eclip.metrics.pointing import marked_region, pointing_scores
from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.towers.pool_attention import pool_attention
from openclip_eclip.towers.positions import project_tokens, similarity_map


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5), (8, 8), (40, 9)])
@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_every_maximum_of_an_enlarged_map_is_at_a_reachable_pixel(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    mask = reachable(grid, size)
    maps = torch.rand(300, 1, *grid, generator=torch.Generator().manual_seed(0), dtype=float)
    large = interpolate(maps, size=size, mode="bilinear").flatten(1)
    assert mask.ravel()[large.argmax(1)].all()


def test_two_positions_a_side_reach_the_corners_alone() -> None:
    mask = reachable((2, 2), (64, 64))
    assert mask[:17, :17].all() and mask[47:, 47:].all()
    assert not mask[17:47].any() and not mask[:, 17:47].any()
    assert reachable((3, 3), (63, 63))[31, 31]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models: one with a pool of 8 x 8 positions, one without a pool."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODEL.removeprefix("local-dir:"), folder / "pool")
    (folder / "vit").mkdir()
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 64, "patch_size": 8}}
    config = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "vit" / "open_clip_config.json").write_text(json.dumps(config))
    for name in ("pool", "vit"):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder / name}")
        for key, weight in model.named_parameters():
            if "qkv" in key:  # so that attention depends on the image
                weight.data *= 30
        save_file(model.state_dict(), folder / name / "open_clip_model.safetensors")
    return {name: folder / name for name in ("pool", "vit")}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    prepare(["phantom", str(folder), "--train", "2", "--test", "24"])
    rows = (folder / "test.csv").read_text().splitlines()
    gaze = dict(line.split(",") for line in (folder / "test_gaze.csv").read_text().splitlines())
    cells = [line.split(",")[0] for line in rows]
    named = [f"{line},{gaze[name]}" for line, name in zip(rows, cells, strict=True)]
    (folder / "t.csv").write_text("\n".join([named[0].replace("gaze", "heatmap"), *named[1:]]))
    return folder / "t.csv"


@pytest.fixture(scope="module")
def regions(table: Path) -> GroundingSet:
    return read_test_regions(grounding_data(table))


def grounding_data(table: Path) -> Data:
    tasks = {GROUNDING: ["--methods", "pool"]}
    return Data("", Path(), table, 0, None, tasks, None, {})


def test_attention_is_read_as_alignment_trains_it(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert attention_method(f"local-dir:{models['pool']}") == "pool"
    assert attention_method(MODEL) == "pool" and not caplog.records  # such as "random weights"
    assert attention_method(f"local-dir:{models['vit']}") == "similarity"


@torch.no_grad()
def former_scores(encoder: Encoder, pixels: Tensor, texts: list[str], gaze: Tensor) -> np.ndarray:
    """(N, 2): pointing game and NSS as the benchmark had them before it used `grounding`."""
    visual, tokens = encoder.model.visual, encoder.encode_tokens(pixels)
    attention = pool_attention(visual, tokens)
    if attention is not None:
        maps = attention.exp().float()
    else:
        features = encoder.encode_texts(tokenize(encoder, texts))
        maps = similarity_map(project_tokens(visual, tokens), features)
    large = interpolate(maps[:, None], size=gaze.shape[-2:], mode="bilinear")[:, 0].double()
    scores = [
        pointing_scores(one, heatmap)
        for one, heatmap in zip(large.numpy(), gaze.numpy().astype(float))
    ]
    return np.array([[one["pointing game"], one["NSS"]] for one in scores])


def blobs(folder: Path, count: int, side: int = 64) -> Path:
    """A table of noise with large round regions, so that an untrained model points at some."""
    rng, rows = np.random.default_rng(0), ["filepath,title,heatmap"]
    at = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), axis=-1)
    for i in range(count):
        distance = np.square(at - rng.uniform(0, side, 2)).sum(-1)
        for name, values in (
            (f"{i}.png", rng.integers(0, 256, (side, side, 3))),
            (f"map{i}.png", np.rint(255 * np.exp(-5 * distance / side**2))),
        ):
            Image.fromarray(values.astype(np.uint8)).save(folder / name)
        rows.append(f"{i}.png,image number {i},map{i}.png")
    (folder / "t.csv").write_text("\n".join(rows))
    return folder / "t.csv"


@pytest.mark.parametrize("name", ["pool", "vit"])
def test_pointing_game_is_what_it_was(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Images of the model's size: `grounding` neither crops nor scales them."""
    table = blobs(tmp_path, 24)
    regions = read_test_regions(grounding_data(table))
    encoder = load_encoder(str(models[name]), device="cpu")
    out, method = tmp_path / "result", attention_method(f"local-dir:{models[name]}")
    words = ["--model", str(models[name]), "--data", str(table), "--methods", method]
    assert evaluate(["grounding", *words, "--device", "cpu", "--out", str(out)]) == 0
    with np.load(out / "predictions.npz") as result:
        index = [result["classes"].tolist().index(metric) for metric in ("pointing game", "NSS")]
        found = result["score"][:, index]
    phrases = [regions.phrases[i] for i in regions.grounded]
    images = [Image.open(table.parent / one.id.split("#")[0]).convert("RGB") for one in phrases]
    pixels = torch.stack([encoder.transform(image) for image in images])
    gaze = torch.from_numpy(np.stack([phrase.target for phrase in phrases]))
    expected = former_scores(encoder, pixels, [phrase.text for phrase in phrases], gaze)
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-4)
    assert 0 < expected[:, 0].mean() < 1


def test_examples_are_random_images_with_every_method_and_prior(
    models: dict[str, Path], regions: GroundingSet
) -> None:
    examples = draw_examples(models, regions)
    assert examples.grid == (8, 8) and len(examples.figures) == COUNT == 20
    assert "first of 20 among 24 test images with a heatmap, drawn at random with seed 0" in (
        first := examples.captions["example_01"]
    )
    shown = [i for i in regions.grounded if f"“{regions.phrases[i].text[:300]}" in first]
    assert len(shown) >= 1
    for stem, figure in examples.figures.items():
        titles = [axis.get_title().split("\n")[0] for axis in figure.axes]
        assert titles[:4] == ["image", "expert", "pool", "vit"]
        assert titles[4] == "center" and titles[5].startswith("mean map")
        said = examples.captions[stem].rpartition("Maximum inside the region: ")[2]
        for name, axis in zip(("pool", "vit", "center"), figure.axes[2:]):
            assert (name in said) == axis.get_title().endswith("\ninside"), stem
            # the cross, against the region by its definition
            x, y = axis.lines[0].get_xdata()[0], axis.lines[0].get_ydata()[0]
            phrase = next(
                regions.phrases[i]
                for i in regions.grounded
                if f"“{' '.join(regions.phrases[i].text.split())}” " in examples.captions[stem]
            )
            inside = marked_region(phrase.target.astype(float))[int(y), int(x)]
            assert inside == axis.get_title().endswith("\ninside") or "%" in axis.get_title()


def test_examples_stay_under_ten_megabytes(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many methods as there are, on noise as fine as the maps, which no format compresses."""
    monkeypatch.setattr("openclip_eclip.benchmark.does_it_help.examples.COUNT", 1)
    many = {f"method {i}": models["pool"] for i in range(7)}
    examples = draw_examples(many, read_test_regions(grounding_data(blobs(tmp_path, 2, 224))))
    picture = tmp_path / "a.png"
    examples.figures["example_01"].savefig(picture, dpi=120, bbox_inches="tight")
    assert COUNT * 4 / 3 * picture.stat().st_size < 9e6  # base64
    assert matplotlib.image.imread(picture).shape[1] > 900


def test_too_few_positions_are_said_with_their_reason(regions: GroundingSet) -> None:
    few, many = make_regions(regions, (2, 2)), make_regions(regions, (8, 8))
    assert few.area == many.area and 0 < few.area < 0.2
    assert not few.can_be_pointed_at and many.can_be_pointed_at
    (line,) = _unjudged(few)
    assert "2 x 2 positions are too few" in line and f"{100 * few.reachable:.0f} % of the" in line
    assert _unjudged(many) == [] == _unjudged(None)
