"""The answer at the top of the report, from the measured differences and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# a difference whose whole interval is within this margin of 0 counts as no difference
MARGIN = 0.03
ATTENTION = "attention"  # the task whose score is the attention inside the marked region


@dataclass(frozen=True)
class Interval:
    """A score or a difference with its 95 % interval; all three are shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Control:
    """A method that explains a gain without the maps: the placebo, or more training.

    `lead`: the tested method minus this one.
    """

    name: str
    is_placebo: bool
    score: Interval
    lead: Interval


@dataclass(frozen=True)
class Measure:
    """What one task measured for the tested method and for CLIP on the same test images.

    `task`: "attention", "retrieval" or "zero-shot"; `metric`: name of the score; `difference`: the
    method minus CLIP; `images`: number of test images; `prior`: the score of a map that needs no
    model, the mean of all other images' maps, for attention alone.
    """

    task: str
    metric: str
    images: int
    score: Interval
    base: Interval
    difference: Interval
    controls: Sequence[Control] = ()
    prior: Interval | None = None


def outcome(measure: Measure) -> str:
    """One of "helps", "unproven", "harms", "same", "open".

    "helps": better than CLIP and than every control; "unproven": better than CLIP, and not better
    than some control; "same": the interval is within MARGIN of 0; "open": it is too wide to tell.
    """
    change = measure.difference
    if change.low > 0:
        explained = any(control.lead.low <= 0 for control in measure.controls)
        return "unproven" if explained else "helps"
    if change.high < 0:
        return "harms"
    # equal scores on every image, such as no hit at all, leave no width to judge by
    is_known = change.low < change.high
    return "same" if is_known and -MARGIN <= change.low and change.high <= MARGIN else "open"


def verdict(measures: Sequence[Measure]) -> str:
    """The answer in a few words."""
    tasks: dict[str, list[str]] = {}
    for measure in measures:
        tasks.setdefault(outcome(measure), []).append(measure.task)
    helped, unproven, harmed = (
        " and ".join(tasks.get(name, ())) for name in ("helps", "unproven", "harms")
    )
    if helped and harmed:
        return f"It helps {helped} and harms {harmed}."
    if helped == ATTENTION and len(measures) > 1:  # what eclip-plus is trained for
        rest = (
            f"{unproven} improves, too, but the maps need not be the reason"
            if unproven
            else "no other score improves"
        )
        return f"It moves the attention into the marked region; {rest}."
    if helped:
        return f"Yes, it helps {helped}."
    if harmed and unproven:
        return f"No: it harms {harmed}, and the maps do not explain the gain in {unproven}."
    if harmed:
        return f"No, it harms {harmed}."
    if unproven:
        return f"Not shown: {unproven} improves, but the maps need not be the reason."
    if "open" not in tasks:
        return "No: it changes nothing that was measured."
    return "Cannot tell: the intervals are too wide."


def answer(method: str, measures: Sequence[Measure], seeds: int) -> list[str]:
    """The verdict, then one sentence or two on each task."""
    lines = [verdict(measures)]
    lines += [_sentence(method, measure) for measure in measures]
    if seeds == 1:
        lines.append(
            "This is one seed: it compares two trained models, not two methods. Another seed may"
            " give another answer."
        )
    return lines


def _sentence(method: str, measure: Measure) -> str:
    change, images = measure.difference, f"On your {measure.images} test images"
    if measure.task == "attention":
        first = (
            f"{images} with a marked region, {method} attends inside it in"
            f" {percent(measure.score)} of them, against {percent(measure.base)} for CLIP"
        )
        first += {
            "helps": ".",
            "unproven": ".",
            "harms": ": this is worse.",
            "same": f": unchanged, {points(change)}.",
            "open": f": the difference, {points(change)}, may be chance.",
        }[outcome(measure)]
    else:
        state = {
            "helps": "is better than CLIP by",
            "unproven": "is better than CLIP by",
            "harms": "is worse than CLIP by",
            "same": "is unchanged:",
            "open": "shows no clear difference from CLIP:",
        }[outcome(measure)]
        first = f"{images}, {measure.task} ({measure.metric}) {state} {points(change)}."
    prior = (
        [f"The mean map of all other images, which needs no model, gives {percent(measure.prior)}."]
        if measure.prior
        else []
    )
    return " ".join([first, *_reason(measure), *prior])


def _reason(measure: Measure) -> list[str]:
    """What the placebo and the other controls say of a gain; nothing where there is no gain."""
    state = outcome(measure)
    if state not in ("helps", "unproven"):
        return []
    placebos = [control for control in measure.controls if control.is_placebo]
    if state == "helps":
        if not placebos:
            return ["No placebo was trained, so the cause of the gain is not known."]
        return [f"The placebo gives {percent(placebos[0].score)}, so it is the maps."]
    close = [
        f"{'the placebo' if control.is_placebo else control.name} ({percent(control.score)})"
        for control in measure.controls
        if control.lead.low <= 0
    ]
    names = " and ".join([", ".join(close[:-1]), close[-1]] if close[1:] else close)
    verb = "are" if close[1:] else "is"
    return [
        f"{names[0].upper()}{names[1:]} {verb} not clearly behind, so the maps need not be the"
        " reason."
    ]


def percent(score: Interval) -> str:
    """A share with its interval, as in "71 % [66, 76]"."""
    return f"{100 * score.value:.0f} % [{100 * score.low:.0f}, {100 * score.high:.0f}]"


def points(difference: Interval) -> str:
    """A difference of shares in percentage points, as in "+3.1 points [1.0, 5.2]"."""
    value, low, high = (100 * part for part in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points [{low:.1f}, {high:.1f}]".replace("-", "−")
