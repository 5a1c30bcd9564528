"""Invariant 7: the exported folder gives bit-for-bit identical embeddings without our package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import BASIC, Launcher, write_table

from openclip_eclip.checkpoint import export_plain, load_weights
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.export import main as export_main
from openclip_eclip.machine import note_machine, read_machines, this_machine

pytestmark = pytest.mark.slow

LOAD = """\
import sys, torch, open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
tokens = open_clip.get_tokenizer("local-dir:" + sys.argv[1])(["a nodule"])
model.eval()
image = torch.load(sys.argv[2])
with torch.no_grad():
    found = model.encode_image(image), model.encode_text(tokens), model.logit_scale
    torch.save([*found, str(preprocess)], sys.argv[3])
assert not [m for m in sys.modules if m.split('.')[0] == 'openclip_eclip']
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    launcher = Launcher(tmp_path_factory.mktemp("export"))
    table = write_table(launcher.folder, 16, annotated=range(16))
    launcher.train(
        [
            *BASIC,
            *("--train-data", table),
            *"--batch-size 8 --epochs 1 --name run --force-quick-gelu".split(),
            *"--force-context-length 20 --image-mean 0.4 0.5 0.6".split(),
            *"--image-interpolation bilinear --eclip-curriculum 0 0 0 0 0 1".split(),
        ]
    )
    return launcher.folder / "logs" / "run"


def test_embeddings_in_plain_open_clip_are_bit_for_bit_identical(run: Path, tmp_path: Path) -> None:
    assert export_main([str(run), str(tmp_path / "plain")]) == 0
    trained = open_clip.create_model("eclip-tiny", force_quick_gelu=True, force_context_length=20)
    trained.load_state_dict(load_weights(run / "checkpoints" / "epoch_1.pt"))
    trained.eval()
    image, tokens = (
        torch.randn(2, 3, 32, 32),
        open_clip.get_tokenizer("tiny", context_length=20)(["a nodule"]),
    )
    torch.save(image, tmp_path / "image.pt")
    subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD,
            str(tmp_path / "plain"),
            str(tmp_path / "image.pt"),
            str(tmp_path / "out.pt"),
        ],
        check=True,
        timeout=400,
        capture_output=True,
    )
    image_features, text_features, scale, preprocess = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        assert torch.equal(image_features, trained.encode_image(image))
        assert torch.equal(text_features, trained.encode_text(tokens))
    assert torch.equal(scale, trained.logit_scale)
    assert "0.4" in preprocess and "bilinear" in preprocess.lower()
    config = json.loads((tmp_path / "plain" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True and "eclip_cfg" not in config["model_cfg"]
    assert "local-dir:plain" in (tmp_path / "plain" / "README.md").read_text()


def test_machine_of_training_is_recorded_in_export_and_result(run: Path, tmp_path: Path) -> None:
    """Run folder and export name the machine, and an encoder of either reads it.

    A run resumed on another machine has two entries; a broken file counts as unknown.
    """
    own = this_machine("cpu")
    assert own["device"].endswith("(CPU)")
    assert own["torch"] == str(torch.__version__)
    assert read_machines(run) == [own]
    assert export_main([str(run), str(tmp_path / "plain")]) == 0
    for model in (str(run), str(tmp_path / "plain"), f"local-dir:{tmp_path / 'plain'}"):
        assert load_encoder(model, device="cpu").facts["machine"] == {
            "device": own["device"],
            "trained": [own],
        }
    assert load_encoder("tiny", "random", device="cpu").facts["machine"]["trained"] is None
    (tmp_path / "machine.json").write_text(json.dumps([{"device": "H100", "torch": "2.5"}]))
    for _ in range(2):
        note_machine(tmp_path, "cpu")
    assert read_machines(tmp_path) == [{"device": "H100", "torch": "2.5"}, own]
    for text in ("[", "{}", "[]", '[{"device": 1}]'):
        (tmp_path / "machine.json").write_text(text)
        assert read_machines(tmp_path) is None


def test_exported_folder_starts_eclip_p(run: Path, tmp_path: Path) -> None:
    export_plain(run / "checkpoints" / "epoch_1.pt", tmp_path / "plain")
    model = open_clip.create_model(f"eclip-local-dir:{tmp_path / 'plain'}")
    assert type(model).__name__ == "EClipCLIP"
    assert torch.equal(
        model.visual.proj, load_weights(run / "checkpoints" / "epoch_1.pt")["visual.proj"]
    )


def test_checkpoint_without_run_folder_needs_the_model_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bare = tmp_path / "bare.pt"
    state = load_weights(run / "checkpoints" / "epoch_1.pt")
    torch.save({"state_dict": {"module." + key: value for key, value in state.items()}}, bare)
    assert export_main([str(bare), str(tmp_path / "a")]) == 2
    assert "--model" in capsys.readouterr().err
    state["positional_embedding"] = state["positional_embedding"][:16]
    torch.save(state, bare)
    assert export_main([str(bare), str(tmp_path / "b"), "--model", "tiny"]) == 0


def test_export_errors_name_the_mistake(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "broken.pt").write_bytes((run / "checkpoints" / "epoch_1.pt").read_bytes()[:5000])
    for source, out, message in (
        (run, "full", "not empty"),
        (tmp_path / "full", "x", "neither"),
        (tmp_path / "broken.pt", "y", "not a complete checkpoint"),
    ):
        assert export_main([str(source), str(tmp_path / out), "--model", "tiny"]) == 2
        assert message in capsys.readouterr().err
