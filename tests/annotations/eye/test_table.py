"""Gaze tables: columns, units, placement on the screen, several readers; and what is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eye_readers import Read, near

from openclip_eclip.annotations.eye.table import guess_columns
from openclip_eclip.config import UserError

WINOGRAD = Path("/work/shared/data/winograd_gaze")
ROWS = [
    # image, reader, x, y, start, duration
    ("a.png", "r1", 10.5, 20.0, 0, 200),
    ("a.png", "r1", 30.0, 40.0, 250, 300),
    ("a.png", "r2", 50.0, 60.0, 0, 180),
    ("b.png", "r1", 70.0, 80.0, 0, 400),
]
NAMES = "image reader x y start duration".split()


def save(folder: Path, columns: list[str], rows: list[tuple] = ROWS, name: str = "g.csv") -> Path:
    path = folder / name
    separator = "\t" if name.endswith(".tsv") else ","
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False, sep=separator)
    return path


@pytest.mark.parametrize(
    "columns",
    [
        NAMES,
        "Image Participant FixX FixY Fix_Start Fix_Duration".split(),
        ["stimulus", "subject_id", "x (px)", "y (px)", "onset [ms]", "duration [ms]"],
        ["DICOM_ID", "reader", "X_ORIGINAL", "Y_ORIGINAL", "FPOGS", "FPOGD"],
        "CURRENT_IMAGE RECORDING_SESSION_LABEL CURRENT_FIX_X CURRENT_FIX_Y CURRENT_FIX_START"
        " CURRENT_FIX_DURATION".split(),
    ],
)
@pytest.mark.parametrize("name", ["g.csv", "g.tsv", "g.csv.gz"])
def test_columns_are_guessed(tmp_path: Path, columns: list[str], name: str) -> None:
    flags = "--gaze-columns image=CURRENT_IMAGE" if columns[0] == "CURRENT_IMAGE" else ""
    got = Read(save(tmp_path, columns, name=name), flags)
    assert got.format == "gaze-table"
    assert [(one.image, one.annotator) for one in got.recordings] == [
        ("a.png", "r1"),
        ("a.png", "r2"),
        ("b.png", "r1"),
    ]
    first = got.placed(0, (100, 200))
    near(first.x, [10.5, 30])
    near(first.y, [20, 40])
    near(first.start, [0, 0.25])
    near(first.duration, [0.2, 0.3])
    assert got.recordings[2].where.endswith("row 4")


def test_named_columns_count_more(tmp_path: Path) -> None:
    rows = [(*row, 1.5, 2.5) for row in ROWS]
    path = save(tmp_path, [*NAMES, "odd a", "odd b"], rows)
    got = Read(path, "")
    near(got.recordings[1].fixations.x, [50])
    parser_flags = ["--gaze-columns", "x=odd a,y=odd b"]
    import argparse

    from openclip_eclip.annotations.eye import table

    parser = argparse.ArgumentParser()
    table.add_arguments(parser)
    args = parser.parse_args([*parser_flags, "--gaze-unit", "image-pixels"])
    records = list(table.read([path], tmp_path, args, lambda reason, where: None))
    near(records[1].fixations.x, [1.5])


def test_end_gives_the_duration_and_time_units_are_recognised(tmp_path: Path) -> None:
    for factor, flag in ((1e-3, ""), (1, ""), (1e3, ""), (1e-3, "--time-unit s")):
        rows = [(*row[:4], row[4] * factor, (row[4] + row[5]) * factor) for row in ROWS]
        got = Read(save(tmp_path, [*NAMES[:5], "end"], rows), flag)
        near(got.recordings[0].fixations.duration, [0.2, 0.3])
        near(got.recordings[0].fixations.start, [0, 0.25])
    rows = [(*row[:5], 9) for row in ROWS]
    with pytest.raises(UserError, match="last more than 9.*--time-unit"):
        Read(save(tmp_path, NAMES, rows))


@pytest.mark.parametrize("size", [(600, 800), (800, 600), (333, 777)])
def test_every_unit_and_placement_gives_the_same_pixels(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Positions are computed forwards from pixels of the image by hand, and read back."""
    rng = np.random.default_rng(size[0])
    height, width = size
    xy = rng.uniform(0.02, 0.98, (12, 2)) * [width, height]
    screen, cm, distance = np.array([1920.0, 1080.0]), np.array([52.0, 29.0]), 65.0
    scale = min(screen[0] / width, screen[1] / height)
    fit = (screen - np.array([width, height]) * scale) / 2 + xy * scale
    centred = (screen - [width, height]) / 2 + xy
    boxed = [100, 50] + xy / [width, height] * [900, 700]
    degrees = np.degrees(np.arctan((fit - screen / 2) / (screen / cm) / distance))
    on_screen = "--screen 1920x1080 --placement"
    for values, flags in (
        (xy, ""),
        (xy / [width, height], ""),
        (fit, f"{on_screen} fit"),
        (fit / screen, f"{on_screen} fit"),
        (centred, f"{on_screen} centre"),
        (xy / [width, height] * screen, f"{on_screen} stretch"),
        (boxed, "--image-rectangle 100,50,1000,750"),
        (
            degrees,
            f"{on_screen} fit --screen-cm 52x29 --distance-cm 65 --gaze-unit degrees",
        ),
    ):
        rows = [("a", "r", x, y, i, 0.2) for i, (x, y) in enumerate(values)]
        got = Read(save(tmp_path, NAMES, rows), flags)
        placed = pickle.loads(pickle.dumps(got)).placed(0, size)
        near(placed.x, xy[:, 0], 1e-6 * width)
        near(placed.y, xy[:, 1], 1e-6 * height)
    # 1 degree at the centre of the screen, in pixels of the image
    expected = screen[0] / 52 * 65 * np.tan(np.radians(1)) / scale
    assert placed.ppd_x is not None
    near(placed.ppd_x, np.full(12, expected))


def test_zoom_rectangles_and_offsets_of_each_row(tmp_path: Path) -> None:
    columns = [*NAMES, *"L T R B x0 y0 x1 y1 dx dy".split()]
    # an image of 400 x 200 whose part 100..300, 50..150 filled 0..1000, 0..500
    rows = [
        ("a", "r", 490, 240, 0.0, 0.2, 0, 0, 1000, 500, 100, 50, 300, 150, 10, 10),
        ("a", "r", 200, 200, 0.5, 0.2, 100, 100, 500, 300, 0, 0, 400, 200, 0, 0),
    ]
    flags = (
        "--gaze-columns left=L,top=T,right=R,bottom=B,shown_xmin=x0,shown_ymin=y0,shown_xmax=x1,"
        "shown_ymax=y1,offset_x=dx,offset_y=dy"
    )
    got = Read(save(tmp_path, columns, rows), flags).placed(0, (200, 400))
    near(got.x, [200, 100])
    near(got.y, [100, 100])
    near(got.shown, [[100, 50, 300, 150], [0, 0, 400, 200]])
    with pytest.raises(UserError, match="left; expected all of left, top, right, bottom"):
        Read(save(tmp_path, columns, rows), "--gaze-columns left=L")


def test_lists_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    frame = pd.DataFrame(
        {
            "image": ["a", "b", "a"],
            "speaker": ["s1", "s1", "s1"],
            "gaze": [json.dumps([[0.5, 0.25, 200], [0.1, 0.9, 100]]), "", "[[0.3, 0.3, 300]]"],
        }
    )
    frame.to_csv(path, index=False)
    got = Read(path)
    assert [one.image for one in got.recordings] == ["a", "a"]
    placed = got.placed(0, (100, 200))
    near(placed.x, [100, 20])
    near(placed.duration, [0.2, 0.1])
    path.write_text('image,gaze\na,"[[1, 2, 3]]"\nb,"[[1, 2"\n')
    with pytest.raises(UserError, match=r"row 2, column 'gaze'.*no list of numbers"):
        Read(path)
    path.write_text('image,gaze\na,"[[1, 2]]"\n')
    with pytest.raises(UserError, match=r"shape \(1, 2\); expected fixations of x, y and duration"):
        Read(path)


@pytest.mark.skipif(not WINOGRAD.is_dir(), reason="needs shared/data/winograd_gaze")
def test_winograd_gaze() -> None:
    got = Read(WINOGRAD / "gaze_pairs.csv", "--gaze-columns reader=speaker,image=filepath")
    frame = pd.read_csv(WINOGRAD / "gaze_pairs.csv")
    assert len(got.recordings) == (frame["fixations"] > 0).sum()
    count = sum(len(json.loads(cell)) for cell in frame["gaze"])
    assert sum(len(one.fixations) for one in got.recordings) == count
    placed = got.placed(0, (480, 640))
    near(placed.x[:2], [0.5254 * 640, 0.5365 * 640])
    near(placed.duration[:2], [0.116, 0.208])


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        (("a", "r", "left", 2, 0, 200), "", "row 5, column 'x': 'left'; expected a number"),
        (("a", "r", "1,5", 2, 0, 200), "", "decimal point"),
        (("a", "r", 1, 2, 0, -200), "", "row 5: a duration of -200"),
        (ROWS[0], "--gaze-columns x=fix", "no such column; found"),
        (ROWS[0], "--gaze-columns who=reader", "role=column"),
        (ROWS[0], "--gaze-columns x=x,x=y", "x twice"),
        (ROWS[0], "--gaze-unit screen-pixels", "unknown how the image lay"),
        (ROWS[0], "--gaze-unit screen-fractions --placement fit", "expected --screen"),
        (ROWS[0], "--gaze-unit degrees --screen 9x9", "--screen-cm WxH and --distance-cm"),
        (ROWS[0], "--placement fit", "--placement fit: expected --screen"),
        (ROWS[0], "--screen 1920", "expected 2 numbers"),
        (ROWS[0], "--screen 0x10", "positive"),
        (ROWS[0], "--image-rectangle 9,9,1,1", "no area"),
        (ROWS[0], "--image-rectangle 0,0,9,9 --placement fit", "one of them"),
        (ROWS[0], "--distance-cm -1", "--distance-cm -1.0: expected a positive number"),
    ],
)
def test_errors(tmp_path: Path, row: tuple, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Read(save(tmp_path, NAMES, [*ROWS, row]), flags)


def test_mixed_units_are_errors(tmp_path: Path) -> None:
    fractions = [(*row[:2], row[2] / 100, row[3] / 100, *row[4:]) for row in ROWS]
    with pytest.raises(UserError, match="50% of the positions are fractions and 50% are beyond"):
        Read(save(tmp_path, NAMES, ROWS + fractions))
    save(tmp_path, NAMES, ROWS, "one.csv")
    save(tmp_path, NAMES, fractions, "two.csv")
    (tmp_path / "g.csv").unlink()
    with pytest.raises(UserError, match="two.csv: positions seem to be image-fractions, but"):
        Read(tmp_path)


VIEWING = [(0.0, 0.2), (0.25, 0.3), (0.6, 0.15), (0.8, 0.4), (1.3, 0.2), (1.55, 0.25)]


def timed(
    folder: Path, start: str, length: str, of_start: float, of_length: float, is_end: bool = False
) -> Path:
    """Two viewings with starts and durations (or ends), of so many units per second."""
    rows = [
        (image, "r", 9.5, 8.5, at * of_start, (lasts + at * is_end) * of_length)
        for image in "ab"
        for at, lasts in VIEWING
    ]
    return save(folder, [*NAMES[:4], start, length], rows)


@pytest.mark.parametrize(
    ("start", "length", "of_start", "of_length", "flags"),
    [
        ("start", "duration", 1, 1000, ""),  # told from the steps
        ("start", "duration", 1000, 1, ""),
        ("start", "duration", 1e6, 1000, ""),
        ("start", "duration", 1e6, 1, ""),
        ("start", "duration", 1, 1000, "--time-unit ms"),
        ("start_s", "duration", 1, 1000, ""),  # told from the names
        ("start", "duration [ms]", 1, 1000, ""),
        ("start [us]", "duration_s", 1e6, 1, ""),
        ("start_s", "end_ms", 1, 1000, ""),
        ("start", "end_ms", 1000, 1000, ""),
    ],
)
def test_starts_and_durations_of_two_units(
    tmp_path: Path, start: str, length: str, of_start: float, of_length: float, flags: str
) -> None:
    path = timed(tmp_path, start, length, of_start, of_length, length.startswith("end"))
    for one in Read(path, flags).recordings:
        near(one.fixations.start, [at for at, _ in VIEWING])
        near(one.fixations.duration, [lasts for _, lasts in VIEWING])


def test_starts_of_another_unit_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Read(timed(tmp_path, "start", "duration", 1, 1000))
    assert "column 'start' is read in s, another unit than column 'duration'" in caplog.text
    caplog.clear()
    Read(timed(tmp_path, "start", "duration", 1000, 1000))
    assert not caplog.text


def test_times_that_fit_no_two_units_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'start' grows by 0.02.*start_s and duration_ms"):
        Read(timed(tmp_path, "start", "duration", 0.07, 1))
    with pytest.raises(UserError, match="'start' and column 'end' have different.*start_s and"):
        Read(timed(tmp_path, "start", "end", 1, 1000, is_end=True))
    with pytest.raises(UserError, match="or in different units"):
        Read(timed(tmp_path, "start", "end", 1000, 1, is_end=True))
    # a name is trusted
    (got, _) = Read(timed(tmp_path, "start_s", "duration_s", 0.07, 1)).recordings
    near(got.fixations.start, [0.07 * at for at, _ in VIEWING])


def test_durations_of_two_units_in_a_column_are_an_error(tmp_path: Path) -> None:
    rows = [("a", f"r{i % 2}", 9.5, 8.5, 0.2 if i % 3 else 200) for i in range(12)]
    path = save(tmp_path, [*NAMES[:4], "duration"], rows)
    with pytest.raises(UserError, match="0.2, as in s, but 4 of 12 such as 200; expected one unit"):
        Read(path)
    # one pause is none
    path = save(tmp_path, [*NAMES[:4], "duration"], [*rows[1:3], *rows[4:6], rows[0]])
    assert len(Read(path).recordings) == 2


def test_starts_and_durations_of_two_units_in_lists(tmp_path: Path) -> None:
    cells = json.dumps([[0.5, 0.25, at, lasts * 1000] for at, lasts in VIEWING])
    pd.DataFrame({"image": ["a"], "gaze": [cells]}).to_csv(tmp_path / "g.csv", index=False)
    (got,) = Read(tmp_path / "g.csv").recordings
    near(got.fixations.start, [at for at, _ in VIEWING])
    near(got.fixations.duration, [lasts for _, lasts in VIEWING])


def test_x_and_y_of_two_units_are_errors(tmp_path: Path) -> None:
    rows = [(*row[:2], row[2] / 100, *row[3:]) for row in ROWS]
    with pytest.raises(UserError, match="x lies within 0 and 1.*but y is 50 in the middle"):
        Read(save(tmp_path, NAMES, rows))
    rows = [(*row[:3], row[3] / 101, *row[4:]) for row in ROWS]
    with pytest.raises(UserError, match="y lies within 0 and 1.*but x is 40 in the middle"):
        Read(save(tmp_path, NAMES, rows))
    with pytest.raises(UserError, match="'x_deg' is in degrees and 'y_pix' in pixels"):
        columns = ["image", "reader", "x_deg", "y_pix", "start", "duration"]
        Read(save(tmp_path, columns), "--gaze-columns y=y_pix", "gaze-table")


def test_a_rectangle_in_fractions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as fractions are; expected left, top, right and bottom"):
        Read(save(tmp_path, NAMES), "--image-rectangle 0,0,1,0.9")
    rows = [(*row, 0.1, 0.1, 0.9, 0.9) for row in ROWS]
    flags = "--gaze-columns left=L,top=T,right=R,bottom=B"
    with pytest.raises(UserError, match="as fractions are; expected left, top, right and bottom"):
        Read(save(tmp_path, [*NAMES, *"LTRB"], rows), flags)


def test_viewings_without_fixations_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    rows = ['a,"[[9, 8, 200]]"', "b,[]", "c,"]
    for order in (rows, rows[::-1]):  # the first viewing may have none
        path.write_text("\n".join(["image,gaze", *order]) + "\n")
        got = Read(path)
        assert [one.image for one in got.recordings] == ["a"]
        assert got.left_out == {"a viewing without fixations": 2}


def test_useless_rows_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ("", "r", 1, 1, 0, 200), ("c.png", "r", "", "", 0, 200)]
    got = Read(save(tmp_path, NAMES, rows))
    assert len(got.recordings) == 3
    assert got.left_out == {"gaze without an image": 1, "gaze without a position": 1}


def test_other_tables_are_not_claimed(tmp_path: Path) -> None:
    save(tmp_path, ["image", "xmin", "ymin", "xmax", "ymax", "label"])
    with pytest.raises(UserError, match="not recognised"):
        Read(tmp_path)
    save(tmp_path, ["word", "start", "end", "p", "q", "r"])
    with pytest.raises(UserError, match="not recognised"):
        Read(tmp_path)
    assert "x" not in guess_columns(["xmin", "ymin", "duration"])


def test_a_table_without_durations_says_what_is_missing(tmp_path: Path) -> None:
    rows = [row[:5] for row in ROWS]
    with pytest.raises(UserError, match="duration=COLUMN, or --detector ivt or idt"):
        Read(save(tmp_path, NAMES[:5], rows))
