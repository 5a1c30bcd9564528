"""CVAT XML 1.1 for images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_files import (
    SIZES,
    area,
    assert_same,
    box_area,
    filled,
    random_box,
    random_outline,
    read_drawings,
)
from PIL import Image

from openclip_eclip.annotations.drawn import cvat
from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.config import UserError

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<!-- a comment -->\n<annotations>'
META = "<meta><task><id>3</id><assignee><username>ann</username></assignee></task></meta>"
IMAGE = '<image id="0" name="a.png" width="80" height="60">{}</image>'


def write(folder: Path, images: str, meta: str = META, name: str = "annotations.xml") -> Path:
    path = folder / name
    path.write_text(f"{HEAD}<version>1.1</version>{meta}{images}</annotations>")
    return path


def shape(tag: str, **attributes: object) -> str:
    values = {"label": "nodule", "source": "manual", "occluded": "0", "z_order": "0"} | attributes
    pairs = " ".join(f'{key}="{value}"' for key, value in values.items())
    return f"<{tag} {pairs}></{tag}>"


def points(outline: np.ndarray) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)


def runs(values: np.ndarray) -> str:
    """CVAT's own form (cvat/apps/dataset_manager: mask_tools): runs along rows, 0s first."""
    flat = values.ravel()
    ends = np.flatnonzero(np.diff(flat, prepend=~flat[:1], append=~flat[-1:]))
    counts = np.diff(ends).tolist()
    return ", ".join(map(str, [0, *counts] if flat[0] else counts))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_shapes_are_read_as_drawn(tmp_path: Path, size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    box, outline = random_box(rng, size), random_outline(rng, size)
    left, top, right, bottom = box
    drawn = box_area(box, size)
    cut = filled(outline, size)[top:bottom, left:right]
    cut[0, 0] = seed % 2  # runs may begin with either value
    marked = np.zeros(size, bool)
    marked[top:bottom, left:right] = cut
    centre, half = np.array(size[::-1]) / 2, np.array(size[::-1]) * [0.35, 0.2]
    elements = [
        shape("box", label="a", xtl=left, ytl=top, xbr=right, ybr=bottom),
        shape("polygon", label="b", points=points(outline)),
        shape("ellipse", label="c", cx=centre[0], cy=centre[1], rx=half[0], ry=half[1]),
        shape(
            "mask", label="d", rle=runs(cut), left=left, top=top, width=right - left,
            height=bottom - top,
        ),
    ]  # fmt: skip
    tag = f'<image id="7" name="x/a b.png" width="{size[1]}" height="{size[0]}">'
    found, left_out = read_drawings("cvat", write(tmp_path, f"{tag}{''.join(elements)}</image>"))
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    ellipse = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
    assert [drawing.label for drawing in found] == ["a", "b", "c", "d"] and not left_out
    assert {(one.image, one.annotator, one.size) for one in found} == {("x/a b.png", "ann", size)}
    assert (area(found[0], size) == drawn).all()
    assert_same(area(found[1], size), filled(outline, size))
    assert_same(area(found[2], size), ellipse)
    assert (area(found[3], size) == marked).all()


@pytest.mark.parametrize("degrees", [0, 30, 90, 217.5])
def test_boxes_and_ellipses_are_turned_clockwise(tmp_path: Path, degrees: float) -> None:
    """Pillow turns the picture of the upright shape; its angles are counter-clockwise."""
    size = (60, 80)
    y, x = np.mgrid[:60, :80] + 0.5
    upright = {
        "box": (abs(x - 40) <= 22) & (abs(y - 30) <= 8),
        "ellipse": ((x - 40) / 22) ** 2 + ((y - 30) / 8) ** 2 <= 1,
    }
    elements = shape("box", xtl=18, ytl=22, xbr=62, ybr=38, rotation=degrees)
    elements += shape("ellipse", cx=40, cy=30, rx=22, ry=8, rotation=degrees)
    found, _ = read_drawings("cvat", write(tmp_path, IMAGE.format(elements)))
    for drawing, drawn in zip(found, upright.values()):
        turned = np.asarray(Image.fromarray(drawn.astype(np.uint8) * 255).rotate(-degrees)) > 127
        assert_same(area(drawing, size), turned)


def test_points_skeletons_and_what_has_no_area(tmp_path: Path) -> None:
    joints = (
        '<points label="l" outside="0" points="5,6"/><points label="r" outside="1" points="1,1"/>'
    )
    elements = [
        shape("points", points="10.5,20;30,40.25"),
        f'<skeleton label="pose">{joints}</skeleton>',
        shape("polyline", points="1,1;5,5"),
        '<tag label="abnormal"></tag>',
        shape("polygon", points="1,1;5,5"),
        shape("mask", rle="4", left=0, top=0, width=2, height=2),
    ]
    empty = '<image id="1" name="b.png" width="80" height="60"></image>'
    path = write(tmp_path, IMAGE.format("".join(elements)) + empty)
    found, left_out = read_drawings("cvat", path)
    assert [one.label for one in found] == ["nodule", "pose"]
    assert found[0].shape.x.tolist() == [10.5, 30] and found[0].shape.y.tolist() == [20, 40.25]
    assert found[1].shape.x.tolist() == [5]
    assert left_out == {
        "polyline": 1, "tag": 1, "empty shape": 2, NOTHING_DRAWN: 1,
    }  # fmt: skip


def test_annotators_are_assignees(tmp_path: Path) -> None:
    """Of the task of a file, or in the export of a project by the task of each image."""
    box = shape("box", xtl=1, ytl=1, xbr=9, ybr=9)
    project = "<meta><project><tasks>{}</tasks></project></meta>".format(
        "".join(
            f"<task><id>{i}</id><assignee><username>{name}</username></assignee></task>"
            for i, name in ((3, "ann"), (4, "bob"))
        )
    )
    one = '<image id="{}" name="a.png" task_id="{}" width="80" height="60">' + box + "</image>"
    path = write(tmp_path, one.format(0, 3) + one.format(1, 4), project)
    assert [drawing.annotator for drawing in read_drawings("cvat", path)[0]] == ["ann", "bob"]
    (tmp_path / "jobs").mkdir()
    for name in ("ann", "bob"):
        meta = f"<meta><job><id>3</id><assignee>{name}</assignee></job></meta>"
        write(tmp_path / "jobs", IMAGE.format(box), meta, f"{name}.xml")
    found, _ = read_drawings("cvat", tmp_path / "jobs")
    assert [drawing.annotator for drawing in found] == ["ann", "bob"]
    write(tmp_path / "jobs", IMAGE.format(box) * 2, META, "copy.xml")
    with pytest.raises(UserError, match=r"copy\.xml, image 0 'a\.png': this image is there twice"):
        read_drawings("cvat", tmp_path / "jobs")


BOX = {"xtl": 1, "ytl": 2, "xbr": 9, "ybr": 9}
MASK = {"left": 0, "top": 0, "width": 2, "height": 2, "rle": "1, 3"}
BAD = {
    r"shape 1 \(box 'nodule'\), ybr: missing; expected a finite number": shape(
        "box", xtl=1, ytl=2, xbr=9
    ),
    r"shape 1 .*, xtl: 'one'; expected a finite number": shape("box", **BOX | {"xtl": "one"}),
    r"xtl: 'nan'; expected a finite number": shape("box", **BOX | {"xtl": "nan"}),
    r"of width -4 and height 7; expected both above 0": shape("box", **BOX | {"xtl": 13}),
    r"x 181 to 190, y 2 to 9 on an image of 60 x 80": shape(
        "box", **BOX | {"xtl": 181, "xbr": 190}
    ),
    r"points: missing": shape("polygon"),
    r"points: '1,2,3'; expected x,y;x,y": shape("polygon", points="1,2,3;4,5"),
    r"a mask of 2 x 2 at x 79, y 0 on an image of 60 x 80": shape("mask", **MASK | {"left": 79}),
    r"rle: rle: coco counts add up to 5; expected 2 x 2": shape("mask", **MASK | {"rle": "1, 4"}),
    r"rle: .*' x'.*; expected whole numbers": shape("mask", **MASK | {"rle": "1, x"}),
    r"no label; expected the name of a class": shape("box", **BOX | {"label": ""}),
    r"shape 1 \(cube 'nodule'\): an unknown element": shape("cube"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_shapes_are_errors(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=r"annotations\.xml, image 0 'a\.png', .*" + message):
        read_drawings("cvat", write(tmp_path, IMAGE.format(BAD[message])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEAD}<image", r"annotations\.xml: broken XML \(.*line 3"),
        (f"{HEAD}<track></track></annotations>", "tracks of a video; expected images"),
        (f'{HEAD}<image id="0" name="a" width="0" height="9"/></annotations>', "width: 0; exp"),
        (f'{HEAD}<image id="0" name="a" width="9"/></annotations>', "height: missing"),
        (f'{HEAD}<image id="0" width="9" height="9"/></annotations>', "image 0 '': no name"),
        (f"{HEAD}{'<a>' * 300}", "elements nested 201 deep; expected at most 200"),
        (f"{HEAD}<!-- \udcff --></annotations>", "not UTF-8"),
    ],
)
def test_bad_files_are_errors(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        read_drawings("cvat", path)


def test_document_types_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text('<!DOCTYPE annotations [<!ENTITY a "b">]><annotations>&a;</annotations>')
    with pytest.raises(UserError, match="a document type or entity declaration; expected plain"):
        read_drawings("cvat", path, name="cvat")


def test_a_large_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    """The first image is there before the broken end of the file, 5 MB later, is read."""
    images = IMAGE.format(shape("box", **BOX)) + f"<image>{'<a/>' * 10}</image>" * 3
    path = tmp_path / "annotations.xml"
    path.write_text(f"{HEAD}{images}{' ' * 5_000_000}</broken>")
    records = cvat.read([path], tmp_path, None, lambda *_: None)
    assert next(records).image == "a.png"
