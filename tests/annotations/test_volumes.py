"""NRRD and NIfTI masks, written by pynrrd and nibabel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from drawn_files import SIZES, area, filled, random_outline, read_drawings

from openclip_eclip.annotations.drawn.volumes import arrange
from openclip_eclip.config import UserError

LPS = np.diag([1.0, 1, 1])  # columns are axes of the file: to the left, back and head


def picture(seed: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
    """bool (height, width), the same for no turn or mirror image."""
    rng = np.random.default_rng(seed)
    size = SIZES[seed % 3]
    values = filled(random_outline(rng, size), size)
    values[2:5, 3:20] = True
    return values, size


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flat", [False, True])
def test_nifti_of_a_picture(tmp_path: Path, seed: int, flat: bool) -> None:
    """SimpleITK writes columns along axis 1, rows along axis 2, and directions 1, 1 of DICOM."""
    nibabel = pytest.importorskip("nibabel")
    drawn, size = picture(seed)
    stored = drawn.T.astype(np.uint8)
    image = nibabel.Nifti1Image(stored if flat else stored[..., None], np.diag([-1, -1, 1, 1.0]))
    nibabel.save(image, tmp_path / "a.1_mask.nii.gz")
    (found,), left_out = read_drawings("volumes", tmp_path)
    assert (found.image, found.label, found.size) == ("a.1", "", size) and not left_out
    assert (area(found, size) == drawn).all()


def test_nifti_in_the_orientation_of_nibabel(tmp_path: Path) -> None:
    """Axes to the right and front are mirrored, unless the user wants them as stored."""
    nibabel = pytest.importorskip("nibabel")
    drawn, size = picture()
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(drawn.T.astype(np.uint8)[..., None], np.eye(4)), path)
    (found,), _ = read_drawings("volumes", path)
    assert (area(found, size) == drawn[::-1, ::-1]).all()
    (found,), _ = read_drawings("volumes", path, flags=["--volume-axes", "stored"])
    assert (area(found, size) == drawn).all()


def test_nifti_without_an_orientation_is_read_as_stored(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    drawn, size = picture()
    image = nibabel.Nifti1Image(drawn.T.astype(np.float32)[..., None], None)
    assert image.header["sform_code"] == image.header["qform_code"] == 0
    nibabel.save(image, tmp_path / "a.nii")
    (found,), _ = read_drawings("volumes", tmp_path)
    assert (area(found, size) == drawn).all()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_all_orientations_are_shown_alike(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """A frontal picture, stored in any order and direction of its axes.

    On it, the columns go to the patient's left and the rows to the feet.
    """
    drawn, _ = picture()
    body = drawn.T[:, None, ::-1]  # left, back, head
    stored = body.transpose(order)
    directions = LPS[:, order] * signs
    flips = tuple(slice(None, None, sign) for sign in signs)
    shown, along = arrange(stored[flips][None], directions, "x")
    assert (shown[0, 0] == drawn).all() and order[along] == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [((0, 1), "axial: left, back"), ((0, 2), "frontal: left, feet"), ((1, 2), "side: back, feet")],
)
def test_planes(body: tuple[int, int], expected: str) -> None:
    """The mark lies at the patient's left, back and head."""
    values = np.zeros((5, 6, 7), bool)
    values[4, 5, 6] = True
    ((normal,)) = {0, 1, 2} - set(body)
    index = [slice(None)] * 3
    index[normal] = slice(values.shape[normal] - 1, None)
    shown, along = arrange(values[tuple(index)][None], LPS, expected)
    assert along == normal
    row = shown.shape[2] - 1 if expected.endswith("back") else 0
    assert shown[0, 0, row, -1] and shown.sum() == 1


def test_slices_of_a_volume_are_images(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    drawn, size = picture()
    values = np.zeros((*size[::-1], 4), np.int16)
    values[..., 1], values[..., 3] = drawn.T * 2, drawn[::-1].T * 5
    (tmp_path / "classes.txt").write_text("background\nlung\nnodule\n")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 2, 1.0])), tmp_path / "ct.nii.gz")
    found, _ = read_drawings("volumes", tmp_path)
    assert [(one.image, one.label) for one in found] == [("ct_1", "nodule"), ("ct_3", "class 5")]
    assert (area(found[0], size) == drawn).all() and (area(found[1], size) == drawn[::-1]).all()


def test_segments_of_slicer(tmp_path: Path) -> None:
    """Names by value and layer, in the header that 3D Slicer writes; layers come first."""
    nrrd = pytest.importorskip("nrrd")
    drawn, size = picture()
    values = np.zeros((2, *size[::-1], 1), np.uint8)
    values[0, ..., 0], values[1, ..., 0] = drawn.T * 3, drawn[::-1].T
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.array([[np.nan] * 3, [0.2, 0, 0], [0, 0.2, 0], [0, 0, 1]]),
        "encoding": "gzip",
    }
    for i, (name, layer, value) in enumerate([("left lung", 0, 3), ("heart", 1, 1)]):
        header |= {
            f"Segment{i}_Name": name, f"Segment{i}_Layer": str(layer),
            f"Segment{i}_LabelValue": str(value),
        }  # fmt: skip
    nrrd.write(str(tmp_path / "a.seg.nrrd"), values, header)
    found, _ = read_drawings("volumes", tmp_path)
    assert [(one.image, one.label) for one in found] == [("a", "left lung"), ("a", "heart")]
    assert (area(found[0], size) == drawn).all() and (area(found[1], size) == drawn[::-1]).all()


def test_nrrd_without_a_space_and_without_marks(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    drawn, size = picture(1)
    nrrd.write(str(tmp_path / "a.nrrd"), drawn.T.astype(np.uint8))
    nrrd.write(str(tmp_path / "b.nrrd"), np.zeros((5, 6), np.uint8))
    (found,), left_out = read_drawings("volumes", tmp_path)
    assert (area(found, size) == drawn).all() and left_out == {"empty mask": 1}


def test_bad_files_are_errors(tmp_path: Path) -> None:
    nibabel, nrrd = pytest.importorskip("nibabel"), pytest.importorskip("nrrd")

    def refused(message: str, name: str) -> None:
        with pytest.raises(UserError, match=message):
            read_drawings("volumes", tmp_path / name)

    (tmp_path / "a.nii").write_bytes(b"no volume")
    refused(r"a\.nii: not a readable NIfTI file", "a.nii")
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: uint8\n")
    refused(r"a\.nrrd: not a readable NRRD file", "a.nrrd")
    head = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: {}\nencoding: raw\n{}\n"
    (tmp_path / "b.nrrd").write_text(head.format("9000000 9000000", ""))
    refused(r"b\.nrrd: 9000000 x 9000000 values; expected at most", "b.nrrd")
    (tmp_path / "c.nrrd").write_text(head.format("4 4", "data file: /etc/passwd\n"))
    refused(r"c\.nrrd: its data are in another file", "c.nrrd")
    (tmp_path / "d.nrrd").write_text(head.format("40 40", ""))
    refused(r"d\.nrrd: not a readable NRRD file", "d.nrrd")
    noise = np.random.default_rng(0).normal(size=(30, 30, 1))
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "e.nii")
    refused(r"e\.nii: values that are no whole numbers; expected a mask", "e.nii")
    grey = np.arange(900, dtype=np.int16).reshape(30, 30)
    nibabel.save(nibabel.Nifti1Image(grey, np.eye(4)), tmp_path / "f.nii")
    refused(r"f\.nii: more than 256 different values", "f.nii")
    nrrd.write(str(tmp_path / "g.nrrd"), np.ones((3, 3, 3, 3, 3), np.uint8))
    refused(r"g\.nrrd: 5 axes; expected", "g.nrrd")
