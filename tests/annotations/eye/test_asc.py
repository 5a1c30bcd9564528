"""EyeLink ASC: events, samples, images in messages, and where the image lay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from eye_readers import Read, near

from openclip_eclip.config import UserError

HEAD = """** CONVERTED FROM demo.edf using edfapi 4.2
** DATE: Thu Jan 1 00:00:00 2026
MSG\t1000 DISPLAY_COORDS 0 0 1919 1079
MSG\t1200 !CAL VALIDATION HR9 R RIGHT GOOD ERROR 0.32 avg. 0.71 max OFFSET 0.11 deg. 1.0,2.0 pix.
"""


def write(folder: Path, body: str, name: str = "s01.asc") -> Path:
    path = folder / name
    path.write_text(HEAD + body)
    return path


TRIAL = """MSG\t2000 TRIALID 1
START\t2000 \tRIGHT\tSAMPLES\tEVENTS
SAMPLES\tGAZE\tRIGHT\tRATE\t1000.00\tTRACKING\tCR
EFIX R   1900\t2050\t151\t100.0\t100.0\t900
MSG\t2100 !V IMGLOAD {load}
2101\t960.0\t540.0\t900.0\t...
2102\t  .\t  .\t0.0\t...
EFIX R   2150\t2349\t200\t{x}\t{y}\t900
EBLINK R 2400\t2500\t100
EFIX R   2600\t2899\t300\t960.0\t540.0\t900
END\t3000 \tSAMPLES\tEVENTS\tRES\t  40.0\t  40.0
"""


@pytest.mark.parametrize(
    ("load", "x", "y", "flags"),
    [
        ("FILL pics/a.png", 480.0, 270.0, ""),
        ("CENTER a.png 960 540 800 600", 760.0, 390.0, ""),
        ("TOP_LEFT a.png 560 240 800 600", 760.0, 390.0, ""),
        ("CENTER a.png 960 540", 860.0, 490.0, ""),
        ("FILL a.png", 690.0, 270.0, "--placement fit"),
        ("FILL a.png", 35.0, 25.0, "--image-rectangle 10,0,110,100"),
    ],
)
def test_events_and_the_place_of_the_image(
    tmp_path: Path, load: str, x: float, y: float, flags: str
) -> None:
    """An image of 400 x 400 pixels; the first fixation on it is at a quarter of both sides."""
    got = Read(write(tmp_path, TRIAL.format(load=load, x=x, y=y)), flags)
    assert got.format == "eyelink" and len(got.recordings) == 1
    one = got.recordings[0]
    assert one.image.endswith("a.png") and one.annotator == "s01" and "line 5" in one.where
    assert dict(one.quality) == {"validation error, degrees": 0.32, "data loss": 0.5}
    placed = got.placed(0, (400, 400))
    if "540" in load and len(load.split()) == 4:  # one pixel to one
        near(placed.x[0], 100)
        near(placed.y[0], 150)
    else:
        near(placed.x[0], 100)
        near(placed.y[0], 100)
    near(placed.start, [0.05, 0.5])  # after the image; the fixation before it is left out
    near(placed.duration, [0.2, 0.3])


def test_images_in_other_messages(tmp_path: Path) -> None:
    efix = "EFIX L   2150\t2349\t200\t10.0\t20.0\t900\n"
    flags = "--image-rectangle 0,0,1920,1080"
    for body, extra in (
        (f"MSG\t2000 TRIALID 3 img/b.jpg\n{efix}END\t3000\n", ""),
        (f"MSG\t2000 TRIALID 3\n{efix}END\t3000\nMSG\t3001 !V TRIAL_VAR image b.jpg\n", ""),
        (f"MSG\t2000 show <b.jpg>\n{efix}END\t3000\n", " --image-pattern show.<(.+?)>"),
    ):
        got = Read(write(tmp_path, body), flags + extra)
        assert [Path(one.image).name for one in got.recordings] == ["b.jpg"]
        near(got.recordings[0].fixations.x, [10])


def test_two_images_and_two_eyes(tmp_path: Path) -> None:
    body = (
        "MSG\t2000 TRIALID 1\nMSG\t2000 !V IMGLOAD FILL a.png\n"
        "EFIX L 2150\t2349\t200\t1.0\t1.0\t900\nEFIX R 2150\t2349\t200\t2.0\t2.0\t900\n"
        "EFIX L 2350\t2449\t100\t3.0\t3.0\t900\n"
        "MSG\t3000 !V IMGLOAD FILL c.png\nEFIX R 3150\t3349\t200\t4.0\t4.0\t900\nEND\t4000\n"
    )
    got = Read(write(tmp_path, body))
    assert [one.image for one in got.recordings] == ["a.png", "c.png"]
    near(got.recordings[0].fixations.x, [1, 3])  # the eye with more fixations
    near(got.recordings[1].fixations.start, [0.15])
    got = Read(write(tmp_path, body), "--eye left")
    assert len(got.recordings) == 1
    assert got.left_out == {"an image without gaze of the left eye": 1}


def samples(gap: range = range(0)) -> str:
    """0.5 s at (480, 270), then 0.5 s at (1440, 810), 1000 Hz, RMS noise of a pixel or two."""
    rng = np.random.default_rng(5)
    lines = ["MSG\t5000 TRIALID 1", "SAMPLES\tGAZE\tRIGHT\tRATE\t1000.00"]
    lines.append("MSG\t5000 !V IMGLOAD FILL a.png")
    for i in range(1000):
        x, y = np.array([480, 270] if i < 500 else [1440, 810]) + rng.normal(0, 0.5, 2)
        both = ".\t." if i in gap else f"{x:.1f}\t{y:.1f}"
        lines.append(f"{5000 + i}\t{both}\t900.0\t...")
    return "\n".join([*lines, "END\t6001\n"])


@pytest.mark.parametrize("detector", ["ivt", "idt"])
def test_samples_become_fixations(tmp_path: Path, detector: str) -> None:
    pytest.importorskip("pymovements")
    flags = f"--detector {detector} --screen-cm 52x29 --distance-cm 65"
    got = Read(write(tmp_path, samples()), flags)
    placed = got.placed(0, (108, 192))
    near(placed.x, [48, 144], 0.2)
    near(placed.y, [27, 81], 0.2)
    near(placed.start, [0, 0.5], 0.01)
    near(placed.duration, [0.5, 0.5], 0.01)
    facts = dict(got.recordings[0].quality)
    assert facts["data loss"] == 0 and facts["samples per second"] == pytest.approx(1000)
    # steps of two normal values of 0.5 pixels in x and y: 1 pixel, 52 / 1920 cm at 65 cm
    assert facts["precision, degrees"] == pytest.approx(np.degrees(52 / 1920 / 65), rel=0.15)


def test_blinks_split_fixations_and_short_gaps_do_not(tmp_path: Path) -> None:
    pytest.importorskip("pymovements")
    flags = "--detector ivt --screen-cm 52x29 --distance-cm 65"
    got = Read(write(tmp_path, samples(range(200, 230))), flags).recordings[0]
    near(got.fixations.duration, [0.5, 0.5], 0.01)
    assert dict(got.quality)["data loss"] == pytest.approx(0.03)
    got = Read(write(tmp_path, samples(range(200, 300))), flags).recordings[0]
    near(got.fixations.start, [0, 0.3, 0.5], 0.01)
    got = Read(write(tmp_path, samples(range(200, 300))), flags + " --gap-margin 50").recordings[0]
    near(got.fixations.start, [0, 0.35, 0.5], 0.01)
    near(got.fixations.duration, [0.15, 0.15, 0.5], 0.01)


def test_samples_need_a_detector_and_degrees(tmp_path: Path) -> None:
    path = write(tmp_path, samples())
    with pytest.raises(UserError, match="raw samples; expected fixations, or --detector"):
        Read(path)
    with pytest.raises(UserError, match="--screen-cm WxH and --distance-cm"):
        Read(path, "--detector ivt")


@pytest.mark.parametrize(
    ("body", "flags", "message"),
    [
        ("EFIX R 1\n", "", "line 5: 'EFIX R 1'; expected EFIX, eye"),
        ("MSG\t1 TRIALID a.png\nEFIX R 9\tx\t3\t4\t5\t6\n", "", "line 6: 'x' in a fixation"),
        ("MSG\t1 TRIALID a.png\nEFIX R 9\t3\t3\t4\t5\t6\n", "", "ends at 3 before it starts"),
        ("MSG\t1 TRIALID 1\nEFIX R 3\t9\t3\t4\t5\t6\n", "", "no message names an image"),
        ("MSG\tone TRIALID 1\n", "", "'one' in the time of a message"),
        ("", "--image-pattern (", "--image-pattern"),
        ("", "--image-pattern abc", "no group"),
        ("MSG\t1 TRIALID a.png\nEFIX R 3\t9\t3\t4\t5\t6\n", "", "unknown how the image lay"),
    ],
)
def test_errors(tmp_path: Path, body: str, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Read(write(tmp_path, body), flags)
