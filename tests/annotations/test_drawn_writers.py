"""COCO JSON and Label Studio pre-annotations that are written are read back the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_files import SIZES, drawn, random_mask, read_all

from openclip_eclip.annotations.drawn.predicted import Predicted, Region
from openclip_eclip.annotations.drawn.write_coco import write_coco
from openclip_eclip.annotations.drawn.write_label_studio import (
    LOCAL,
    labelling_interface,
    write_label_studio,
)
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Annotation, render

FACTORS = (1, 3, (2, 5))  # pixels of the image for one of the mask


def predictions(seed: int = 0) -> list[Predicted]:
    """Masks at their own resolution, on images that are a multiple of it."""
    rng = np.random.default_rng(seed)
    images = []
    for i, size in enumerate(SIZES):
        for j, factor in enumerate(FACTORS):
            whole = tuple(np.multiply(size, factor).tolist())
            masks = [random_mask(rng, size) for _ in range(2)]
            regions = [
                Region("nodule", masks[0], 0.25),
                Region('a "mass" & more', masks[1], 0.75),
                Region("nothing", np.zeros(size, dtype=bool), 0.1),
            ]
            images.append(Predicted(f"set {i}/{j}.png", whole, regions))
    return images


def check_the_same(path: Path, annotator: str) -> None:
    records, left_out = read_all(path)
    found = iter(records)
    for name, size, regions in predictions():
        for label, mask, _ in regions[:2]:
            record = next(found)
            assert (record.image, record.label, record.size) == (name, label, size)
            assert record.annotator == annotator
            rendered = drawn_at(record.shape, size, mask.shape)
            np.testing.assert_array_equal(rendered, mask)
    assert next(found, None) is None and not left_out


def drawn_at(shape: Annotation, size: tuple[int, int], out: tuple[int, ...]) -> np.ndarray:
    """The mask at its own resolution; every cell must be wholly inside or outside."""
    heatmap = render(shape, size, (out[0], out[1]))
    assert heatmap is not None
    values = heatmap.values
    assert np.isclose(values, 0, atol=1e-6).sum() + np.isclose(values, 1).sum() == values.size
    return values > 0.5


def test_coco_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    counts = write_coco(path, predictions())
    assert counts == {"images": 12, "regions": 24, "empty regions": 12}
    check_the_same(path, "")
    content = json.loads(path.read_text())
    first, (_, _, regions) = content["annotations"][0], predictions()[0]
    assert first["score"] == 0.25 and first["area"] == regions[0].mask.sum()
    rows, columns = np.nonzero(regions[0].mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert first["bbox"] == [int(side) for side in box]


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    write_coco(tmp_path / "c.json", predictions())
    content = json.loads((tmp_path / "c.json").read_text())
    expected = [region.mask for one in predictions() for region in one.regions[:2]]
    factors = [factor for _ in SIZES for factor in FACTORS for _ in range(2)]
    for record, mask, factor in zip(content["annotations"], expected, factors):
        block = np.ones(np.broadcast_to(factor, 2), dtype=int)
        found = coder.decode(record["segmentation"])
        np.testing.assert_array_equal(found, np.kron(mask, block))
        np.testing.assert_array_equal(coder.toBbox(record["segmentation"]), record["bbox"])
        assert coder.area(record["segmentation"]) == record["area"]


@pytest.mark.parametrize("prefix", ["", LOCAL, "https://host/"])
def test_label_studio_comes_back(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "l.json"
    counts = write_label_studio(path, predictions(), "run 3", prefix)
    assert counts == {"images": 12, "regions": 24, "empty regions": 12}
    check_the_same(path, "run 3")
    (prediction,) = json.loads(path.read_text())[0]["predictions"]
    assert prediction["score"] == 0.5 and prediction["model_version"] == "run 3"


def test_a_correction_comes_back_as_the_experts(tmp_path: Path) -> None:
    """As Label Studio exports it: the prediction stays beside the annotation."""
    path = tmp_path / "l.json"
    write_label_studio(path, predictions()[:1], "run 3")
    tasks = json.loads(path.read_text())
    corrected = {"completed_by": 8, "result": tasks[0]["predictions"][0]["result"][:1]}
    tasks[0]["annotations"] = [corrected]
    path.write_text(json.dumps(tasks))
    ((record,), _) = read_all(path)
    assert record.annotator == "8"
    np.testing.assert_array_equal(drawn(record.shape, SIZES[0]), predictions()[0].regions[0].mask)


def test_other_resolutions_take_the_value_at_the_centre(tmp_path: Path) -> None:
    mask = np.array([[True, False], [False, True]])
    write_coco(tmp_path / "c.json", [Predicted("a.png", (3, 5), [Region("x", mask)])])
    ((record,), _) = read_all(tmp_path / "c.json")
    expected = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(drawn(record.shape, (3, 5)), np.array(expected, dtype=bool))


def test_interface_lists_the_labels() -> None:
    root = ElementTree.fromstring(labelling_interface(["nodule", 'a "mass" & <more>']))
    brush = root.find("BrushLabels")
    assert brush is not None and brush.get("toName") == root.find("Image").get("name")  # type: ignore[union-attr]
    assert [one.get("value") for one in brush] == ["nodule", 'a "mass" & <more>']


@pytest.mark.parametrize("writer", ["coco", "label studio"])
def test_nothing_is_left_of_a_run_that_fails(writer: str, tmp_path: Path) -> None:
    def images(twice: bool) -> Iterator[Predicted]:
        yield predictions()[0]
        if twice:
            yield predictions()[0]
        raise KeyboardInterrupt

    def write(path: Path, twice: bool) -> None:
        if writer == "coco":
            write_coco(path, images(twice))
        else:
            write_label_studio(path, images(twice), "m")

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.json", False)
    with pytest.raises(UserError, match="'set 0/0.png' comes twice"):
        write(tmp_path / "out.json", True)
    assert not list(tmp_path.iterdir())


def test_no_images_are_written_as_empty_lists(tmp_path: Path) -> None:
    write_coco(tmp_path / "c.json", [])
    write_label_studio(tmp_path / "l.json", [], "m")
    assert json.loads((tmp_path / "c.json").read_text())["annotations"] == []
    assert json.loads((tmp_path / "l.json").read_text()) == []
