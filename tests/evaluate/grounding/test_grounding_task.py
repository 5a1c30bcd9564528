"""The task on a model whose attention is known, and through the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY
from open_clip import CLIP, CoCa
from torch import Tensor
from toy_grounding import ToyEncoder, draw_squares, measured, toy_encoder

from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.grounding import task
from openclip_eclip.evaluate.grounding.attention import default_methods
from openclip_eclip.prepare.__main__ import main as prepare


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    draw_squares(folder)
    return folder


def test_known_attention_points_always_or_never(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--threshold-data", str(squares / "val.csv"))
    record = measured(squares, tmp_path / "right", monkeypatch, *flags)
    values, settings = record["values"], record["settings"]
    assert settings["protocol"] == "grounding 1"
    assert (values["phrases"], values["phrases_with_region"], values["images"]) == (18, 12, 6)
    right = values["methods"]["similarity"]
    assert right["pointing game"]["value"] == right["pointing game, 15 px"]["value"] == 1
    assert right["pointing game"]["interval"] == [1, 1]
    assert right["AUC-Judd"]["value"] > 0.9 and right["CNR, signed"]["value"] > 1
    assert right["IoU, best threshold"]["value"] > right["mIoU"]["value"]
    assert list(values["methods"]) == [
        *("similarity", "center", "random"),
        *("mean map of the data", "another image's map"),
    ]
    # 16 x 16 of 64 x 64 pixels are 6 % of the area
    assert [values["sizes"][name]["phrases"] for name in ("small", "medium", "large")] == [0, 12, 0]
    sides = values["sides"]["similarity"]
    assert sides["named left"] == {"left": 1, "right": 0}
    assert sides["named right"] == {"left": 0, "right": 1}
    assert sides["on the region's side"] == 1 and sides == values["sides"]["the regions themselves"]
    empty = values["without_region"]["similarity"]
    assert empty["false_alarm_rate"]["value"] == 0 and empty["AUROC"]["value"] == 1
    page = (tmp_path / "right" / "report.html").read_text()
    assert page.count("<div class=example>") == 12

    wrong = measured(squares, tmp_path / "wrong", monkeypatch, wrong=True)["values"]
    assert wrong["methods"]["similarity"]["pointing game"]["value"] == 0
    assert wrong["methods"]["similarity"]["CNR, signed"]["value"] < 0
    assert wrong["methods"]["random"] == {
        key: value for key, value in values["methods"]["random"].items() if "best" not in key
    }

    capsys.readouterr()
    both = [f"{name}={tmp_path / name}" for name in ("right", "wrong")]
    assert main(["compare", *both, "--out", str(tmp_path / "c")]) == 0
    compared = json.loads((tmp_path / "c" / "result.json").read_text())
    assert compared["values"]["images"] == 6  # the two phrases of an image are drawn together
    told = "first of `grounding --methods`: right: similarity; wrong: similarity."
    assert told in (tmp_path / "c" / "report.html").read_text().replace("<code>", "`").replace(
        "</code>", "`"
    )


def test_the_map_that_alignment_trains_comes_first() -> None:
    """`compare` reads the first one."""
    for pool, expected in (
        ({"attentional_pool": True, "attn_pooler_queries": 1}, ("pool", "similarity")),
        ({}, ("similarity",)),
    ):
        config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **pool}}
        model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        assert default_methods(SimpleNamespace(model=model)) == expected


def test_patients_limit_and_bad_input(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    test = str(squares / "test.csv")
    record = measured(squares, tmp_path / "p", monkeypatch, "--patient-column", "person")
    assert record["values"]["patients"] == 3
    with np.load(tmp_path / "p" / "predictions.npz") as arrays:
        assert arrays["patient"].tolist() == [name for name in "012" for _ in range(4)]
        assert arrays["score"].shape == (12, 5) and np.isfinite(arrays["score"]).all()
    coca = SimpleNamespace(model=CoCa.__new__(CoCa))
    monkeypatch.setattr(task, "read_encoder", lambda args: coca)
    assert main(["grounding", "--model", "toy", "--out", str(tmp_path / "c"), "--data", test]) == 2
    assert "a CoCa reads its image by many queries" in capsys.readouterr().err
    limited = measured(squares, tmp_path / "l", monkeypatch, "--limit", "3")["values"]
    assert limited["images"] == 3 and limited["phrases"] == 9
    capsys.readouterr()
    common = ["grounding", "--model", "toy", "--out", str(tmp_path / "e"), "--data"]
    for flags, message in (
        ((test, "--limit", "1"), "--limit 1: expected at least 2 images"),
        ((test, "--methods", "pool"), "has no learned attention pool"),
        (
            (test, "--threshold-data", test),
            "6 images are also in --data, such as that of",
        ),
        ((test, "--patient-column", "patient"), "no column 'patient'"),
    ):
        assert main([*common, *flags]) == 2
        assert message in capsys.readouterr().err


def test_each_image_and_each_text_is_encoded_once(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last phrase of an image would be in the next batch; scores are the same."""
    images, texts = [], []

    class Counting(ToyEncoder):
        def to_input(self, values: Tensor) -> Tensor:
            images.append(len(values))
            return super().to_input(values)

        def encode_texts(self, tokens: Tensor) -> Tensor:
            texts.append(len(tokens))
            return super().encode_texts(tokens)

    toy = toy_encoder(wrong=False)
    toy.__class__ = Counting
    monkeypatch.setattr(task, "read_encoder", lambda args: toy)
    monkeypatch.setattr(task, "draw_examples", lambda *args: [])
    seen = []
    for size in ("4", "1"):
        out = tmp_path / size
        flags = ["--data", str(squares / "test.csv"), "--batch-size", size, "--out", str(out)]
        assert (
            main(["grounding", "--model", "toy", *flags, "--methods", "similarity", "gradcam"]) == 0
        )
        # two methods; "green square", "blue square", and the red one on either side
        assert sum(images) == 2 * 6 and sum(texts) == 4
        with np.load(out / "predictions.npz") as arrays:
            seen.append(arrays["score"])
        images.clear(), texts.clear()
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


@pytest.mark.slow
def test_command_on_heatmaps_of_phantoms(tmp_path: Path) -> None:
    """Reports and heatmaps are the phrases and regions where there are no sentence windows."""
    phantoms = tmp_path / "phantoms"
    assert prepare(["phantom", str(phantoms), "--train", "4", "--test", "6"]) == 0
    assert (
        main(
            [
                *("grounding", "--model", "tiny", "--pretrained", "random", "--device", "cpu"),
                *("--data", str(phantoms / "test.csv"), "--heatmap-column", "gaze"),
                *("--heatmaps", str(phantoms / "test_gaze.csv"), "--out", str(tmp_path / "o")),
            ]
        )
        == 0
    )
    values = json.loads((tmp_path / "o" / "result.json").read_text())["values"]
    assert values["phrases"] == values["images"] >= 2
    assert values["methods"]["similarity"]["NSS"]["value"] is not None
