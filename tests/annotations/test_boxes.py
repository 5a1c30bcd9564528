"""Tables of boxes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_files import SIZES, area, box_area, random_box, read_drawings

from openclip_eclip.annotations.drawn import boxes
from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.config import UserError

VINDR = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
NIH = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
RSNA = "patientId,x,y,width,height,Target"


def write(folder: Path, text: str, name: str = "boxes.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("form", ["corners", "sides"])
def test_boxes_are_read_as_drawn(tmp_path: Path, form: str, fractions: bool) -> None:
    rng = np.random.default_rng(0)
    rows, drawn = [], []
    for i in range(12):
        size = SIZES[i % 3]
        box = random_box(rng, size)
        drawn.append((box_area(box, size), size))
        values = box / np.tile(size[::-1], 2) if fractions else box
        if form == "sides":
            values = np.concatenate([values[:2], values[2:] - values[:2]])
        rows.append([f"{i % 3}.png", *values, f"class {i % 2}", f"R{i % 4}"])
    names = {"corners": ["x1", "y1", "x2", "y2"], "sides": ["Left", "Top", "Box_Width", "bbox_h"]}
    header = ["File Name", *names[form], "Finding", "Reader ID"]
    pd.DataFrame(rows, columns=header).to_csv(tmp_path / "boxes.tsv", sep="\t", index=False)
    found, left_out = read_drawings("boxes", tmp_path)
    assert not left_out and [one.image for one in found] == [f"{i % 3}.png" for i in range(12)]
    assert [one.label for one in found] == [f"class {i % 2}" for i in range(12)]
    assert [one.annotator for one in found] == [f"R{i % 4}" for i in range(12)]
    for one, (marked, size) in zip(found, drawn):
        assert one.fractions == fractions and (area(one, size) == marked).all()


def test_vindr(tmp_path: Path) -> None:
    rows = "a1,No finding,14,R9,,,,\nb2,Aortic enlargement,0,R8,691.5,375,1653,831.25\n"
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(f"{VINDR}\n{rows}".encode()))
    (found,), left_out = read_drawings("boxes", tmp_path)
    assert (found.image, found.label, found.annotator) == ("b2", "Aortic enlargement", "R8")
    assert found.shape.xyxy.tolist() == [[691.5, 375, 1653, 831.25]] and found.size is None
    assert left_out == {NOTHING_DRAWN: 1}


def test_nih_with_its_odd_header(tmp_path: Path) -> None:
    write(tmp_path, f"{NIH}\n00013118_008.png,Atelectasis,225.5,547,86.5,79.25,,,\n")
    (found,), _ = read_drawings("boxes", tmp_path)
    assert (found.image, found.label) == ("00013118_008.png", "Atelectasis")
    assert found.shape.xyxy.tolist() == [[225.5, 547, 312, 626.25]]


def test_rsna(tmp_path: Path) -> None:
    write(tmp_path, f"{RSNA}\na,,,,,0\nb,264.0,152.0,213.0,379.0,1\n")
    (found,), left_out = read_drawings("boxes", tmp_path)
    assert (found.image, found.label) == ("b", "lung opacity")
    assert found.shape.xyxy.tolist() == [[264, 152, 477, 531]]
    assert left_out == {NOTHING_DRAWN: 1}


def test_width_and_height_beside_corners_are_those_of_the_image(tmp_path: Path) -> None:
    """As in the tables of TensorFlow's object detection."""
    write(tmp_path, "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,80,60,n,1,2,9,9\n")
    (found,), _ = read_drawings("boxes", tmp_path)
    assert found.size == (60, 80) and found.shape.xyxy.tolist() == [[1, 2, 9, 9]]


def test_columns_are_named_by_flags(tmp_path: Path) -> None:
    path = write(tmp_path, "bild,links,oben,breite,hoehe,befund\na.png,1,2,9,9,Herd\n")
    flags = ["--box-columns", "bild,links,oben,breite,hoehe,befund", "--box-form", "sides"]
    (found,), _ = read_drawings("boxes", tmp_path, flags=flags, name="boxes")
    assert found.label == "Herd" and found.shape.xyxy.tolist() == [[1, 2, 10, 11]]
    with pytest.raises(UserError, match="no columns of an image and a box among .*--box-columns"):
        read_drawings("boxes", path, name="boxes")
    with pytest.raises(UserError, match=r"no column 'label'; found .*'befund'"):
        flags = ["--box-columns", "bild,links,oben,breite,hoehe,label"]
        read_drawings("boxes", path, flags=flags, name="boxes")
    with pytest.raises(UserError, match="4 names; expected five to seven"):
        read_drawings("boxes", path, flags=["--box-columns", "a,b,c,d"], name="boxes")
    with pytest.raises(UserError, match="--box-form sides without --box-columns"):
        read_drawings("boxes", path, flags=["--box-form", "sides"], name="boxes")


@pytest.mark.parametrize(
    "header",
    [
        "image,x,y,width,height,duration",
        "image,FPOGX,xmin,ymin,xmax,ymax,timestamp",
        "image_id,x1,y1,x2,y2,fixation_index",
        "image,caption",
        "filename,region_shape_attributes",
        "x,y,width,height",
    ],
)
def test_other_tables_are_not_claimed(tmp_path: Path, header: str) -> None:
    assert not boxes.claims(write(tmp_path, f"{header}\n1,2,3,4,5,6\n"), b"")
    assert boxes.claims(write(tmp_path, f"{RSNA}\na,,,,,0\n"), b"")


BAD = {
    r"row 2: .* as fractions of the image; but .*row 1: .* as pixels; expected one unit": (
        "b,n,0,R,0.1,0.2,0.5,0.75"
    ),
    r"row 2, column 'x_max': 'wide'; expected a finite number": "b,n,0,R,1,2,wide,9",
    r"row 2, column 'y_max': 'inf'; expected a finite number": "b,n,0,R,1,2,8,inf",
    r"row 2, column 'y_min': blank; expected four numbers, or none": "b,n,0,R,1,,8,9",
    r"row 2: .* of width -4 and height 7; expected both above 0": "b,n,0,R,9,2,5,9",
    r"row 2: x -9 to -5, .* on any image; expected a part": "b,n,0,R,-9,2,-5,9",
    r"row 2, column 'image_id': blank; expected an image": ",n,0,R,1,2,9,9",
    r"line 3: 5 fields, the header has 8": "b,n,0,R,1",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_rows_are_errors(tmp_path: Path, message: str) -> None:
    path = write(tmp_path, f"{VINDR}\na,n,0,R,10,20,90,90\n{BAD[message]}\n")
    with pytest.raises(UserError, match=r"boxes\.csv, " + message):
        read_drawings("boxes", path)


def test_bad_image_sizes_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "file,width,height,xmin,ymin,xmax,ymax\na.png,0,60,1,2,9,9\n")
    with pytest.raises(UserError, match=r"row 1, column 'width': 0; expected a whole number"):
        read_drawings("boxes", path)
