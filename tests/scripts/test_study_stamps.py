"""The parts of the stamps study: split, ViT of an ONNX file, text tower, chosen epoch, page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import stamps_page
import stamps_split
import stamps_towers
import study
import torch
from open_clip.model import _build_vision_tower
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from openclip_eclip.params import eclip_parser, method_names

Stamp = study.Stamp


def draw(path: Path, seed: int) -> Image.Image:
    """Draws a cut-out blot, a different one for each seed."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGBA", (60, 60))
    for _ in range(6):
        x, y, w, h = rng.integers(2, 30, 4)
        ImageDraw.Draw(picture).rectangle(
            (x, y, x + w, y + h), fill=(*rng.integers(0, 256, 3).tolist(), 255)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return picture


@pytest.fixture
def stamps(tmp_path: Path) -> list[Stamp]:
    names = [
        "apple",
        "boat",
        "crab",
        "drum",
        "eagle",
        "frog",
        "goat",
        "horse",
        "igloo",
        "jeep",
        "kite",
        "lamp",
    ]
    drawn = []
    for i, name in enumerate(names):
        draw(tmp_path / "a" / f"{name}.png", i)
        drawn.append(Stamp(tmp_path / "a" / f"{name}.png", f"A thing {i}."))
    return drawn


def test_variants_of_a_stamp_are_one_family(stamps: list[Stamp], tmp_path: Path) -> None:
    """Variants have the same caption, the same word in the file name, or the same drawing.

    The caption may differ in its form. The drawing may be mirrored, upside down or smaller.
    """
    assert all(len(family) == 1 for family in stamps_split.families(stamps))
    draw(tmp_path / "b" / "one.png", 100)
    draw(tmp_path / "b" / "t_Boat-2.png", 101)
    Image.open(stamps[2].path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        tmp_path / "b" / "mirror.png"
    )
    Image.open(stamps[3].path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((40, 40)).save(
        tmp_path / "b" / "other.png"
    )
    more = [
        Stamp(tmp_path / "b" / "one.png", "a THING 0"),
        Stamp(tmp_path / "b" / "t_Boat-2.png", "x"),
        Stamp(tmp_path / "b" / "mirror.png", "y"),
        Stamp(tmp_path / "b" / "other.png", "z"),
    ]
    families = {frozenset(family) for family in stamps_split.families(stamps + more)}
    assert {frozenset(pair) for pair in ((0, 12), (1, 13), (2, 14), (3, 15))} <= families
    assert len(families) == 12
    for seed in range(5):
        parts = stamps_split.strict_split(stamps + more, 3, 2, seed)
        part_of = {stamp: part for part, own in parts.items() for stamp in own}
        assert sum(map(len, parts.values())) == len(part_of) == 16
        assert all(part_of[stamps[i]] == part_of[more[i]] for i in range(4))
        assert len(parts["test"]) >= 3
        assert len(parts["validation"]) >= 2
        assert parts == stamps_split.strict_split((stamps + more)[::-1], 3, 2, seed)


def test_vit_weights_are_read_from_onnx_names() -> None:
    """The weights of a tower of open_clip, saved under the names of the ONNX file, are read back.

    The bias of the patches moves into the position embedding.
    """
    config = {**stamps_towers.TOWERS["vit-s14"][0], "layers": 2, "width": 64, "image_size": 42}
    torch.manual_seed(0)
    expected = {
        name: torch.randn_like(value)
        for name, value in _build_vision_tower(8, config).state_dict().items()
        if name != "proj"
    }
    bias, constants, factors = torch.randn(64), {}, {}
    own = {
        "embeddings.cls_token": expected["class_embedding"].view(1, 1, -1),
        "layernorm.weight": expected["ln_post.weight"],
        "embeddings.patch_embeddings.projection.weight": expected["conv1.weight"],
        "embeddings.patch_embeddings.projection.bias": bias,
        "layernorm.bias": expected["ln_post.bias"],
    }
    constants |= {
        "onnx::Concat_1": expected["positional_embedding"][:1][None].numpy(),
        "onnx::MatMul_2": np.zeros((64, 64), np.float32),
        "onnx::Reshape_3": (expected["positional_embedding"][1:] - bias)[None].numpy(),
    }
    for layer in range(2):
        block, inner = f"transformer.resblocks.{layer}.", f"encoder.layer.{layer}."
        linear = {
            name: (
                expected[block + "attn.in_proj_weight"][i * 64 : (i + 1) * 64],
                expected[block + "attn.in_proj_bias"][i * 64 : (i + 1) * 64],
            )
            for i, name in enumerate(
                f"attention.attention.{kind}" for kind in ("query", "key", "value")
            )
        }
        linear |= {
            theirs: (expected[f"{block}{mine}.weight"], expected[f"{block}{mine}.bias"])
            for theirs, mine in (
                ("attention.output.dense", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            )
        }
        for name, (weight, offset) in linear.items():
            factors[f"/backbone/encoder/layer.{layer}/{name.replace('.', '/')}/MatMul"] = (
                weight.T.numpy()
            )
            own[inner + name + ".bias"] = offset
        for theirs, mine in (
            ("norm1.weight", "ln_1.weight"),
            ("norm1.bias", "ln_1.bias"),
            ("norm2.weight", "ln_2.weight"),
            ("norm2.bias", "ln_2.bias"),
            ("layer_scale1.lambda1", "ls_1.gamma"),
            ("layer_scale2.lambda1", "ls_2.gamma"),
        ):
            own[inner + theirs] = expected[block + mine]
    constants |= {f"backbone.{name}": value.numpy() for name, value in own.items()}
    state = stamps_towers.vit_state(constants, factors, 3)
    assert state.keys() == expected.keys()
    assert all(torch.allclose(state[name], expected[name], atol=1e-5) for name in expected)
    del constants["onnx::Concat_1"]
    with pytest.raises(ValueError, match="tables of places"):
        stamps_towers.vit_state(constants, factors, 3)


def test_packed_weights_are_close() -> None:
    state = {"a": torch.randn(7, 5, 3), "b": torch.tensor([1e-7, 3.0]), "n": torch.tensor(4)}
    for eight, limit in ((True, 1 / 250), (False, 1 / 2000)):
        back = stamps_towers.unpack(stamps_towers.pack(state, eight))
        assert back.keys() == state.keys()
        assert torch.equal(back["b"], state["b"])
        assert torch.equal(back["n"], state["n"])
        assert 0 < (back["a"] - state["a"]).abs().max() <= limit * state["a"].abs().max()
        assert back["a"].dtype == torch.float32


def test_text_feature_of_a_caption_is_its_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses open_clip's loading and tokenizer.

    The tower has the weights of the file, and the projection of the seed.
    """
    captions, embeddings = (
        ["A cow.", "A fly,  on the – wall!", "A cow"],
        torch.nn.functional.normalize(torch.randn(3, stamps_towers.WIDTH), dim=-1),
    )
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 14, "image_size": 28}
    monkeypatch.setitem(stamps_towers.TOWERS, "tiny", (vision, stamps_towers.IMAGENET))
    tower = {
        name: torch.randn_like(value)
        for name, value in _build_vision_tower(stamps_towers.WIDTH, vision).state_dict().items()
        if name != "proj"
    }
    save_file(stamps_towers.pack(tower, False), tmp_path / "tiny.safetensors")
    save_file({"embeddings": embeddings}, tmp_path / "captions.safetensors")
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for seed in (0, 1):
        stamps_towers.write_start(tmp_path / f"start{seed}", tmp_path, "tiny", seed)
    models = [open_clip.create_model(f"local-dir:{tmp_path / f'start{seed}'}") for seed in (0, 1)]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'start0'}")
    with torch.no_grad():
        features = models[0].encode_text(tokenizer(captions))
        # as retrieval asks
        assert torch.equal(
            features, models[0].encode_text(tokenizer([caption.lower() for caption in captions]))
        )
    assert (
        torch.cosine_similarity(features, embeddings - embeddings.mean(dim=1, keepdim=True)).min()
        > 1 - 1e-5
    )
    states = [model.visual.state_dict() for model in models]
    assert all(
        torch.allclose(
            states[0][name], tower[name].half().float() if tower[name].ndim > 1 else tower[name]
        )
        for name in tower
    )
    assert not torch.equal(states[0]["proj"], states[1]["proj"])


def test_the_epoch_is_chosen_on_validation() -> None:
    lines = [
        json.dumps({"epoch": epoch, "image_to_text_mean_rank": rank, "image_to_text_R@5": recall})
        for epoch, rank, recall in ((2, 9.0, 0.9), (4, 7.5, 0.1), (6, 7.5, 0.5))
    ]
    assert study.best_epoch(lines) == (4, {2: 9.0, 4: 7.5, 6: 7.5})
    flags = study.training_flags(
        study.Run("vit-s14", "CLIP, twice the steps", 0), Path("w"), "cpu", ["--lr", "1"]
    )
    given = dict(zip(flags, flags[1:]))
    assert given["--val-data"].endswith("validation.csv")
    assert given["--save-frequency"] == given["--val-frequency"]
    assert given["--epochs"] == str(2 * study.EPOCHS)
    assert not any("test.csv" in flag for flag in flags) and given["--lr"] == "1"


@pytest.mark.parametrize("method", study.METHODS)
def test_flags_of_all_methods_are_known_to_the_trainer(method: str) -> None:
    flags = [str(flag).format(train="t.csv") for flag in study.METHODS[method]]
    args, rest = eclip_parser().parse_known_args(flags)
    assert not rest
    assert (method.startswith("align") or method == "eclip-plus") == ("align" in method_names(args))
    assert ("shuffled" in method) == (args.eclip_placebo == "shuffled")


def record(method: str, seed: int, recall: float) -> dict:
    scores = {name: 10.0 for name in stamps_page.SCORES} | {"R@5": recall}
    maps = {name: {"pointing game": 0.25} for name in ("centre", "another heatmap")}
    return {
        "tower": "vit",
        "method": method,
        "seed": seed,
        "epochs": 6,
        "epoch": 4,
        "scores": scores,
        "pointing": maps,
        "grid": [9, 9],
        "seconds": 1.0,
        "device": "Abacus",
    }


FACTS = {
    "minutes": 2.0,
    "jobs": 1,
    "flags": [],
    "stamps": dict.fromkeys(study.PARTS, 9),
    "captions": dict.fromkeys(study.PARTS, 8),
    "annotated": 0.3,
    "renders": dict.fromkeys(study.PARTS, 2),
    "size": 64,
    "batch": 4,
    "epochs": 6,
    "unlocked": 4,
    "saved_every": 2,
    "lr": {"vit": 1e-4},
}


def test_the_page_pairs_seeds(tmp_path: Path) -> None:
    """Differences of 1, 2 and 3 points give 2 +- 4.303 / sqrt(3), for any order of the runs."""
    records = [record("align", seed, 21 + 10 * seed + seed + 1) for seed in (2, 0, 1)] + [
        record("CLIP", seed, 21 + 10 * seed) for seed in range(3)
    ]
    text = stamps_page.write_page(records, FACTS, tmp_path)
    figures = json.loads((tmp_path / "stamps_align.json").read_text())["summary"]["vit"]["align"][
        "differences"
    ]["R@5"]
    assert figures["value"] == pytest.approx(2)
    assert figures["low"] == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-3)
    row = next(line for line in text.splitlines() if line.startswith("| align"))
    assert "+0.020 [−0.005, 0.045]" in row
    assert "| 0.330 ± 0.110 |" in row
    assert "Abacus" in text
    assert (tmp_path / "stamps_align.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "stamps_align.png").stat().st_size > 5000
    elsewhere = stamps_page.summarise(
        [
            entry
            | ({"device": "Laptop"} if entry["method"] == "align" and entry["seed"] == 1 else {})
            for entry in records
        ]
    )
    row = next(line for line in stamps_page.table(elsewhere["vit"]) if line.startswith("| align"))
    assert row.count("other machine: not compared") == 2
    assert elsewhere["vit"]["align"]["scores"]["R@5"]["mean"] == pytest.approx(33)
    with pytest.raises(ValueError, match="different seeds"):
        stamps_page.summarise(records[1:])
    assert stamps_page.difference([3.0], [1.0]) == {"value": 2.0, "low": None, "high": None}


@pytest.mark.slow
def test_page_lists_existing_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--measured lists the methods of each tower that have all seeds, without running anything."""
    prepared, out = tmp_path / "prepared", tmp_path / "out"
    prepared.mkdir()
    (prepared / "stamps.csv").write_text(
        "filepath,caption,part\n"
        + "".join(f"{part}.webp,a {part},{part}\n" for part in study.PARTS),
        encoding="utf-8",
    )
    (out / "runs").mkdir(parents=True)
    for tower, methods in {
        "efficientnet-lite0": ("CLIP", "mask view", "eCLIP"),
        "vit-s14": ("CLIP", "align"),
    }.items():
        for method, seed in (
            (method, seed)
            for method in methods
            for seed in (0, 1)
            if (method, seed) != ("eCLIP", 1)
        ):
            run = study.Run(tower, method, seed)
            (out / "runs" / f"{run.name}.json").write_text(
                json.dumps(record(method, seed, 20.0 + seed) | {"tower": tower}), encoding="utf-8"
            )
    study.main(["run", str(prepared), "--out", str(out), "--seeds", "2", "--measured"])
    text = capsys.readouterr().out
    assert [
        line.split(" |")[0]
        for line in text.splitlines()
        if line.startswith(("## ", "| C", "| m", "| a", "| e"))
    ] == [
        "## efficientnet-lite0, 9 × 9 positions",
        "| CLIP",
        "| mask view",
        "## vit-s14, 9 × 9 positions",
        "| CLIP",
        "| align",
    ]
    assert (out / "stamps_align.png").stat().st_size > 5000
