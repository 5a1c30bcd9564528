"""Pascal VOC XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_files import SIZES, area, box_area, random_box, read_drawings

from openclip_eclip.annotations import formats
from openclip_eclip.annotations.record import NOTHING_DRAWN
from openclip_eclip.config import UserError

OBJECT = "<object><name>nodule</name><bndbox>{}</bndbox></object>"
BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>"
SIZE = "<size><width>80</width><height>60</height><depth>1</depth></size>"


def write(folder: Path, body: str, name: str = "a.xml") -> Path:
    path = folder / name
    path.write_text(f"<annotation><folder>x</folder>{body}</annotation>")
    return path


def add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_read_as_drawn(tmp_path: Path, seed: int) -> None:
    """The files have the elements of labelImg, which PyPI has only with its window."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for i, size in enumerate(SIZES):
        root = ElementTree.Element("annotation")
        add(root, folder="images", filename=f"image {i}.png", path=f"/home/x/image {i}.png")
        add(ElementTree.SubElement(root, "size"), width=size[1], height=size[0], depth=3)
        for label in ("nodule", "épanchement"):
            box = random_box(rng, size)
            drawn[f"image {i}.png", label] = box_area(box, size)
            element = ElementTree.SubElement(root, "object")
            add(element, name=label, pose="Unspecified", truncated=0, difficult=0)
            add(
                ElementTree.SubElement(element, "bndbox"),
                **dict(zip(("xmin", "ymin", "xmax", "ymax"), box)),
            )
        ElementTree.ElementTree(root).write(
            tmp_path / f"{i}.xml", encoding="utf-8", xml_declaration=bool(i)
        )
    found, left_out = read_drawings("voc", tmp_path)
    assert [(one.image, one.label) for one in found] == list(drawn) and not left_out
    for one in found:
        assert one.size in SIZES and one.annotator == ""
        assert (area(one, one.size) == drawn[one.image, one.label]).all()


def test_what_the_file_leaves_out(tmp_path: Path) -> None:
    """Without a filename the file's own name counts; an image may have no object, and no size."""
    write(tmp_path, OBJECT.format(BOX))
    write(tmp_path, SIZE, "b.xml")
    found, left_out = read_drawings("voc", tmp_path)
    assert [(one.image, one.size) for one in found] == [("a", None)]
    assert left_out == {NOTHING_DRAWN: 1}


BAD = {
    r"a\.xml, object 1 'nodule', ymax: missing": OBJECT.format(BOX.partition("<ymax>")[0]),
    r"object 1 'nodule', xmin: 'left'; expected a finite number": OBJECT.format(
        BOX.replace(">1<", ">left<")
    ),
    r"of width -4 and height 7": OBJECT.format(BOX.replace(">1<", ">13<")),
    r"x 100 to 900, y 2 to 9 on an image of 60 x 80": SIZE
    + OBJECT.format(BOX.replace(">1<", ">100<").replace("<xmax>9<", "<xmax>900<")),
    r"object 1: no name; expected that of the class": f"<object><bndbox>{BOX}</bndbox></object>",
    r"object 1 'nodule': no bndbox": "<object><name>nodule</name></object>",
    r"size/width: 0; expected a whole number": SIZE.replace(">80<", ">0<"),
    r"size/height: missing": "<size><width>4</width></size>",
    r"broken XML \(": "<object>",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_are_errors(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_drawings("voc", write(tmp_path, BAD[message]))


def test_cvat_in_the_same_folder_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, OBJECT.format(BOX))
    (tmp_path / "b.xml").write_text("<annotations></annotations>")
    with pytest.raises(UserError, match="files of 2 formats"):
        formats.recognise([tmp_path])
