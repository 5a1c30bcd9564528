"""`local-dir:` folders with a Hugging Face text tower: what must be there, and what a run keeps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import BASIC, TINY, write_table
from safetensors.torch import save_file
from transformers import BertConfig, BertTokenizerFast

from openclip_eclip import train
from openclip_eclip.checkpoint import export_plain
from openclip_eclip.config import UserError
from openclip_eclip.evaluate.inputs.encoder import load_encoder
from openclip_eclip.model_folder import has_vocabulary

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "nodule", "effusion", "number", "mass")


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and the tokenizer of a text tower, and no weights."""
    folder = tmp_path_factory.mktemp("tower")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 32}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(vocab_size=len(WORDS), **sizes, **layers).save_pretrained(folder)
    (folder / "words.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "words.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose tokenizer has a name that is not known here, and its files."""
    folder = tmp_path_factory.mktemp("start")
    write_config(folder, str(tower), "someone/bert")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    for path in tower.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def write_config(folder: Path, model: str, tokenizer: str) -> None:
    text = {"hf_model_name": model, "hf_tokenizer_name": tokenizer, "context_length": 16}
    text |= {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    model_cfg = {**TINY, "text_cfg": text, "custom_text": True}
    config = {"model_cfg": model_cfg, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def change(start: Path, folder: Path, model: str, tokenizer: str, without: str = "") -> str:
    shutil.copytree(start, folder)
    write_config(folder, model, tokenizer)
    for path in folder.glob(without or "none"):
        path.unlink()
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("TOWER", "tokenizer*", "tokenizer.json, tokenizer_config.json"),
        # settings alone would make a tokenizer that knows no word
        ("TOWER", "tokenizer.json", "the files of the text tower's tokenizer are missing"),
        ("someone/bert", "tokenizer*", "AutoTokenizer.from_pretrained('someone/bert').save_pre"),
    ],
)
def test_a_tokenizer_that_is_missing_is_named(
    name: str, without: str, message: str, start: Path, tower: Path, tmp_path: Path
) -> None:
    model = change(start, tmp_path / "x", str(tower), name.replace("TOWER", str(tower)), without)
    expected = re.escape(message.replace("TOWER", str(tower)))
    table = write_table(tmp_path, 4)
    words = (*BASIC, "--model", model, "--train-data", table, "--logs", tmp_path, "--name", "r")
    for load in (
        lambda: load_encoder(model),
        lambda: train.main([str(word) for word in (*words, "--batch-size", 2, "--epochs", 1)]),
    ):
        with pytest.raises(UserError, match=expected):
            load()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/bert", "hf_model_name is /nowhere/bert, which is no folder here"),
        ("EMPTY", "a folder without config.json (of the text tower); copy"),
    ],
)
def test_a_text_tower_that_is_missing_is_named(
    source: str, message: str, start: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    model = change(start, tmp_path / "x", source.replace("EMPTY", str(tmp_path / "empty")), "b")
    with pytest.raises(UserError, match=re.escape(message)):
        open_clip.create_model(model)


def test_weights_of_a_text_tower_are_needed_where_the_model_has_none(
    start: Path, tower: Path, tmp_path: Path
) -> None:
    model = change(start, tmp_path / "x", str(tower), "b", "*.safetensors")
    with pytest.raises(UserError, match=r"without its weights \(model.safetensors or pytorch_m"):
        open_clip.create_model(model)


@pytest.mark.slow
def test_a_run_keeps_the_tokenizer_of_its_start(start: Path, tower: Path, tmp_path: Path) -> None:
    """Its name in the config is not known here. The export needs no other folder."""
    shutil.copytree(tower, tmp_path / "tower")
    model = change(start, tmp_path / "start", str(tmp_path / "tower"), "someone/bert")
    words = (*BASIC, "--model", model, "--train-data", write_table(tmp_path, 4))
    flags = ("--logs", tmp_path, "--name", "run", "--batch-size", 2, "--epochs", 1)
    train.main([str(word) for word in (*words, *flags, "--method", "clip")])
    assert has_vocabulary(tmp_path / "run")
    export_plain(tmp_path / "run", tmp_path / "plain")
    for folder in ("run", "plain"):
        tokens = load_encoder(str(tmp_path / folder)).tokenizer(["nodule number mass"])
        assert tokens[0, :5].tolist() == [2, 5, 7, 8, 3]
    for name in ("tower", "start", "run"):
        shutil.rmtree(tmp_path / name)
    first = open_clip.create_model(f"local-dir:{tmp_path / 'plain'}").state_dict()
    # as its README says, for another place
    moved = (tmp_path / "plain").rename(tmp_path / "moved")
    card, config = moved / "README.md", moved / "open_clip_config.json"
    assert "write the new path of this folder into open_clip_config.json" in card.read_text()
    settings = json.loads(config.read_text())
    settings["model_cfg"]["text_cfg"]["hf_model_name"] = str(moved)
    config.write_text(json.dumps(settings))
    second = open_clip.create_model(f"local-dir:{moved}").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
