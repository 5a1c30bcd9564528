"""Bad gaze tables of EGD-CXR and REFLACX, and bad annotations for the gaze package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .harness import Case
from .mimic import TAIL, Change, cell, trees, without, write
from .world import Maker


def egd(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        trees.write_mimic(folder / "mimic")
        change(trees.write_egd(folder / "egd"))
        return [
            "prepare",
            "egd-cxr",
            "egd",
            "out",
            *("--images", "mimic"),
            *("--sigma", 3),
            *TAIL,
            *flags,
        ]

    return make


def reflacx(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        trees.write_mimic(folder / "mimic")
        change(trees.write_reflacx(folder / "reflacx"))
        return ["prepare", "reflacx", "reflacx", "out", "--images", "mimic", *TAIL, *flags]

    return make


def _gaze_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    sheet, fixations, metadata = (
        "master_sheet.csv",
        "fixations.csv",
        "main_data/metadata_phase_1.csv",
    )
    reading = "main_data/P101R000001"
    yield from [
        ("EGD: no sheet", egd(lambda root: (root / sheet).unlink()), (sheet,)),
        ("EGD: no column of paths", egd(without(sheet, "path")), (sheet, "path")),
        (
            "EGD: a strange path",
            egd(cell(sheet, 2, "path", "files/x.dcm")),
            (sheet, "row 2", "path"),
        ),
        ("EGD: an image twice", egd(cell(sheet, 2, "dicom_id", trees.dicom(0))), (sheet, "row 2")),
        ("EGD: no positions", egd(without(fixations, "X_ORIGINAL")), (fixations, "X_ORIGINAL")),
        (
            "EGD: positions of text",
            egd(lambda root: _all_cells(root / fixations, "X_ORIGINAL", "left")),
            (fixations, "X_ORIGINAL|position|number"),
        ),
        ("EGD: fixations of an empty file", egd(write(fixations, "")), (fixations,)),
        ("EGD: fixations of bytes", egd(write(fixations, b"\xff\xfe\0")), (fixations,)),
        (
            "EGD: a broken transcript",
            egd(
                lambda root: trees.write_transcript(root, 0, []).write_text("{"),
                "--windows",
                "sentence",
            ),
            ("transcript.json",),
        ),
        (
            "EGD: a transcript of a list",
            egd(
                lambda root: trees.write_transcript(root, 0, []).write_text("[1]"),
                "--windows",
                "sentence",
            ),
            ("transcript.json",),
        ),
        (
            "EGD: a transcript of brackets",
            egd(
                lambda root: trees.write_transcript(root, 0, []).write_text("[" * 100000),
                "--windows",
                "sentence",
            ),
            ("transcript.json",),
        ),
        (
            "EGD: a transcript of bytes",
            egd(
                lambda root: trees.write_transcript(root, 0, []).write_bytes(b"\xff\xfe"),
                "--windows",
                "sentence",
            ),
            ("transcript.json",),
        ),
        (
            "EGD: words of endless times",
            egd(
                lambda root: trees.write_transcript(root, 0, []).write_text(
                    '{"time_stamped_text": [{"phrase": "A.", "begin_time": 1, "end_time": '
                    + "9" * 400
                    + "}]}"
                ),
                "--windows",
                "sentence",
            ),
            ("transcript.json",),
        ),
        (
            "EGD: pads beyond the screen",
            egd(cell(sheet, 1, "image_left_pad", 5000), "--positions", "screen"),
            (sheet, "row 1"),
        ),
        ("EGD: --sigma 0", egd(lambda root: None, "--sigma", 0), ("sigma",)),
        ("EGD: --sigma nan", egd(lambda root: None, "--sigma", "nan"), ("sigma",)),
        ("EGD: --sigma inf", egd(lambda root: None, "--sigma", "inf"), ("sigma",)),
        ("EGD: --unit degrees", egd(lambda root: None, "--unit", "degrees"), ("--unit",)),
        ("EGD: --lead -1", egd(lambda root: None, "--lead", "-1"), ("--lead",)),
        ("EGD: --lead nan", egd(lambda root: None, "--lead", "nan"), ("--lead",)),
        (
            "REFLACX: no metadata",
            reflacx(lambda root: (root / metadata).unlink()),
            ("metadata_phase_1",),
        ),
        (
            "REFLACX: no column of sizes",
            reflacx(without(metadata, "image_size_x")),
            ("metadata_phase_1.csv", "image_size_x"),
        ),
        (
            "REFLACX: a size of 0",
            reflacx(cell(metadata, 2, "image_size_x", 0)),
            ("metadata_phase_1.csv", "row 2", "image_size_x"),
        ),
        (
            "REFLACX: a size in superscript",
            reflacx(cell(metadata, 2, "image_size_x", "²")),
            ("metadata_phase_1.csv", "row 2", "image_size_x"),
        ),
        (
            "REFLACX: an id out of the folder",
            reflacx(cell(metadata, 1, "id", "../../x")),
            ("metadata_phase_1.csv", "row 1", "id"),
        ),
        (
            "REFLACX: a label of text",
            reflacx(cell(metadata, 1, "Consolidation", "much")),
            ("metadata_phase_1.csv", "row 1", "Consolidation"),
        ),
        (
            "REFLACX: no fixation times",
            reflacx(without(f"{reading}/fixations.csv", "timestamp_start_fixation")),
            ("fixations.csv", "timestamp_start_fixation"),
        ),
        (
            "REFLACX: fixations of a picture",
            reflacx(write(f"{reading}/fixations.csv", b"\x89PNG\r\n\x1a\n\0\xff")),
            ("fixations.csv",),
        ),
        (
            "REFLACX: ellipses without columns",
            reflacx(
                without(f"{reading}/anomaly_location_ellipses.csv", "xmin"),
                "--annotation",
                "ellipses",
            ),
            ("ellipses.csv", "xmin"),
        ),
        (
            "REFLACX: two chest boxes",
            reflacx(
                write(
                    f"{reading}/chest_bounding_box.csv", "xmin,ymin,xmax,ymax\n1,2,3,4\n1,2,3,4\n"
                ),
                "--annotation",
                "chest-box",
            ),
            ("chest_bounding_box.csv",),
        ),
        (
            "REFLACX: words without times",
            reflacx(
                without(f"{reading}/timestamps_transcription.csv", "word"), "--windows", "sentence"
            ),
            ("timestamps_transcription.csv", "word"),
        ),
        (
            "REFLACX: degrees for boxes",
            reflacx(
                lambda root: None, "--annotation", "chest-box", "--sigma", 1, "--unit", "degrees"
            ),
            ("--unit",),
        ),
    ]


def _all_cells(path: Path, column: str, value: str) -> None:
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame[column] = value
    frame.to_csv(path, index=False)


# an annotation for the gaze package: its table, and the call that draws it
DRAW = """
import sys
import pandas as pd
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Boxes, Ellipses, Fixations, Polygons
from openclip_eclip.gaze import RenderConfig, decode_rle, render
try:
    {work}
except UserError as error:
    sys.exit(f"error: {{error}}")
"""


def draw(work: str) -> Maker:
    def make(folder: Path) -> list[object]:
        (folder / "draw.py").write_text(DRAW.format(work=work))
        return ["example", folder.absolute() / "draw.py"]

    return make


def _annotation_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("fixations of text", draw("Fixations(['left'], [1], [1])"), ("fixations", "x")),
        ("fixations of two lengths", draw("Fixations([1, 2], [1], [1])"), ("fixations", "y")),
        (
            "fixations in degrees without resolution",
            draw("render(Fixations([1], [1], [1]), (48, 48), 32, RenderConfig(1, 'degrees'))"),
            ("degree",),
        ),
        (
            "fixations: sigma NaN",
            draw("render(Fixations([1], [1], [1]), (48, 48), 32, RenderConfig(float('nan')))"),
            ("sigma",),
        ),
        (
            "fixations: an image of no pixel",
            draw("render(Fixations([1], [1], [1]), (0, 48), 32, RenderConfig(3))"),
            ("size|height|image",),
        ),
        ("boxes of three corners", draw("Boxes([[1, 2, 3]])"), ("box", "shape")),
        ("boxes of a text", draw("Boxes([['a', 1, 2, 3]])"), ("box",)),
        (
            "ellipses of a wrong certainty",
            draw(
                "render(Ellipses([[1, 1, 9, 9]], certainty=[1, 2]), (48, 48), 32, RenderConfig())"
            ),
            ("certainty",),
        ),
        ("a polygon of three columns", draw("Polygons([[[1, 2, 3]]])"), ("polygon",)),
        ("RLE cut", draw("decode_rle('1 2 3', (4, 4), 'kaggle')"), ("rle",)),
        ("RLE beyond the image", draw("decode_rle('1 200', (4, 4), 'kaggle')"), ("rle",)),
        ("RLE of text", draw("decode_rle('a b', (4, 4), 'siim')"), ("rle",)),
        ("RLE of 30 digits", draw("decode_rle('1 " + "9" * 30 + "', (4, 4), 'kaggle')"), ("rle",)),
        ("RLE of an unknown kind", draw("decode_rle('1 2', (4, 4), 'png')"), ("rle", "png")),
        ("COCO of strange characters", draw("decode_rle('\\x01', (4, 4), 'coco')"), ("rle",)),
        (
            "COCO of an endless number",
            draw("decode_rle('" + "o" * 60 + "0', (4, 4), 'coco')"),
            ("rle",),
        ),
        (
            "windows that end before they start",
            draw("Fixations([1], [1], [1], start=[0]).between(2, 1)"),
            ("between",),
        ),
    ]


def cases() -> Iterator[Case]:
    yield from (
        Case(name, "gaze tables", make, words)
        for name, make, words in (*_gaze_cases(), *_annotation_cases())
    )
