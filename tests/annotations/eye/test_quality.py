"""Quality: numbers of made recordings, and each fault that they say, found and not imagined."""

from __future__ import annotations

import numpy as np
import pytest

from openclip_eclip.annotations.eye.quality import GazeQuality
from openclip_eclip.annotations.record import Recording
from openclip_eclip.gaze import Fixations

SIZE = (300, 600)  # height, width


def natural(seed: int, count: int = 12) -> np.ndarray:
    """Positions around the centre of the image, in pixels."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0.5, 0.16, (count, 2)), 0.02, 0.98) * SIZE[::-1]


def fixations(xy: np.ndarray, duration: float = 0.25) -> Fixations:
    return Fixations(xy[:, 0], xy[:, 1], np.full(len(xy), duration))


def collect(change=lambda xy: xy, texts=lambda xy: "", duration: float = 0.25, **kwargs):
    quality = GazeQuality(**kwargs)
    for i in range(40):
        xy = natural(i)
        # gaze moves as a whole, to a side that the text may name
        xy = np.clip(xy + np.array([(-90, 90)[i % 2], (-50, 50)[i // 2 % 2]]), 1, [599, 299])
        found = fixations(change(xy), duration)
        one = Recording(f"{i}.png", found, "x", quality=(("data loss", 0.01 * i),))
        quality.add(one, found, SIZE)
        quality.add_text(texts(xy), found, SIZE)
    return quality


def says(xy: np.ndarray) -> str:
    x, y = xy.mean(axis=0)
    side, height = ("left", "right")[int(x > 300)], ("upper", "lower")[int(y > 150)]
    return f"Opacity of the {side} {height} zone."


def only(quality: GazeQuality) -> str:
    found = [one for one in quality.sentences() if "recordings lack" not in one]
    assert len(found) == 1, found
    return found[0]


def test_good_gaze_says_nothing_and_gives_numbers() -> None:
    quality = collect(texts=says)
    (lost,) = quality.sentences()
    assert lost.startswith("14 of 40 recordings lack more than 25%")
    facts = quality.facts()
    assert facts["recordings"] == 40 and facts["fixations"] == 480
    assert facts["share of fixations off the image"] == 0
    assert facts["seconds per fixation"]["median"] == 0.25
    assert facts["data loss (mean)"] == pytest.approx(0.195)
    assert abs(facts["middle of gaze from the centre"]["x"]) < 0.05
    assert facts["texts with left and right that gaze follows"] == {"agree": 40, "of": 40}
    assert facts["images without a fixation on them"] == 0


def test_mirrored_gaze_and_whose_left() -> None:
    quality = collect(lambda xy: [600, 0] + xy * [-1, 1], says)
    assert 'Of 40 texts with "left" or "right", gaze goes to the other side in 40' in only(quality)
    quality = collect(lambda xy: [0, 300] + xy * [1, -1], says)
    assert 'Of 40 texts with "upper" or "lower"' in only(quality)
    assert "origin at the bottom" in only(quality)
    # the patient's left is on the image's right
    assert "--left-of" in only(collect(texts=says, left_of="patient"))
    quality = collect(lambda xy: [600, 0] + xy * [-1, 1], says, left_of="patient")
    assert all("mirrored" not in one for one in quality.sentences())


def test_texts_without_a_relation_or_with_both_sides_say_nothing() -> None:
    rng = np.random.default_rng(3)
    random = collect(texts=lambda xy: f"The {('left', 'right')[rng.integers(2)]} lung.")
    assert all("mirrored" not in one for one in random.sentences())
    both = collect(texts=lambda xy: "Left and right lung.")
    assert "texts with left and right that gaze follows" not in both.facts()


def test_units_axes_and_placement() -> None:
    assert "within the unit square" in only_first(collect(lambda xy: xy / [600, 300]))
    assert "x and y swapped" in only_first(collect(lambda xy: xy[:, ::-1]))
    assert "All 480 positions lie beyond their image" in only_first(collect(lambda xy: xy + 900))
    assert "of the positions lie off their image" in only_first(collect(lambda xy: xy * 2.7))
    assert "negative y" in only_first(collect(lambda xy: xy * [1, -1]))


def only_first(quality: GazeQuality) -> str:
    found = quality.sentences()
    assert not any("mirrored" in one or "middle of all gaze" in one for one in found)
    return found[0]


def test_drift_durations_and_images_without_gaze() -> None:
    shifted = only(collect(lambda xy: np.clip(xy + [150, 0], 0, 599)))
    assert "of the width right" in shifted and "the height" not in shifted
    assert "--time-unit" in only(collect(duration=200.0))
    quality = collect()
    quality.add(
        Recording("empty.png", fixations(natural(0)), "x"), fixations(natural(0) + 999), SIZE
    )
    assert "1 of 41 images have no fixation on them, such as empty.png" in only(quality)
    assert quality.facts()["images without a fixation on them"] == 1


def test_a_reader_apart_from_others_on_the_same_images() -> None:
    """All gaze is below the centre, as the content is; only one reader's is elsewhere."""
    quality = GazeQuality()
    for i in range(60):
        image, reader = f"{i % 10}.png", f"r{i // 10}"
        xy = natural(i) + [0, 30]
        if reader == "r4":
            xy = np.clip(xy - [150, 0], 1, 299)
        quality.add(Recording(image, fixations(xy), "x", reader), fixations(xy), SIZE)
    assert "The gaze of 1 of 6 readers lies apart" in only(quality)
    assert "'r4' 2" in only(quality) and "of the width left" in only(quality)


def test_no_recordings() -> None:
    assert GazeQuality().sentences() == []
    assert GazeQuality().facts()["fixations"] == 0
