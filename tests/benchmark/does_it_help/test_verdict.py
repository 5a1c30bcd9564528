"""The answer of the report for every kind of outcome, and the words of its sentences."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from openclip_eclip.benchmark.does_it_help.verdict import (
    Control,
    Interval,
    Measure,
    answer,
    outcome,
    verdict,
)

BETTER, WORSE = Interval(0.37, 0.30, 0.44), Interval(-0.10, -0.16, -0.04)
SAME, OPEN = Interval(-0.004, -0.021, 0.012), Interval(-0.02, -0.14, 0.10)
SCORE, LOW = Interval(0.71, 0.66, 0.76), Interval(0.34, 0.29, 0.39)


def measure(task: str, difference: Interval, *controls: Control) -> Measure:
    return Measure(task, "R@5", 412, SCORE, LOW, difference, controls)


def control(lead: Interval, is_placebo: bool = True) -> Control:
    name = "placebo" if is_placebo else "CLIP-longer"
    return Control(name, is_placebo, Interval(0.38, 0.33, 0.43), lead)


BEATEN, AS_GOOD = control(BETTER), control(OPEN)


@pytest.mark.parametrize(
    "difference, controls, expected",
    [
        (BETTER, (), "helps"),
        (BETTER, (BEATEN,), "helps"),
        (BETTER, (AS_GOOD,), "unproven"),
        (BETTER, (BEATEN, control(SAME, False)), "unproven"),
        (BETTER, (control(WORSE),), "unproven"),
        (WORSE, (BEATEN,), "harms"),
        (SAME, (AS_GOOD,), "same"),
        (OPEN, (), "open"),
        (Interval(0.02, 0.0, 0.04), (), "open"),
        (Interval(0.0, 0.0, 0.0), (), "open"),  # no hit by any method
        (Interval(0.01, 0.001, 0.02), (), "helps"),  # small, but its interval excludes 0
    ],
)
def test_outcome(difference: Interval, controls: tuple[Control, ...], expected: str) -> None:
    assert outcome(measure("retrieval", difference, *controls)) == expected


@pytest.mark.parametrize(
    "measures, expected",
    [
        ([("attention", BETTER, BEATEN)], "Yes, it helps attention."),
        (
            [("attention", BETTER, BEATEN), ("retrieval", SAME, AS_GOOD)],
            "It moves the attention into the marked region; no other score improves.",
        ),
        (
            [("attention", BETTER, BEATEN), ("retrieval", BETTER, AS_GOOD)],
            "It moves the attention into the marked region; retrieval improves, too, but the maps"
            " need not be the reason.",
        ),
        (
            [("attention", BETTER, BEATEN), ("retrieval", BETTER, BEATEN)],
            "Yes, it helps attention and retrieval.",
        ),
        (
            [("attention", BETTER, BEATEN), ("retrieval", WORSE, BEATEN)],
            "It helps attention and harms retrieval.",
        ),
        (
            [("attention", BETTER, AS_GOOD), ("retrieval", WORSE, BEATEN)],
            "No: it harms retrieval, and the maps do not explain the gain in attention.",
        ),
        ([("attention", OPEN, BEATEN), ("retrieval", WORSE, BEATEN)], "No, it harms retrieval."),
        (
            [("attention", BETTER, AS_GOOD), ("retrieval", OPEN, BEATEN)],
            "Not shown: attention improves, but the maps need not be the reason.",
        ),
        ([("retrieval", SAME, BEATEN)], "No: it changes nothing that was measured."),
        (
            [("attention", SAME, BEATEN), ("retrieval", OPEN, BEATEN)],
            "Cannot tell: the intervals are too wide.",
        ),
    ],
)
def test_verdict(measures: list[tuple], expected: str) -> None:
    assert verdict([measure(*one) for one in measures]) == expected


def test_answer_gives_numbers_and_the_placebo() -> None:
    lines = answer(
        "eclip-plus",
        [measure("attention", BETTER, BEATEN), measure("retrieval", SAME, BEATEN)],
        seeds=3,
    )
    assert lines == [
        "It moves the attention into the marked region; no other score improves.",
        "On your 412 test images with a marked region, eclip-plus attends inside it in"
        " 71 % [66, 76] of them, against 34 % [29, 39] for CLIP. The placebo gives 38 % [33, 43],"
        " so it is the maps.",
        "On your 412 test images, retrieval (R@5) is unchanged: −0.4 points [−2.1, 1.2].",
    ]


def test_answer_does_not_credit_the_maps_where_a_control_is_as_good() -> None:
    line = answer("eclip-plus", [measure("retrieval", BETTER, AS_GOOD, control(SAME, False))], 3)[1]
    assert "it is the maps" not in line
    assert re.search(
        r" (The placebo|CLIP-longer) \([^)]+\) and (the placebo|CLIP-longer) \([^)]+\) are not"
        r" clearly behind, so the maps need not be the reason\.$",
        line,
    )
    (line,) = answer("eclip-plus", [measure("retrieval", BETTER, AS_GOOD)], 3)[1:]
    assert line.endswith(
        " The placebo (38 % [33, 43]) is not clearly behind, so the maps need not be the reason."
    )


def test_answer_gives_what_the_mean_map_reaches_without_a_model() -> None:
    found = measure("attention", BETTER, BEATEN)
    line = answer("eclip-plus", [replace(found, prior=LOW)], 3)[1]
    assert line.endswith(
        ", so it is the maps. The mean map of all other images, which needs no model, gives 34 %"
        " [29, 39]."
    )
    assert "mean map" not in answer("eclip-plus", [found], 3)[1]


def test_answer_says_that_no_placebo_was_trained() -> None:
    line = answer("eclip", [measure("retrieval", BETTER)], 3)[1]
    assert line.endswith("No placebo was trained, so the cause of the gain is not known.")


def test_answer_of_one_seed_says_so() -> None:
    assert "one seed" in answer("eclip", [measure("retrieval", OPEN)], 1)[-1]


@pytest.mark.parametrize("difference", [WORSE, SAME, OPEN])
def test_no_gain_is_not_explained(difference: Interval) -> None:
    line = answer("eclip", [measure("attention", difference, AS_GOOD)], 3)[1]
    assert "placebo" not in line.lower()
