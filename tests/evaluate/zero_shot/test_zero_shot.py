"""Zero-shot: prompts, protocols, the whole command, and agreement with clip-benchmark."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import TINY, write_shard
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from openclip_eclip.config import UserError
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.zero_shot.prompt_sets import (
    NAMES,
    load_prompts,
    read_classes,
    read_templates,
)
from openclip_eclip.evaluate.zero_shot.protocols import (
    COMPETITION,
    FINDINGS,
    HERNIA,
    NO_FINDING,
    PROTOCOLS,
    SETS,
    choose_rule,
    set_of,
)
from openclip_eclip.evaluate.zero_shot.task import choose_classes, choose_prompts
from openclip_eclip.metrics.bootstrap import bootstrap_interval
from openclip_eclip.phantom.chest import CHEST
from openclip_eclip.phantom.generate import generate
from openclip_eclip.prepare.datasets import chexpert, nih_cxr14, rsna

TEMPLATES = ["a film with {c}.", "{c}", "chest: {c}, again {c}"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model as exported by plain open_clip, with weights so large that answers differ.

    It has dropout in training mode.
    """
    folder = tmp_path_factory.mktemp("model")
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "patch_dropout": 0.5}}
    torch.manual_seed(1)
    built = open_clip.create_model("tiny")
    with torch.no_grad():
        built.visual.conv1.weight.mul_(40)
        built.visual.class_embedding.mul_(0.01)
        built.token_embedding.weight.mul_(30)
        for block in [*built.visual.transformer.resblocks, *built.transformer.resblocks]:
            block.attn.in_proj_weight.mul_(5)
            block.attn.out_proj.weight.mul_(30)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.1] * 3}})
    )
    save_file(built.state_dict(), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def phantom_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 phantoms with classes.json beside it."""
    folder = tmp_path_factory.mktemp("films") / "phantom"
    from openclip_eclip.prepare.__main__ import main as prepare

    assert prepare(["phantom", str(folder), "--train", "1", "--test", "40", "--size", "32"]) == 0
    return folder / "test.csv"


def run(out: Path, model: str, data: Path, *flags: object) -> dict[str, Any]:
    words = [
        *("zero-shot", "--model", model, "--data", data, "--out", out, "--workers", 0),
        *("--cache", "none", "--device", "cpu"),
        *flags,
    ]
    assert main([str(word) for word in words]) == 0
    with np.load(out / "predictions.npz") as arrays:
        return {**json.loads((out / "result.json").read_text()), "predictions": dict(arrays)}


def error_of(
    capsys: pytest.CaptureFixture[str], model: str, data: Path, out: Path, *flags: object
) -> str:
    words = [
        *("zero-shot", "--model", model, "--data", data, "--out", out, "--workers", 0),
        *("--cache", "none"),
        *flags,
    ]
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def table(folder: Path, source: Path, **columns: Any) -> Path:
    """A table of the same images with other columns, and without files beside it."""
    rows = pd.read_csv(source)[["filepath"]]
    rows["filepath"] = [str(source.parent / path) for path in rows["filepath"]]
    folder.mkdir(exist_ok=True)
    rows.assign(**columns).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


# ---- prompts


def test_prompts_of_the_five_classes_have_the_published_counts_and_spellings() -> None:
    gloria, eclip = (
        load_prompts(f"chexpert-5x200:{form}", COMPETITION).positive for form in ("gloria", "eclip")
    )
    for result in (gloria, eclip):
        assert [len(texts) for texts in result.values()] == [210, 15, 192, 18, 54]  # peers.md §2.1
        assert [len(set(texts)) for texts in result.values()] == [210, 15, 192, 18, 36]
        assert all(text == " ".join(text.split()) for texts in result.values() for text in texts)
    assert "small left bilateral pleural effusion" in gloria["Pleural Effusion"]
    assert "small bilateral pleural effusion left" in eclip["Pleural Effusion"]
    assert not {"small bilateral pleural effusion left"} & set(gloria["Pleural Effusion"])
    assert {name: gloria[name] for name in COMPETITION[:4]} == {
        name: eclip[name] for name in COMPETITION[:4]
    }
    text = " ".join(" ".join(texts) for texts in gloria.values())
    assert all(
        spelling in text
        for spelling in ("presistent pulmonary edema", "apperance of", "right uppper lobe")
    )
    assert gloria["Atelectasis"].count("minimal linear atelectasis at the lung bases") == 1


def test_rsna_prompts_have_the_count_of_the_release_and_a_source() -> None:
    result = load_prompts("rsna:structure", SETS["rsna"])
    assert [len(set(texts)) for texts in result.positive.values()] == [
        8,
        384,
    ]
    assert "OURS" in result.source
    assert load_prompts("rsna:biovil", SETS["rsna"]).positive == {
        "No pneumonia": ["No evidence of pneumonia"],
        "Pneumonia": ["Findings suggesting pneumonia"],
    }
    pairs = load_prompts("pairs:chexzero", SETS["rsna"])
    assert pairs.positive["No pneumonia"] == pairs.negative["Pneumonia"] == ["no Pneumonia"]


def test_fourteen_abnormalities_contain_hernia_and_the_release_does_not() -> None:
    assert len(SETS[HERNIA]) == len(SETS[NO_FINDING]) == 14
    assert "Hernia" in SETS[HERNIA]
    assert "No Finding" not in SETS[HERNIA]
    assert "Hernia" not in SETS[NO_FINDING]
    assert "No Finding" in SETS[NO_FINDING]
    raw = load_prompts("cxr-14x100:eclip", SETS[NO_FINDING]).positive
    clean = load_prompts("cxr-14x100:clean", SETS[HERNIA]).positive
    assert raw["No Finding"] == ["an x-ray of a lung with no_finding"]
    assert raw["Pleural_Thickening"][0].endswith(" pleural_thickening")
    assert clean["Hernia"] == ["an x-ray of a lung with hernia"]
    assert clean["Pleural_Thickening"][0].endswith(" pleural thickening")


def test_sets_are_those_that_prepare_writes() -> None:
    assert SETS["chexpert-5x200"] == chexpert.COMPETITION
    assert SETS["rsna"] == rsna.CLASSES
    assert FINDINGS == nih_cxr14.FINDINGS
    assert {name: SETS[name] for name in (HERNIA, NO_FINDING)} == nih_cxr14.CLASS_LISTS
    assert SETS["cxr8"] == nih_cxr14.BOX_CLASSES
    assert [
        set_of(name)
        for name in (
            "rsna-gloria",
            "rsna",
            "openi-5-all-views",
            "cxr-14x100-hernia",
            "openi-retrieval",
            "phantom",
        )
    ] == ["rsna", "rsna", "openi-5", "cxr-14x100-hernia", "own", "own"]


def test_drawn_prompts_are_seeded_and_without_replacement() -> None:
    whole = load_prompts("chexpert-5x200:gloria", COMPETITION)
    drawn = whole.sample(10, seed=4)
    assert all(
        len(texts) == 10 and set(texts) <= set(whole.positive[name])
        for name, texts in drawn.positive.items()
    )
    assert drawn == whole.sample(10, seed=4)
    assert drawn.content_hash() != whole.sample(10, seed=5).content_hash()
    # without replacement
    assert whole.sample(15, seed=1).positive["Cardiomegaly"] == whole.positive["Cardiomegaly"]
    with pytest.raises(UserError, match="cannot draw 16 prompts.*'Cardiomegaly' .* has 15"):
        whole.sample(16, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_set_has_a_source_and_no_empty_prompt(name: str) -> None:
    sets = {
        "chexpert-5x200": COMPETITION,
        "rsna": SETS["rsna"],
        "cxr-14x100": FINDINGS,
        "pairs": ("a", "b"),
    }
    result = load_prompts(name, sets[name.split(":")[0]])
    assert len(result.source) > 60
    assert all(text.strip() for texts in result.positive.values() for text in texts)


# ---- own classes and templates


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_class_and_template_files_in_every_form(tmp_path: Path) -> None:
    classes = ["normal film", "mass"]
    assert (
        read_classes(write(tmp_path / "a.txt", "normal film\nmass\n"))
        == read_classes(write(tmp_path / "a.json", classes))
        == classes
    )
    filled = {"normal film": ["a normal film.", "normal film"], "mass": ["a mass.", "mass"]}
    for name, content in (
        ("t.txt", "a {c}.\n\n{c}\n"),
        ("t.json", ["a {c}.", "{c}"]),
        ("k.json", {"cxr": ["a {c}.", "{c}"], "other": ["{c}"]}),
        ("d.json", filled),
        ("kd.json", {"anything": filled}),
    ):
        assert read_templates(write(tmp_path / name, content), classes, "cxr").positive == filled, (
            name
        )
    pair = read_templates(
        write(tmp_path / "p.json", {"positive": ["{c}"], "negative": ["no {c}"]}), classes, "cxr"
    )
    assert pair.negative == {"normal film": ["no normal film"], "mass": ["no mass"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a film"], r"template 1: 'a film' has no \{c\}"),
        ({"normal": ["x"]}, "class 'mass' has None"),
        ({"normal": ["x"], "mass": []}, r"has \[\]"),
        ({"normal": ["x"], "mass": [" "]}, "without empty ones"),
        ([], r"class 'normal' has \[\]"),
        (3, "expected a JSON list"),
        ({"a": ["{c}"], "b": ["{c}"]}, r"keys \['a', 'b'\]"),
        ("[", "not JSON"),
    ],
)
def test_bad_templates_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_templates(write(tmp_path / "t.json", content), ["normal", "mass"], "cxr")


def test_bad_class_files_are_named(tmp_path: Path) -> None:
    for content, message in (
        ("a\n\nb\n", "line 2: an empty class name"),
        ("a\nb\na\n", "line 3: 'a' occurs twice"),
        ("a\n", "1 classes"),
    ):
        with pytest.raises(UserError, match=message):
            read_classes(write(tmp_path / "c.txt", content))
    with pytest.raises(UserError, match="c.json: expected a JSON list"):
        read_classes(write(tmp_path / "c.json", {"a": 1}))
    with pytest.raises(UserError, match="not readable"):
        read_classes(tmp_path / "none.txt")


# ---- protocols


def test_protocols_have_the_published_pooling_draws_and_z_scores() -> None:
    """See peers.md §2.1."""
    rules = {
        name: (result.class_vector, result.sample, result.z_score, result.headline)
        for name, result in PROTOCOLS.items()
    }
    assert rules == {
        "eclip-paper": ("unit_mean", None, False, "macro-F1"),
        "eclip-release": ("mean", None, False, "macro-F1"),
        "gloria": ("max", 5, True, "accuracy"),
        "medclip": ("max", 10, False, "accuracy"),
        "cxr-clip": ("mean", None, False, "accuracy"),
        "chexzero": ("pair_softmax", None, False, "macro AUROC"),
    }
    assert choose_rule("eclip-release", "rsna").headline == "F1 of the positive class"
    assert choose_rule("eclip-paper", "rsna").headline == "macro-F1"
    assert choose_rule("eclip-release", "mimic-5x200").prompts == "chexpert-5x200:eclip"
    assert "local attention" in PROTOCOLS["gloria"].description
    assert "transductive" in PROTOCOLS["gloria"].description
    for protocol in PROTOCOLS.values():
        for set_name, name in protocol.prompts.items():
            load_prompts(name, SETS[set_name])


def test_flags_that_contradict_a_protocol_are_an_error() -> None:
    for flags, message in (
        (
            {"class_vector": "mean"},
            "--class-vector mean contradicts --protocol gloria, which has max",
        ),
        ({"sample": 10}, "--sample 10 contradicts"),
        ({"prompts": "chexpert-5x200:eclip"}, "--prompts chexpert-5x200:eclip"),
    ):
        with pytest.raises(UserError, match=message):
            choose_rule("gloria", "chexpert-5x200", **flags)
    with pytest.raises(UserError, match="--z-score True contradicts --protocol medclip"):
        choose_rule("medclip", "chexpert-5x200", z_score=True)
    assert (
        choose_rule("gloria", "own", class_vector="max", sample=5, z_score=True, seed=2).seed == 2
    )
    with pytest.raises(
        UserError, match="--protocol eclip-release does not define cxr-14x100-hernia"
    ):
        choose_rule("eclip-release", HERNIA)
    with pytest.raises(UserError, match="--seed 3: nothing is drawn"):
        choose_rule("cxr-clip", "rsna", seed=3)
    with pytest.raises(UserError, match="--sample 0"):
        choose_rule(None, "rsna", sample=0)


def test_classes_come_from_beside_the_data_or_from_the_set(
    tmp_path: Path, phantom_table: Path
) -> None:
    assert (
        choose_classes(read_eval_set(phantom_table), None, None)
        == choose_classes(read_eval_set(phantom_table), "phantom", None)
        == ("own", list(CHEST.words.classes))
    )
    data = read_eval_set(table(tmp_path, phantom_table, label="Hernia"))
    assert choose_classes(data, "cxr-14x100", None) == (HERNIA, list(FINDINGS))
    assert (
        choose_classes(
            read_eval_set(table(tmp_path, phantom_table, label="No Finding")), "cxr-14x100", None
        )[0]
        == NO_FINDING
    )
    with pytest.raises(UserError, match="give --set, or --classes"):
        choose_classes(data, None, None)
    with pytest.raises(UserError, match="both name the classes"):
        choose_classes(data, "rsna", tmp_path / "classes.txt")
    write(
        tmp_path / "own.recipe.json",
        {"set": "rsna-balanced", "classes": ["No pneumonia", "Pneumonia"]},
    )
    data = read_eval_set(tmp_path / "own.csv")
    assert (
        choose_classes(data, None, None)
        == choose_classes(data, "rsna", None)
        == ("rsna", ["No pneumonia", "Pneumonia"])
    )
    with pytest.raises(
        UserError, match="--set mimic-5x200, but the recipe beside .* is of rsna-balanced"
    ):
        choose_classes(data, "mimic-5x200", None)


def test_missing_and_repeated_prompts_are_an_error(tmp_path: Path, phantom_table: Path) -> None:
    data = read_eval_set(table(tmp_path, phantom_table, label=0))
    own = choose_rule(None, "own")
    with pytest.raises(UserError, match="no prompts for the classes"):
        choose_prompts(own, data, ["a", "b"], None)
    templates = write(tmp_path / "t.json", ["{c}"])
    with pytest.raises(UserError, match="contradicts --protocol gloria"):
        choose_prompts(choose_rule("gloria", "chexpert-5x200"), data, COMPETITION, templates)
    with pytest.raises(UserError, match="absence of a class"):
        choose_prompts(
            choose_rule(None, "own", class_vector="pair_softmax"), data, ["a", "b"], templates
        )
    assert choose_prompts(choose_rule("chexzero", "own"), data, ["a", "b"], None).negative == {
        "a": ["no a"],
        "b": ["no b"],
    }
    with pytest.raises(UserError, match="rsna:biovil has no prompts for class 'a'"):
        choose_prompts(choose_rule(None, "own", prompts="rsna:biovil"), data, ["a", "b"], None)


# ---- the command


def by_hand(model: str, phantom_table: Path, unit: bool) -> np.ndarray:
    """Scores by plain open_clip."""
    built, transform = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    built.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    rows = pd.read_csv(phantom_table)
    prompts = json.loads((phantom_table.parent / "classes.json").read_text())["prompts"]
    with torch.no_grad():
        images = built.encode_image(
            torch.stack(
                [transform(Image.open(phantom_table.parent / path)) for path in rows["filepath"]]
            ),
            normalize=True,
        )
        vectors = [
            built.encode_text(tokenizer(texts), normalize=True).mean(0)
            for texts in prompts.values()
        ]
    return (
        images @ torch.stack([normalize(vector, dim=0) if unit else vector for vector in vectors]).T
    ).numpy()


@pytest.mark.slow
def test_result_is_complete_deterministic_and_equals_open_clip(
    tmp_path: Path, model: str, phantom_table: Path
) -> None:
    """Two runs are equal, without dropout or random crop, and equal to plain open_clip.

    mean and unit_mean differ.
    """
    results = {
        name: run(tmp_path / name, model, phantom_table, *flags)
        for name, flags in (
            ("first", ()),
            ("again", ()),
            ("release", ("--protocol", "eclip-release")),
            ("gloria", ("--protocol", "gloria", "--seed", 1)),
        )
    }
    scores = {name: result["predictions"]["score"] for name, result in results.items()}
    np.testing.assert_array_equal(scores["first"], scores["again"])
    np.testing.assert_allclose(scores["first"], by_hand(model, phantom_table, unit=True), atol=1e-6)
    np.testing.assert_allclose(
        scores["release"], by_hand(model, phantom_table, unit=False), atol=1e-6
    )
    assert np.abs(scores["first"] - scores["release"]).max() > 1e-3
    np.testing.assert_allclose(scores["gloria"].mean(axis=0), 0, atol=1e-9)
    result = results["first"]
    settings, values = result["settings"], result["values"]
    assert {len(settings[key]) for key in ("weights_hash", "data_hash", "prompts_hash")} == {64}
    assert "CenterCrop" in settings["transform"]
    assert settings["class_vector"] == "unit_mean"
    assert settings["samples"] == 40
    assert settings["classes"] == list(CHEST.words.classes)
    counts = np.bincount(pd.read_csv(phantom_table)["label"], minlength=6)
    prevalence = dict(zip(CHEST.words.classes, counts / 40, strict=True))
    assert values["prevalence"] == pytest.approx(prevalence)
    assert np.sum(values["confusion_matrix"]) == 40
    assert values["headline"]["metric"] == "macro-F1"
    assert values["headline"]["low"] <= values["headline"]["value"] <= values["headline"]["high"]
    assert {path.name for path in (tmp_path / "first").iterdir()} >= {
        "result.json",
        "result.md",
        "report.html",
        "confusion_matrix.png",
    }
    page = (tmp_path / "first" / "report.html").read_text()
    assert "right: called" in page
    assert "wrong: called" in page
    assert results["release"]["settings"]["protocol"] == "eclip-release"
    assert results["gloria"]["values"]["headline"]["metric"] == "accuracy"
    assert any("transductive" in note for note in results["gloria"]["notes"])
    assert not any("transductive" in note for note in result["notes"])
    assert len(results["gloria"]["values"]["prompts"]["normal"]["positive"]) == 5
    hashes = {results[name]["settings"]["prompts_hash"] for name in results}
    assert len(hashes) == 2
    assert results["gloria"]["settings"]["prompts_hash"] not in {settings["prompts_hash"]}


@pytest.mark.slow
def test_own_classes_absent_class_and_patients(
    tmp_path: Path, model: str, phantom_table: Path
) -> None:
    """Labels are numbers; no sample is of the fourth class; 20 patients have two images each."""
    data = table(
        tmp_path / "data", phantom_table, label=np.arange(40) % 3, patient=np.arange(40) // 2
    )
    classes = write(tmp_path / "classes.txt", "normal\nnodule\nmass\nring\n")
    result = run(
        tmp_path / "out",
        model,
        data,
        "--classes",
        classes,
        "--templates",
        write(tmp_path / "t.txt", "\n".join(TEMPLATES)),
    )
    assert result["values"]["classes_counted"] == 3
    assert result["values"]["by_class"]["ring"]["F1"] == {"value": None, "low": None, "high": None}
    assert any("No sample is of ring" in note and "3 of 4" in note for note in result["notes"])
    f1 = [
        result["values"]["by_class"][name]["F1"]["value"] for name in ("normal", "nodule", "mass")
    ]
    assert result["values"]["headline"]["value"] == pytest.approx(np.mean(f1))
    assert result["values"]["prompts"]["ring"]["positive"] == [
        template.format(c="ring") for template in TEMPLATES
    ]
    assert "1 000 draws of 20 patients" in (tmp_path / "out" / "result.md").read_text()
    right = result["predictions"]["score"].argmax(axis=1) == result["predictions"]["label"]
    expected = bootstrap_interval(
        lambda rows: right[rows].mean(), 40, groups=[str(i) for i in np.arange(40) // 2]
    )
    assert [
        result["values"]["overall"]["accuracy"][key] for key in ("low", "high")
    ] == pytest.approx(expected)


@pytest.mark.slow
def test_two_classes_report_the_score_without_skill_and_prompt_pairs(
    tmp_path: Path, model: str, phantom_table: Path
) -> None:
    data = table(
        tmp_path / "data",
        phantom_table,
        label=np.where(np.arange(40) % 4, "No pneumonia", "Pneumonia"),
    )
    result = run(tmp_path / "out", model, data, "--set", "rsna", "--protocol", "eclip-release")
    assert result["values"]["headline"]["metric"] == "F1 of the positive class"
    assert result["values"]["overall"]["macro-F1"]
    text = (tmp_path / "out" / "result.md").read_text()
    # the headline comes first
    assert "| --- | --- | --- | --- |\n| F1 of the positive class (the protocol's) |" in text
    assert f"{0.5 / 1.25:.3f} |" in text  # 2p / (1 + p) at p = 1/4
    assert any("AGPL" in note for note in result["notes"])
    pairs = run(tmp_path / "pairs", model, data, "--set", "rsna", "--protocol", "chexzero")[
        "predictions"
    ]["score"]
    np.testing.assert_allclose(pairs.sum(axis=1), 1, atol=1e-12)


def test_multi_label_sets_have_only_auroc(tmp_path: Path, model: str, phantom_table: Path) -> None:
    columns = {
        name: np.where(
            np.arange(40) % 9 == 0, "", (np.arange(40) % (k + 2) == 0).astype(int).astype(str)
        )
        for k, name in enumerate("abc")
    }
    columns["c"] = "0"
    data = table(tmp_path / "data", phantom_table, **columns)
    result = run(
        tmp_path / "out",
        model,
        data,
        "--classes",
        write(tmp_path / "c.json", ["a", "b", "c"]),
        "--protocol",
        "chexzero",
    )
    assert set(result["values"]["overall"]) == {"macro AUROC"}
    assert result["values"]["classes_counted"] == 2
    assert result["values"]["by_class"]["c"]["AUROC"]["value"] is None
    assert any("'c' has 0 positive and 40 negative" in n for n in result["notes"])
    assert result["values"]["labelled"] == {"a": 35, "b": 35, "c": 40}
    assert str(result["predictions"]["kind"]) == "binary"


def test_one_hot_columns_of_a_single_label_set(
    tmp_path: Path, model: str, phantom_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {
        name: (np.arange(40) % 5 == k).astype(int).astype(str) for k, name in enumerate(COMPETITION)
    }
    result = run(
        tmp_path / "out",
        model,
        table(tmp_path / "good", phantom_table, **columns),
        "--set",
        "chexpert-5x200",
        "--prompts",
        "pairs:chexzero",
    )
    assert result["predictions"]["label"].tolist() == [i % 5 for i in range(40)]
    assert str(result["predictions"]["kind"]) == "classes"
    columns["Edema"][0] = "1"
    message = error_of(
        capsys,
        model,
        table(tmp_path / "bad", phantom_table, **columns),
        tmp_path / "x",
        "--set",
        "chexpert-5x200",
    )
    assert "row 1 " in message
    assert "of the classes ['Atelectasis', 'Edema'], so its label is not one-hot" in message


@pytest.mark.slow
def test_bad_input_is_named(
    tmp_path: Path, model: str, phantom_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes, out = write(tmp_path / "c.txt", "normal\nnodule\n"), tmp_path / "out"
    flags = ("--classes", classes, "--templates", write(tmp_path / "t.txt", "{c}"))
    wrong = table(tmp_path / "wrong", phantom_table, label=["normal"] * 39 + ["goitre"])
    assert "row 40" in (message := error_of(capsys, model, wrong, out, *flags))
    assert "unknown class 'goitre'" in message
    rows = pd.read_csv(table(tmp_path / "gone", phantom_table, label="normal"))
    rows.loc[4, "filepath"] = "gone.png"
    rows.to_csv(tmp_path / "gone" / "own.csv", index=False)
    assert "row 5" in (
        message := error_of(capsys, model, tmp_path / "gone" / "own.csv", out, *flags)
    )
    assert "no such image" in message
    assert not out.exists()
    result = run(out, model, tmp_path / "gone" / "own.csv", *flags, "--on-bad-sample", "skip")
    assert result["settings"]["samples"] == 39
    assert any("1 sample left out: no such image (gone.png)" in note for note in result["notes"])
    assert "both give the prompts" in error_of(
        capsys, model, phantom_table, tmp_path / "x", *flags, "--prompts", "pairs:chexzero"
    )


# ---- clip-benchmark


def clip_benchmark_folder(folder: Path) -> Path:
    """Phantoms in the webdataset form of clip-benchmark.

    The files are test/0.tar, test/1.tar (webp and cls), nshards.txt, class names and templates.
    """
    batch = generate(40, seed=1, split="test", annotated=0, size=32)
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        members = {}
        for i in range(shard * 20, shard * 20 + 20):
            buffer = io.BytesIO()
            Image.fromarray(batch.images[i]).convert("RGB").save(buffer, "webp", lossless=True)
            members |= {
                f"s{i:04d}.webp": buffer.getvalue(),
                f"s{i:04d}.cls": str(batch.labels[i]).encode(),
            }
        write_shard(folder / "test" / f"{shard}.tar", members)
    write(folder / "test" / "nshards.txt", "2")
    write(folder / "classnames.txt", "\n".join(CHEST.words.classes))
    write(folder / "zeroshot_classification_templates.txt", "\n".join(TEMPLATES))
    return folder


def top_k(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """clip_benchmark's `accuracy` without its last line."""
    hits = output.topk(max(topk), 1).indices == target[:, None]
    return [float(hits[:, :k].any(1).float().mean()) for k in topk]


@pytest.mark.slow
def test_scores_agree_with_clip_benchmark(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader, classifier and metrics run on a plain open_clip folder.

    Cosines and accuracy agree to 1e-6, mean recall to 1e-9.
    """
    if importlib.util.find_spec("requests") is None:  # it imports this undeclared, for downloads
        monkeypatch.setitem(sys.modules, "requests", types.ModuleType("requests"))
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics import zeroshot_classification as theirs

    folder = clip_benchmark_folder(tmp_path / "data")
    built, transform = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    built.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    dataset = build_dataset("wds/phantom", root=str(folder), transform=transform, split="test")
    loader = torch.utils.data.DataLoader(dataset.batched(16), batch_size=None)
    loader.dataset.classes = dataset.classes
    classifier = theirs.zero_shot_classifier(
        built, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
    )
    logits, target = theirs.run_classification(built, classifier, loader, "cpu", amp=False)
    # its own takes float() of an array of length 1, which numpy >= 2.4 refuses
    monkeypatch.setattr(theirs, "accuracy", top_k)
    metrics = theirs.evaluate(
        built, loader, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
    )

    result = run(tmp_path / "out", model, folder / "test" / "{0..1}.tar")
    predictions, overall = result["predictions"], result["values"]["overall"]
    assert predictions["classes"].tolist() == list(CHEST.words.classes)
    assert len(set(predictions["score"].argmax(axis=1))) > 3
    np.testing.assert_array_equal(predictions["label"], target)
    np.testing.assert_allclose(predictions["score"], logits.numpy() / 100, atol=1e-6, rtol=0)
    assert overall["accuracy"]["value"] == pytest.approx(metrics["acc1"], abs=1e-6)
    assert overall["balanced accuracy"]["value"] == pytest.approx(
        metrics["mean_per_class_recall"], abs=1e-9
    )
