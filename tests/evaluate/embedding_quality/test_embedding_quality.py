"""embedding-quality: groups, draws, notes, figures, and a run with a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from openclip_eclip.config import UserError
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.embedding_quality import task as embedding_quality
from openclip_eclip.evaluate.embedding_quality.figures import clouds_figure, project
from openclip_eclip.evaluate.inputs.eval_set import EvalSet
from openclip_eclip.evaluate.output.result import Result
from openclip_eclip.metrics import embedding
from openclip_eclip.prepare.__main__ import main as prepare


def unit(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def eval_set(classes: list[str] | None = None, **columns: list[str]) -> EvalSet:
    frame = pd.DataFrame(columns)
    return EvalSet(
        Path("set.csv"),
        [Path(f"{i}.png") for i in range(len(frame))],
        frame,
        {"classes": classes} if classes else {},
    )


def test_groups_are_named_by_the_recipe_and_rows_of_several_left_out() -> None:
    names, member = embedding_quality.read_groups(
        eval_set(["normal", "mass", "edema"], label=["1", "mass", "0", "", "nan"]), None
    )
    assert names == ["normal", "mass"]
    assert member.tolist() == [1, 1, 0, -1, -1]
    names, member = embedding_quality.read_groups(
        eval_set(groups=["lung", "normal", "lung|opacity", ""]), "groups"
    )
    assert names == ["lung", "normal"]
    assert member.tolist() == [0, 1, -1, -1]
    assert embedding_quality.read_groups(eval_set(title=["a"]), None)[0] == []
    with pytest.raises(UserError, match="no column 'groups'"):
        embedding_quality.read_groups(eval_set(title=["a"]), "groups")
    with pytest.raises(UserError, match="no row is in exactly one group"):
        embedding_quality.read_groups(eval_set(groups=["", "a|b"]), "groups")


def test_each_draw_has_n_pairs_and_its_own_centre() -> None:
    images, texts = unit(50, 8, 0), unit(50, 8, 1)
    whole = embedding_quality.measure_pairs(images, texts, 50, 1, 0)
    assert whole["alignment (Eq. 2)"]["raw"] == [pytest.approx(embedding.alignment(images, texts))]
    centred = embedding.uniformity(embedding.centre(images), embedding.centre(texts))
    assert whole["uniformity (Eq. 3)"]["centred"] == [pytest.approx(centred)]
    assert whole["Wang-Isola uniformity, texts"]["raw"] == [
        pytest.approx(embedding.wang_isola_uniformity(texts))
    ]
    drawn = embedding_quality.measure_pairs(images, texts, 20, 40, 0)
    values = np.array(drawn["alignment (Eq. 2)"]["raw"])
    assert len(values) == 40
    assert values.std() > 0
    # fewer wrong texts, larger Eq. 2
    assert values.mean() > embedding.alignment(images, texts) + 0.05
    assert drawn == embedding_quality.measure_pairs(images, texts, 20, 40, 0)
    assert drawn != embedding_quality.measure_pairs(images, texts, 20, 40, 1)


def test_figure_names_its_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit(30, 8, 0) * [5, 3, 1, 1, 1, 1, 1, 1]
    monkeypatch.setitem(sys.modules, "umap", None)  # not installed
    kind, flat = project(points, 0)
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    assert kind == "PCA"
    assert np.linalg.norm(flat, axis=0) == pytest.approx(spread[:2])
    kind, figure = clouds_figure(points, points, ["a"], np.where(np.arange(30) < 9, 0, -1), 0)
    assert kind == "PCA"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "no group",
        "a",
    ]

    class UMAP:
        def __init__(self, metric: str, random_state: int) -> None:
            assert metric == "cosine"
            assert random_state == 7

        def fit_transform(self, values: np.ndarray) -> np.ndarray:
            return values[:, :2]

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    assert project(points, 7)[0] == "UMAP"
    assert project(points[:15], 7)[0] == "PCA"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality") / "ph"
    assert prepare(["phantom", str(folder), "--train", "2", "--test", "40", "--size", "64"]) == 0
    return folder


def run(phantoms: Path, model: str, out: Path, *flags: object, table: str = "test.csv") -> int:
    fixed = [
        *("--model", model, "--pretrained", "random", "--device", "cpu", "--workers", 0),
        *("--cache", "none"),
    ]
    return main(
        [
            str(flag)
            for flag in (
                "embedding-quality",
                *fixed,
                *("--data", phantoms / table, "--out", out),
                *flags,
            )
        ]
    )


@pytest.mark.slow
def test_a_run_with_a_model(tiny_model: str, phantoms: Path, tmp_path: Path) -> None:
    assert run(phantoms, tiny_model, tmp_path, "--cluster-seeds", 2) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    pairs = record["values"]["pairs"]
    raw, centred = pairs["uniformity (Eq. 3)"]["raw"][0], pairs["uniformity (Eq. 3)"]["centred"][0]
    assert f"Eq. 3 is {raw:.2f}; with both clouds centred it is {centred:.2f}" in record["notes"][0]
    assert "n = 40 pairs, fewer than 1000" in record["notes"][1]
    assert record["settings"]["draws"] == 1
    assert record["values"]["groups"]["names"][0] == "normal"
    assert sum(record["values"]["groups"]["images"]) == 40
    assert record["values"]["clusters"]["seeds"] == [0, 1]
    assert len(record["values"]["clusters"]["NMI"]) == 2
    page = (tmp_path / "report.html").read_text()
    assert "rises with the modality gap" in page
    assert "Calinski-Harabasz" in page
    assert "k-means clusters" in page
    assert (tmp_path / "cosines.png").is_file()
    assert (tmp_path / "clouds.png").is_file()


def test_draws_repeated_texts_and_no_groups(
    tiny_model: str, phantoms: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(phantoms / "test.csv")
    frame.loc[1, "title"] = frame.loc[0, "title"]
    frame.drop(columns="label").to_csv(phantoms / "plain.csv", index=False)
    assert run(phantoms, tiny_model, tmp_path, "--pairs", 10, "--draws", 3, table="plain.csv") == 0
    record = json.loads((tmp_path / "result.json").read_text())
    repeated = 40 - frame["title"].nunique()
    assert any(note.startswith(f"{repeated} of 40 texts repeat") for note in record["notes"])
    assert len(record["values"]["pairs"]["modality gap"]["raw"]) == 3
    assert "groups" not in record["values"]
    assert not (tmp_path / "cosines.png").exists()


def test_bad_input(
    tiny_model: str, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for flags, message in (
        (("--pairs", 41), "--pairs 41: the set has 40 pairs"),
        (("--pairs", 1), "expected 2 to 40"),
        (("--draws", 0), "--draws 0: expected at least 1"),
        (("--group-column", "sex"), "no column 'sex'"),
    ):
        assert run(phantoms, tiny_model, tmp_path / "out", *flags) == 2
        assert message in capsys.readouterr().err


def test_too_few_images_for_clusters_is_a_note() -> None:
    for member in ([0, 0, 0, 0], [0, 1, 2, 3]):
        result, names = (
            Result("embedding-quality", {}, {}, []),
            ["a", "b", "c", "d"][: max(member) + 1],
        )
        embedding_quality.add_groups(result, unit(4, 5, 0), names, np.array(member), [0])
        assert "clusters" not in result.values
        assert len(result.tables) == 1
        assert result.notes[0].startswith(
            f"No clusters: 4 different images in {len(names)} groups; expected two"
        )
