"""`attend`, in Python and as a command."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from chromium import CHROMIUM, Chromium
from conftest import TINY
from PIL import Image

import openclip_eclip
from openclip_eclip.annotations.drawn.predicted import Region
from openclip_eclip.attend_command import (
    build_parser,
    main,
    model_names,
    read_models,
    read_size,
    run,
)
from openclip_eclip.attend_samples import read_samples
from openclip_eclip.attention.methods import attention_maps
from openclip_eclip.attention.overlay import look_at, on_image
from openclip_eclip.config import UserError
from openclip_eclip.gaze import decode_rle


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("configs") / "attend-tiny.json"
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 64}}
    path.write_text(json.dumps(config))
    config["vision_cfg"]["layers"] = 1
    path.with_name("attend-2.json").write_text(json.dumps(config))
    open_clip.add_model_config(path.parent)


@pytest.mark.parametrize("name", ["attend-tiny", "eclip-attend-tiny"])
def test_maps_of_every_pair(name: str) -> None:
    model, _, _ = open_clip.create_model_and_transforms(name)
    model.train()
    tokens = open_clip.get_tokenizer("attend-tiny")(["a dog", "a cat", "a tree"])
    images = torch.randn(2, 3, 64, 64)
    maps = openclip_eclip.attend(model, images, tokens)
    assert maps.shape == (2, 3, 4, 4) and model.training
    with torch.no_grad():
        text = model.eval().encode_text(tokens, normalize=True)
    expected = attention_maps("rollout", model, images, text[[1]], torch.tensor([1]))
    torch.testing.assert_close(maps[1, 1], expected[0])
    assert not torch.equal(maps, openclip_eclip.attend(model, images, tokens, "gradcam"))


def test_coca_is_refused() -> None:
    model = open_clip.CoCa.__new__(open_clip.CoCa)
    torch.nn.Module.__init__(model)
    with pytest.raises(UserError, match="a CoCa reads its image by many queries"):
        openclip_eclip.attend(model, torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.long))


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("a.png", (90, 60)), ("b.jpg", (64, 80))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / name)


def flags(out: Path) -> list[str]:
    model = ["--model", "attend-tiny", "--pretrained", "random", "--device", "cpu"]
    return [*model, "--out", str(out)]


def test_command_writes_maps_overlays_regions_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_images(tmp_path / "in")
    out = tmp_path / "out"
    texts = ["--text", "a dog", "--text", "a <b>cat</b>"]
    methods = ["--methods", "similarity", "center"]
    assert main([str(tmp_path / "in"), *texts, *methods, *flags(out)]) == 0
    summary = capsys.readouterr().out
    assert summary.startswith("2 images, 8 maps in ")
    assert "the same for every text" not in summary  # similarity is not, the centre needs no words
    rows = list(csv.DictReader((out / "attend.csv").open()))
    assert [(row["text"], row["method"]) for row in rows[:3]] == [
        ("a dog", "similarity"),
        ("a <b>cat</b>", "similarity"),
        ("a dog", "center"),
    ]
    maps = np.load(out / "maps" / "a-similarity.npy")
    assert maps.shape == (2, 4, 4) and maps.dtype == np.float32
    # the table and the regions are of the same map, at the size of the image
    large = on_image(maps[1], (60, 90))
    assert large[int(rows[1]["y"]), int(rows[1]["x"])] == large.max()
    content = json.loads((out / "regions.json").read_text())
    coded = content["annotations"][1]["segmentation"]
    region = decode_rle(coded["counts"], tuple(coded["size"]), "coco")
    middle = maps[1].min() + (maps[1].max() - maps[1].min()) / 2
    assert ((region != 0) == (large >= middle)).all()
    assert Image.open(out / "overlays" / "b-center-0.png").size == (320, 400 + 58)
    page = (out / "gallery.html").read_text()
    assert "<b>cat" not in page and "similarity" in page


def test_a_table_gives_texts_and_maps_of_experts(tmp_path: Path) -> None:
    write_images(tmp_path / "in")
    marked = np.zeros((80, 64), np.uint8)
    marked[30:50, 20:44] = 255
    Image.fromarray(marked).save(tmp_path / "in" / "b_map.png")
    (tmp_path / "in" / "t.csv").write_text(
        "filepath,title,heatmap\na.png,first,\nb.jpg,second,b_map.png\n"
    )
    out = tmp_path / "out"
    assert main([str(tmp_path / "in" / "t.csv"), "--methods", "center", *flags(out)]) == 0
    rows = list(csv.DictReader((out / "attend.csv").open()))
    assert [row["text"] for row in rows] == ["first", "second"]
    assert [row["inside expert's region"] for row in rows] == ["", "1"]
    # maps of another table, as those of `prepare phantom`; other images are an error
    (tmp_path / "gaze.csv").write_text("filepath,gaze\nin/b.jpg,in/b_map.png\n")
    images = [str(tmp_path / "in" / "b.jpg"), "--text", "a", "--methods", "center"]
    more = ["--heatmaps", str(tmp_path / "gaze.csv"), "--heatmap-column", "gaze"]
    assert main([*images, *more, *flags(tmp_path / "second")]) == 0
    (row,) = csv.DictReader((tmp_path / "second" / "attend.csv").open())
    assert row["inside expert's region"] == "1"
    images[0] = str(tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match="none of its 1 images is one of the 1 images shown"):
        run(build_parser().parse_args([*images, *more, *flags(tmp_path / "third")]))


def test_a_hit_is_of_the_maximum() -> None:
    image = Image.new("RGB", (40, 40))
    attention = np.array([[0.0, 0.1], [0.2, 0.9]])
    expert = np.zeros((40, 40), np.float32)
    expert[:20] = 1
    assert look_at(image, "t", attention, 0.5, expert).hit is False
    assert look_at(image, "t", attention, 0.5, expert[::-1]).hit is True
    look = look_at(image, "t", attention, 0.5, None)
    assert look.hit is None and look.row["inside expert's region"] == ""
    assert isinstance(look.region, Region) and look.region.mask[39, 39]
    flat = look_at(image, "t", np.full((2, 2), 0.3), 0.5, None)  # no contrast: nothing is marked
    assert not flat.region.mask.any()


def test_an_overlay_shows_the_image_the_map_and_the_experts_outline() -> None:
    """What the map leaves out is the image; the outline is white on black."""
    image = Image.new("RGB", (400, 400), "#808080")
    attention = np.array([[0.0, 0.0], [0.0, 0.9]])
    expert = np.zeros((40, 40), np.float32)
    expert[:, :20] = 1  # the left half, to the edge of the image

    def picture(expert: np.ndarray | None) -> Image.Image:
        return Image.open(io.BytesIO(look_at(image, "t", attention, 0.5, expert).png))

    plain, outlined = picture(None), picture(expert)
    assert plain.getpixel((60, 60)) == (128, 128, 128)
    red, green, blue = plain.getpixel((390, 390))  # yellow
    assert min(red, green) > blue + 50
    row = [outlined.getpixel((x, 200)) for x in range(400)]
    for x in (0, 199):
        assert row[x] == (255, 255, 255)
    assert row[2] == row[197] == row[201] == (0, 0, 0)
    assert row[:100].count((0, 0, 0)) == 1 and outlined.height > plain.height


@pytest.mark.slow
def test_a_map_that_is_the_same_for_every_text_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_images(tmp_path / "in")
    config = tmp_path / "attend-pool.json"
    vision = {**TINY["vision_cfg"], "image_size": 64, "attentional_pool": True}
    config.write_text(json.dumps({**TINY, "vision_cfg": {**vision, "attn_pooler_heads": 2}}))
    open_clip.add_model_config(config)
    words = [str(tmp_path / "in"), "--text", "a dog", "--text", "a cat", "--device", "cpu"]
    words += ["--model", "attend-pool", "--pretrained", "random", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = (
        "The map of pool is the same for every text. These --methods depend on the text, where the"
        " image tower has them: similarity, maskclip, registers, gradcam, rollout."
    )
    assert capsys.readouterr().out.count(said) == 1
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert page.count(said) == 1 and "<h2 id=models-name>Method</h2>" in page


@pytest.mark.parametrize(
    "words, message",
    [
        (["nothing.png", "--text", "a"], "nothing.png: no such file"),
        (["in", "--text", "a", "--methods", "pool"], "has no learned attention pool"),
        (["in"], "no --text, and images without texts"),
        (["empty", "--text", "a"], "empty: no image"),
        (["bad.csv", "--text", "a"], "columns path; expected one called filepath"),
        (["in/broken.png", "--text", "a"], "broken.png"),
        (["in", "--text", "a", "--force-image-size", "70"], "expected multiples of 16 x 16"),
        (["in", "--text", "a", "--out", "bad.csv"], "bad.csv is a file; expected a folder"),
        (["in", "--text", "a", "--out", "bad.csv/x"], "bad.csv is a file; expected a folder"),
        (["in", "--text", "a", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
    ],
)
def test_errors_are_one_sentence(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("in"))
    Path("empty").mkdir()
    Path("bad.csv").write_text("path\na.png\n")
    if "broken" in words[0]:
        Path("in/broken.png").write_bytes(b"no picture")
    assert main([words[0], *flags(Path("out")), *words[1:]]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_names_are_unique(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_images(tmp_path / folder)
    samples = read_samples([tmp_path / "x", tmp_path / "y"], "heatmap")
    assert [sample.name for sample in samples] == ["a", "b", "a_2", "b_2"]


def read_rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "attend.csv").open()))


def test_several_models_methods_and_another_size(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each model's maps are those that it has alone, whatever the batch."""
    write_images(tmp_path / "in")
    (tmp_path / "in" / "t.csv").write_text("filepath,title\na.png,first one\nb.jpg,second\n")
    shown = [str(tmp_path / "in" / "t.csv"), "--device", "cpu", "--force-image-size", "64", "96"]
    shown += ["--methods", "similarity", "center"]
    first, second = (["--model", "attend-tiny", "--pretrained", "random"], ["--model", "attend-2"])
    second += ["--pretrained", "random"]
    out = tmp_path / "out"
    assert main([*shown, *first, *second, "--batch-size", "9", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 images, 8 maps in ")
    for flags_, name in ((first, "attend-tiny_random"), (second, "attend-2_random")):
        alone = tmp_path / name
        assert main([*shown, *flags_, "--batch-size", "1", "--out", str(alone)]) == 0
        for image in "ab":
            maps = np.load(out / "maps" / f"{image}-{name}_similarity.npy")
            assert maps.shape == (1, 4, 6)
            expected = np.load(alone / "maps" / f"{image}-similarity.npy")
            np.testing.assert_allclose(maps, expected, atol=1e-6)
        of_model = [row for row in read_rows(out) if row["method"].startswith(name.split("_")[0])]
        cosines = [float(row["similarity"]) for row in of_model]
        single = [float(row["similarity"]) for row in read_rows(alone)]
        assert cosines == pytest.approx(single, abs=2e-4) and len({*single}) > 1
    rows = read_rows(out)
    assert [row["method"] for row in rows[:4]] == [
        f"{model} random {method}"
        for model in ("attend-tiny", "attend-2")
        for method in ("similarity", "center")
    ]
    assert [row["text"] for row in rows] == 4 * ["first one"] + 4 * ["second"]
    assert rows[0]["similarity"] != rows[2]["similarity"]
    page = (out / "gallery.html").read_text()
    assert '"name": "attend-2 random similarity"' in page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome")
def test_page_switches_between_models(tmp_path: Path) -> None:
    write_images(tmp_path / "in")
    models = ["--model", "attend-tiny", "--pretrained", "random"]
    models += ["--model", "attend-2", "--pretrained", "random", "--methods", "similarity"]
    out = tmp_path / "out"
    words = [str(tmp_path / "in"), "--text", "a", *models, "--device", "cpu", "--out", str(out)]
    assert main(words) == 0
    facts = "document.querySelector('#facts').textContent"
    pixels = "document.querySelector('#map').toDataURL()"
    with Chromium(tmp_path / "profile") as browser:
        browser.open(out / "gallery.html")
        assert browser.ask(facts).startswith("a · attend-tiny random similarity · map of 4 × 4")
        before = browser.ask(pixels)
        browser.click("#models button:nth-child(2)")
        assert browser.ask(facts).startswith("a · attend-2 random similarity · ")
        assert browser.ask(pixels) != before
        browser.press("ArrowRight")  # the next image, of the same model
        assert browser.ask(facts).startswith("b · attend-2 random similarity · ")
        browser.press("m")
        assert browser.ask(facts).startswith("b · attend-tiny random similarity · ")
        assert not browser.errors


def test_weights_belong_to_the_model_before_them() -> None:
    assert read_models([("pretrained", "x"), ("model", "a")]) == [("a", "x")]  # of one: any order
    models = [("model", "runs/a"), ("model", "b"), ("pretrained", "in/x.pt"), ("model", "c/a")]
    assert read_models(models) == [("runs/a", None), ("b", "in/x.pt"), ("c/a", None)]
    assert model_names(read_models(models)) == ["a", "b x.pt", "a (2)"]
    for wrong in (
        [("pretrained", "x"), ("model", "a"), ("model", "b")],
        [("model", "a"), ("pretrained", "x"), ("pretrained", "y")],
    ):
        with pytest.raises(UserError, match="expected one after each --model that needs weights"):
            read_models(wrong)


def test_size_is_a_side_or_two() -> None:
    assert read_size(None) is None and read_size([8]) == (8, 8) and read_size([8, 9]) == (8, 9)
    for sides in ([0], [1, 2, 3]):
        with pytest.raises(UserError, match="--force-image-size .*: expected a side in pixels"):
            read_size(sides)


def test_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_images(tmp_path / folder)
    words = [str(tmp_path / "x"), str(tmp_path / "y"), "--text", "a", "--methods", "center"]
    assert main([*words, *flags(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "regions.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == ["a.png center", "b.jpg center", "a_2.png center", "b_2.jpg center"]
