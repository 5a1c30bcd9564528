"""Whatever a file holds, reading and drawing it succeeds or is a UserError that names the file."""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_miniatures import (
    CVAT,
    IMAGE,
    MARKED,
    MINIATURES,
    SIZE,
    coco,
    label_studio,
    labelme,
    replaced,
    text_of,
)
from PIL import Image

from openclip_eclip.annotations.drawn import json_files
from openclip_eclip.annotations.drawn.write_coco import pack_rle
from openclip_eclip.annotations.formats import add_format_arguments, read_records, recognise
from openclip_eclip.config import UserError
from openclip_eclip.gaze import render
from openclip_eclip.prepare.annotations.join import How, join
from openclip_eclip.prepare.annotations.match import Images
from openclip_eclip.prepare.plan import Plan

pytestmark = pytest.mark.filterwarnings("error")  # an overflow of NumPy, say
VALUES = [None, "", [], [1], {"x": 1}, 0, -1, 1e300, 1e400, 10**400, "x", True]
TEXTS = ["", "-1", "1e400", "9" * 400, "x", "nan", "[]", "0", "1e300"]
# what is replaced in texts: attributes and texts of elements, cells, words
PLACES = {
    "cvat": r'(?<==")[^"]*(?=")',
    "voc": r"(?<=>)[^<>\n]+(?=</)",
    "boxes": r"[^,\n]+",
    "via-csv": r'(?<="")[a-z]+(?="")|\d+|(?<=\n)a\.png|\{.*?\}',
    "yolo": r"\S+",
}
# of the join: about all files
GENERAL = re.compile("none of the [0-9]+ annotations fits an image|no annotation in these files")


@pytest.fixture
def try_file(tmp_path: Path) -> Iterator[object]:
    """Reads and draws a miniature with this text; returns the message of its error, or ""."""
    picture = tmp_path / "images" / IMAGE
    picture.parent.mkdir()
    Image.new("L", SIZE[::-1], 90).save(picture)
    images = Images({IMAGE: picture})
    parser = argparse.ArgumentParser()
    add_format_arguments(parser)
    args = parser.parse_args([])
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder

    def attempt(name: str, content: str | bytes, form: str | None = "") -> str:
        nonlocal path
        path = folder / MINIATURES[name][1]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            found = recognise([path], MINIATURES[name][0] if form == "" else form)
            plan = Plan("annotations")
            records = read_records(found, folder, args, plan.leave_out)
            join(plan, images, records, None, How())
            for items in plan.splits.values():
                for annotation in items[0].annotations:
                    render(annotation, items[0].size, (20, 30), items[0].config)
        except UserError as error:
            message = str(error)
            assert str(path) in message or GENERAL.match(message), message
            assert len(message) < 2000, message
            return message
        return ""

    yield attempt


def changes(name: str) -> Iterator[str]:
    content = MINIATURES[name][2]
    if not isinstance(content, str):
        for value in VALUES:
            yield from map(json.dumps, replaced(content(), value))
        return
    for match in re.finditer(PLACES[name], content):
        for text in TEXTS:
            yield content[: match.start()] + text + content[match.end() :]


@pytest.mark.parametrize("name", MINIATURES)
def test_any_value_in_any_place(name: str, try_file) -> None:
    assert try_file(name, text_of(name)) == ""
    errors = [try_file(name, text) for text in changes(name)]
    assert any(errors) and not all(errors)


def test_any_value_in_a_streamed_file(try_file, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ijson")
    monkeypatch.setattr(json_files, "AT_ONCE", 0)
    for name in ("coco", "label-studio"):
        assert try_file(name, text_of(name)) == ""
        for text in itertools.islice(changes(name), 0, None, 7):
            try_file(name, text)


@pytest.mark.parametrize("name", MINIATURES)
def test_damaged_files(name: str, try_file) -> None:
    """Cut off, bytes replaced at random, other encodings, nothing at all."""
    whole = text_of(name).encode()
    draws = random.Random(0)
    contents = [whole[: draws.randrange(len(whole))] for _ in range(20)]
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            changed[draws.randrange(len(whole))] = draws.choice(
                [draws.randrange(256), *b'"[]{}<>,0']
            )
        contents.append(bytes(changed))
    accented = text_of(name).replace("nodule", "épanchement")
    contents += [
        b"", b" ", b"\0", b"[]", b"{}", b"null", b"<annotations/>", b"<annotation/>", b"[" * 99999,
        b'{"a":' * 99999, b"<a>" * 999, b"[" * 900 + b"]" * 900, accented.encode("utf-16"),
        b"\xef\xbb\xbf" + accented.encode("latin-1"), accented.encode("latin-1"),
    ]  # fmt: skip
    for content in contents:
        for form in ("", None):
            try_file(name, content, form)
    assert try_file(name, b"\xef\xbb\xbf" + accented.encode()) == ""


def test_huge_images_are_refused_before_a_mask_is_allocated(try_file) -> None:
    """400 megapixels are stated, which need no long code."""
    side = 20_000
    code = (4 * side**2).to_bytes(4, "big")
    content = coco()
    content["images"][0] |= {"height": side, "width": side}
    content["annotations"] = content["annotations"][2:4]
    for packed, counts in enumerate(([side**2], pack_rle(MARKED))):
        shape = {"size": [side, side], "counts": counts}
        content["annotations"][packed] = {
            **content["annotations"][packed], "segmentation": shape
        }  # fmt: skip
    brush = label_studio()
    results = brush[0]["annotations"][0]["result"]
    results[:] = results[-1:]
    results[0] |= {"original_height": side, "original_width": side}
    results[0]["value"]["rle"] = list(code)
    whole = labelme()
    whole |= {"imageHeight": side, "imageWidth": side, "shapes": whole["shapes"][-1:]}
    head, _, mask = CVAT.partition("<box")
    mask = mask[mask.index("<mask") :]
    for name, text in {
        "coco": json.dumps(content),
        "label-studio": json.dumps(brush),
        "labelme": json.dumps(whole),
        "cvat": (head + mask).replace('width="60" height="40"', f'width="{side}" height="{side}"'),
    }.items():
        assert "at most 100000000 pixels" in try_file(name, text), name


def test_codes_that_break_when_they_are_drawn(try_file) -> None:
    """The file and the record are named all the same."""
    content = coco()
    content["annotations"][2]["segmentation"]["counts"] = pack_rle(MARKED)[:-1] + "1"
    assert "annotation of id 2: rle: coco counts add up to" in try_file("coco", json.dumps(content))
    brush = label_studio()
    del brush[0]["annotations"][0]["result"][-1]["value"]["rle"][-4:]
    message = try_file("label-studio", json.dumps(brush))
    assert "task 9, annotation 1, result rbrush: brush: the code ends" in message
    whole = labelme()
    code = base64.b64decode(whole["shapes"][-1]["mask"])
    whole["shapes"][-1]["mask"] = base64.b64encode(code[:-25]).decode()
    assert "shape 5: mask: not a readable PNG" in try_file("labelme", json.dumps(whole))
