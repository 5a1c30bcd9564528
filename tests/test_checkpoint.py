"""Which weights a run, an export and an evaluation read.

They take the newest complete checkpoint, reject damaged and foreign files, execute no code and
ignore no weight.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import BASIC, TINY, write_table
from safetensors.torch import save_file

from openclip_eclip import train
from openclip_eclip.checkpoint import export_plain, find_checkpoint, load_weights
from openclip_eclip.checkpoint_files import damage, newest_complete
from openclip_eclip.config import UserError
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.export import main as export_main


def save(path: Path, epoch: int = 1, batch: int = 0, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "epoch": epoch,
            "state_dict": {"w": torch.arange(50.0)},
            "optimizer": {},
            "eclip": {"batch": batch},
            **more,
        },
        path,
    )
    return path


def model_folder(folder: Path, weights: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TINY, "preprocess_cfg": {}})
    )
    if weights:
        save_file(
            open_clip.create_model("tiny").state_dict(), folder / "open_clip_model.safetensors"
        )
    return folder


# ---- the newest


@pytest.mark.parametrize(
    "files,newest",
    [
        ({"epoch_2.pt": (2, 0), "epoch_10.pt": (10, 0)}, "epoch_10.pt"),
        ({"epoch_latest.pt": (3, 0), "epoch_2.pt": (2, 0)}, "epoch_latest.pt"),
        ({"epoch_latest.pt": (2, 0), "epoch_3.pt": (3, 0)}, "epoch_3.pt"),
        ({"epoch_latest.pt": (2, 0), "epoch_2.pt": (2, 0)}, "epoch_2.pt"),
        (
            {
                "epoch_1.pt": (1, 0),
                "epoch_1_batch_00000002.pt": (1, 2),
                "epoch_1_batch_00000010.pt": (1, 10),
            },
            "epoch_1_batch_00000010.pt",
        ),
        ({"epoch_2.pt": (2, 0), "epoch_1_batch_00000900.pt": (1, 900)}, "epoch_2.pt"),
        (
            {"epoch_latest.pt": (1, 0), "epoch_1_batch_00000005.pt": (1, 5)},
            "epoch_1_batch_00000005.pt",
        ),
        ({"epoch_0_batch_00000005.pt": (0, 5)}, "epoch_0_batch_00000005.pt"),
        ({"tmp.pt": (9, 0), "other_9.pt": (9, 0), "epoch_1.pt.old": (9, 0)}, None),
        ({}, None),
    ],
)
def test_newest_checkpoint_is_the_one_trained_longest(
    files: dict[str, tuple[int, int]], newest: str | None, tmp_path: Path
) -> None:
    for name, (epoch, batch) in files.items():
        save(tmp_path / name, epoch, batch)
    result = newest_complete(tmp_path)
    assert (result.name if result else None) == newest


@pytest.mark.parametrize("name", ["epoch_3.pt", "epoch_2_batch_00000004.pt", "epoch_latest.pt"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text", "list"])
def test_damaged_checkpoint_is_skipped_with_a_warning(
    name: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, path = save(tmp_path / "epoch_2.pt", 2), save(tmp_path / name, 3, 4)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(50.0).numpy().tobytes()) + 17] ^= 64
    path.write_bytes(
        {"flip": bytes(data), "cut": data[:900], "empty": b"", "text": b"<html>"}.get(harm, b"")
    )
    if harm == "list":
        torch.save([1, 2], path)
        if name != "epoch_latest.pt":
            pytest.skip("whole, and its name says how far it is")
    assert newest_complete(tmp_path) == older
    assert str(path) in caplog.text and "taking the one before it" in caplog.text


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    """Either the damage is detected, or the loaded tensors are equal."""
    path = save(tmp_path / "epoch_1.pt")
    content, result = path.read_bytes(), 0
    for place in range(0, len(content), 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        if damage(path):
            result += 1
        else:
            assert torch.equal(
                torch.load(path, weights_only=True)["state_dict"]["w"], torch.arange(50.0)
            ), place
    assert result > len(content) // 13 // 2


def test_newest_checkpoint_of_a_run_is_read_in_every_form(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        find_checkpoint(save(tmp_path / "a" / "checkpoints" / "epoch_latest.pt").parent.parent)[
            0
        ].name
        == "epoch_latest.pt"
    )
    assert (
        find_checkpoint(
            save(tmp_path / "a" / "checkpoints" / "epoch_1_batch_00000003.pt").parent.parent
        )[0].name
        == "epoch_1_batch_00000003.pt"
    )
    assert "1 complete epoch and 3 batches of the next" in caplog.text
    with pytest.raises(UserError, match="no complete checkpoint"):
        (tmp_path / "b" / "checkpoints").mkdir(parents=True)
        find_checkpoint(tmp_path / "b")


def test_the_best_epoch_beside_the_newest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = save(tmp_path / "checkpoints" / "epoch_best.pt")
    with pytest.raises(UserError, match=f"no complete checkpoint .* is there: give {best}.$"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(best)[0] == best and not caplog.text
    newest = save(tmp_path / "checkpoints" / "epoch_3.pt")
    assert find_checkpoint(tmp_path)[0] == newest
    assert f"{newest} is taken" in caplog.text and f"give {best}" in caplog.text


# ---- damaged and foreign files, by every way in


class Runs:
    """Unpickling an instance writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def foreign(kind: str, folder: Path) -> tuple[Path, str]:
    """(a file of that kind, a part of the expected error)"""
    path = folder / ("x.safetensors" if kind.startswith("safetensors") else "x.pt")
    state = open_clip.create_model("tiny").state_dict()
    if kind == "code":
        path.write_bytes(pickle.dumps(Runs(folder / "ran"), protocol=2))
        return path, "could run code"
    if kind == "code in zip":
        torch.save({"state_dict": state, "x": Runs(folder / "ran")}, path)
        return path, "could run code"
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
        return path, "TorchScript"
    if kind in ("list", "no tensors"):
        torch.save([1, 2] if kind == "list" else {"epoch": 3, "optimizer": {}}, path)
        return path, "no weights"
    if kind == "flipped":
        torch.save(state, path)
        data = bytearray(path.read_bytes())
        data[data.index(state["visual.proj"].numpy().tobytes()) + 5] ^= 1
        path.write_bytes(data)
        return path, "is damaged"
    if kind.startswith("safetensors"):
        save_file(state, path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if kind.endswith("cut") else b"\xff" * 9 + data[9:])
        return path, "not a complete safetensors file"
    content, message = {
        "empty": (b"", "is empty"),
        "web page": (b"<!DOCTYPE html><p>404", "web page"),
        "noise": (bytes(range(200)), "not a checkpoint"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        "cut": (b"PK\x03\x04" + b"x" * 99, "is truncated"),
    }[kind]
    path.write_bytes(content)
    return path, message


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("epoch_best.json", b'\xef\xbb\xbf{"epoch": 3}', "a JSON file"),
        ("epoch_best.csv", "filepath,title\nimages/0.png,Herzschatten größer".encode(), "a text"),
        ("epoch_best.png", b"\x89PNG\r\n\x1a\n", "a PNG image"),
        ("epoch_best.npz", None, "a zip archive of another program"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_as_what_it_is(
    name: str, content: bytes | None, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        np.savez(path, np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is {kind}.*, not a checkpoint; expected a file"):
        load_weights(path)
    best = save(tmp_path / "epoch_best.pt")
    with pytest.raises(UserError, match=f"epoch_best.pt lies beside it: give {best}.$"):
        load_weights(path)


def resume(path: Path, folder: Path) -> None:
    run(folder, "--resume", path)


def pretrained(path: Path, folder: Path) -> None:
    run(folder, "--pretrained", path)


def export(path: Path, folder: Path) -> None:
    export_plain(path, folder / "out", "tiny")


def evaluate(path: Path, folder: Path) -> None:
    load_encoder("tiny", str(path))


def evaluate_run(path: Path, folder: Path) -> None:
    checkpoints = model_folder(folder / "evaluated") / "checkpoints"
    checkpoints.mkdir()
    path.rename(checkpoints / "epoch_1.pt")
    load_encoder(str(folder / "evaluated"))


def run(folder: Path, *flags: object, name: str = "run", rows: int = 4) -> None:
    table = folder / "train.csv"
    if not table.exists():
        write_table(folder, rows, annotated=range(0, rows, 2))
    train.main(
        [
            str(flag)
            for flag in (
                *BASIC,
                *("--logs", folder / "logs"),
                *("--train-data", table),
                *("--name", name),
                *"--batch-size 2 --epochs 1".split(),
                *flags,
            )
        ]
    )


KINDS = [
    "code",
    "code in zip",
    "torchscript",
    "list",
    "no tensors",
    "flipped",
    "empty",
    "web page",
    "noise",
    "lfs",
    "cut",
    "safetensors cut",
    "safetensors header",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [export, evaluate])
def test_foreign_weights_are_an_error_of_one_sentence(
    kind: str, way: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where torch.load unpickles everything by default, as before torch 2.6."""
    path, message = foreign(kind, tmp_path)
    monkeypatch.setattr(torch, "load", functools.partial(_load_of_torch_2_4, torch.load))
    with pytest.raises(UserError, match=message) as caught:
        way(path, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def _load_of_torch_2_4(
    load: Callable, *args: Any, weights_only: bool = False, **kwargs: Any
) -> Any:
    return load(*args, weights_only=weights_only, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind,way",
    [
        ("code", resume),
        ("code", pretrained),
        ("code in zip", resume),
        ("code in zip", pretrained),
        ("code in zip", evaluate_run),
        ("flipped", resume),
        ("flipped", pretrained),
        ("web page", resume),
        ("empty", resume),
        ("list", resume),
        ("no tensors", pretrained),
        ("safetensors cut", pretrained),
    ],
)
def test_foreign_weights_stop_a_run_before_training(
    kind: str, way: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, message = foreign(kind, tmp_path)
    monkeypatch.setattr(torch, "load", functools.partial(_load_of_torch_2_4, torch.load))
    if way is evaluate_run and kind == "flipped":
        message = "no complete"
    with pytest.raises(UserError, match=message) as caught:
        way(path, tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_type_error_does_not_lead_to_unpickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip's load_state_dict tries again without weights_only after a TypeError."""
    path = tmp_path / "x.pt"
    torch.save({"w": Runs(tmp_path / "ran")}, path)

    def picky(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only"):
            raise TypeError("made by the file")
        return pickle.loads(pickle.dumps(Runs(tmp_path / "ran")))

    monkeypatch.setattr(torch, "load", picky)
    with pytest.raises(UserError, match="made by the file"):
        open_clip.create_model("tiny", pretrained=str(path))
    assert not (tmp_path / "ran").exists()


# ---- eCLIP^P from any checkpoint


@pytest.mark.parametrize(
    "form", ["bare", "checkpoint", "module", "compiled", "both", "safetensors", "eclip"]
)
def test_eclip_p_starts_from_every_form_of_checkpoint(form: str, tmp_path: Path) -> None:
    source = open_clip.create_model("eclip-tiny" if form == "eclip" else "tiny")
    state, path = source.state_dict(), tmp_path / "x.pt"
    prefix = {"module": "module.", "compiled": "_orig_mod.", "both": "module._orig_mod."}.get(
        form, ""
    )
    state = {prefix + key: value for key, value in state.items()}
    if form == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file(state, path)
    else:
        torch.save(
            (
                {"epoch": 3, "state_dict": state, "optimizer": {}}
                if form in ("checkpoint", "both", "eclip")
                else state
            ),
            path,
        )
    model = open_clip.create_model("eclip-tiny", pretrained=str(path))
    assert torch.equal(model.visual.proj, source.visual.proj)
    # the processor of an eCLIP is left out
    plain = open_clip.create_model("tiny", pretrained=str(path))
    assert torch.equal(plain.visual.proj, source.visual.proj)


@pytest.mark.parametrize(
    "change,message",
    [
        (
            lambda state: {
                key: value for key, value in state.items() if key != "visual.conv1.weight"
            },
            "visual.conv1.weight is missing",
        ),
        (
            lambda state: {**state, "visual.proj": torch.ones(7, 3)},
            r"visual.proj is \[7, 3\] in the file and \[32, 32\] in the model",
        ),
        (lambda state: {**state, "more.weight": torch.ones(1)}, "more.weight is unexpected"),
        (lambda state: {**state, "logit_bias": torch.ones(())}, "SigLIP"),
        (
            lambda state: {key: value for key, value in state.items() if key != "logit_scale"},
            "no logit_scale",
        ),
        (
            lambda state: {"vision_model." + key: value for key, value in state.items()},
            "Hugging Face",
        ),
        (
            lambda state: {**state, "heatmap_processor.query.weight": torch.ones(1)},
            "processor settings",
        ),
    ],
)
def test_weights_of_another_architecture_are_an_error_of_one_sentence(
    change: Callable, message: str, tmp_path: Path
) -> None:
    torch.save(change(open_clip.create_model("tiny").state_dict()), tmp_path / "x.pt")
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, "--pretrained", tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bias", [None, -10.0])
def test_siglip_with_weights_of_a_clip_is_said(
    bias: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {} if bias is None else {"init_logit_bias": bias}
    torch.save(open_clip.create_model("tiny", **options).state_dict(), tmp_path / "x.pt")
    caplog.clear()
    model = open_clip.create_model("tiny", pretrained=str(tmp_path / "x.pt"), init_logit_bias=-10.0)
    assert model.logit_bias == (bias or 0)
    assert ("it begins at 0" in caplog.text) == (bias is None)


# ---- flags that open_clip ignores without a word


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--model", "local-dir:{model}", "--pretrained", "x.pt"],
            "without weights: leave --pretrained out",
        ),
        (
            ["--model", "local-dir:{full}", "--pretrained", "x.pt"],
            "brings its own weights: leave --pretrained out",
        ),
        (["--model", "eclip-local-dir:{full}", "--pretrained", "x.pt"], "leave --pretrained out"),
        (["--model", "hf-hub:a/b", "--pretrained", "openai"], "leave --pretrained out"),
        (["--model", "eclip-hf-hub:a/b", "--pretrained", "openai"], "leave --pretrained out"),
        (
            ["--model", "local-dir:{full}", "--recipe", "eclip-p", "--pretrained", "x.pt"],
            "leave --pretrained out",
        ),
        (["--pretrained-image", "--pretrained", "x.pt"], "take its place"),
        (["--model", "local-dir:{full}", "--pretrained-image"], "take its place"),
        (["--pretrained-image"], "no ImageNet weights"),
        (["--lock-image-unlocked-groups", "1"], "without --lock-image"),
        (["--lock-text-unlocked-layers", "1"], "without --lock-text"),
        (["--lock-image-freeze-bn-stats"], "without --lock-image"),
        (["--lock-text-freeze-layer-norm"], "without --lock-text"),
        (["--lock-image", "--lock-image-unlocked-groups", "99"], "leaves all layers"),
        (["--lock-text"], "add --lock-text-freeze-layer-norm"),
        (
            ["--lock-image", "--lock-text", "--lock-text-freeze-layer-norm", "--method", "clip"],
            "nothing to train but the logit scale",
        ),
        (["--pretrained", "no-such-tag"], "neither a file nor a tag"),
        (["--pretrained", "gone.pt"], "neither a file nor a tag"),
        (["--model", "ViT-B-61"], "did you mean ViT-B-16"),
        (["--model", "eclip-vit-smal"], "nor known to open_clip"),
        (["--model", "hf-hub:nobody/nothing"], "could not be"),
    ],
)
def test_missing_or_extra_weights_are_named(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {
        "model": model_folder(tmp_path / "model"),
        "full": model_folder(tmp_path / "full", weights=True),
    }
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, *[flag.format(**places) for flag in flags])
    assert "\n" not in str(caught.value)


def test_hub_tokenizer_without_network_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    """In a run open_clip loads it after the model is built."""
    with pytest.raises(UserError, match="hf download") as caught:
        open_clip.get_tokenizer("ViT-B-16-SigLIP")
    assert isinstance(caught.value, OSError) and str(caught.value).startswith("text tower")


# ---- export


@pytest.mark.slow
def test_export_is_complete_or_absent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = open_clip.create_model("tiny").state_dict()
    torch.save(state, tmp_path / "x.pt")
    export_plain(tmp_path / "x.pt", tmp_path / "out", "tiny")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1 and modes != {0o600}  # those of any other new file
    torch.save({**state, "visual.proj": state["visual.proj"] * float("nan")}, tmp_path / "nan.pt")
    assert export_main([str(tmp_path / "nan.pt"), str(tmp_path / "nan"), "--model", "tiny"]) == 2
    assert "NaN or infinite weights, first visual.proj" in capsys.readouterr().err
    assert (
        export_main([str(tmp_path / "x.pt"), str(tmp_path / "other"), "--model", "ViT-S-32-alt"])
        == 2
    )
    assert "does not belong to this checkpoint" in capsys.readouterr().err
    assert export_main([str(tmp_path / "x.pt"), str(tmp_path / "typo"), "--model", "tinny"]) == 2
    assert "known to open_clip; did you mean tiny" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"x.pt", "nan.pt", "out"}
    with pytest.raises(UserError, match="NaN or infinite"):
        load_weights(tmp_path / "nan.pt")
