"""Tables of a grounding result, with intervals over images or patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...metrics.auroc import auroc_of_rows
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.grounding import SENSITIVITY, false_alarm_rate
from ..output.result import Cell, Table, with_interval
from .annotators import ANOTHER
from .attention import FLOORS
from .measure import GRID, METRICS, OVERLAP_METRICS, POINTING_15, SALIENCY_METRICS, Scores
from .phrases import LARGE, SIZES, SMALL, GroundingSet
from .priors import PRIORS

BEST_IOU, BEST_DICE = "IoU, best threshold", "Dice, best threshold"
SIDES = ("left", "right")
BY_SIZE = (POINTING_15, "mIoU", "AUPRO")
Named = dict[str, dict[str, Any]]  # {metric: {"value", "interval"}}


def mean_intervals(values: np.ndarray, groups: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Means over phrases of each column (N, K), NaN left out, with 95 % bootstrap intervals.

    Whole `groups` (N,) are drawn. A column without values has NaN.
    """
    _, member = np.unique(groups, return_inverse=True)
    known = np.isfinite(values)
    sums, counts = (np.zeros((member.max() + 1, values.shape[1])) for _ in range(2))
    np.add.at(sums, member, np.where(known, values, 0))
    np.add.at(counts, member, known)

    def mean(rows: np.ndarray) -> np.ndarray:
        total = counts[rows].sum(0)
        return np.divide(sums[rows].sum(0), total, out=np.full(len(total), np.nan), where=total > 0)

    full = mean(np.arange(len(sums)))
    low, high = np.full((2, len(full)), np.nan)
    some = np.isfinite(full)
    if some.any():
        low[some], high[some] = bootstrap_interval(
            lambda rows: mean(rows)[some], len(sums), seed=seed
        )
    return [
        {"value": value, "interval": [lo, hi]}
        for value, lo, hi in zip(full.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def method_values(
    scores: dict[str, Scores], groups: np.ndarray, seed: int, best: dict[str, int]
) -> dict[str, Named]:
    """{method: {metric: mean and interval}}; `best`: {method: index of its threshold in GRID}."""
    result = {}
    for name, scored in scores.items():
        columns, titles = [scored.values], list(METRICS)
        if name in best:
            columns += [curve[:, best[name], None] for curve in (scored.iou, scored.dice)]
            titles += [BEST_IOU, BEST_DICE]
        means = mean_intervals(np.concatenate(columns, axis=1), groups, seed)
        result[name] = dict(zip(titles, means, strict=True))
    return result


def best_thresholds(validation: dict[str, Scores]) -> dict[str, int]:
    """{method: index in GRID of the threshold with the highest mean IoU}; the lowest of several."""
    return {name: int(scored.iou.mean(0).argmax()) for name, scored in validation.items()}


def method_tables(values: dict[str, Named], unit: str, best: dict[str, int]) -> list[Table]:
    metrics = [*OVERLAP_METRICS, *([BEST_IOU, BEST_DICE] if best else [])]
    note = (
        f"Means over phrases, with 95 % bootstrap intervals over {unit}s; all phrases of one"
        f" {unit} stay together. The rows {', '.join((*FLOORS, *PRIORS))} use no attention: a model"
        " should beat them."
        " mIoU and Dice are means over the thresholds 0.1 to 0.5 of the map scaled to [0, 1]."
    )
    if ANOTHER in values:
        note += (
            f" {ANOTHER}: each annotator's map against the mean map of the others, for the phrases"
            " of several annotators alone; the other rows have the mean map of all."
        )
    if best:
        chosen = ", ".join(f"{name} {GRID[i]:.2f}" for name, i in best.items())
        note += f" Best thresholds, chosen on --threshold-data: {chosen}."
    return [
        _table("Does the attention find the region?", metrics, values, note),
        _table(
            "Agreement with the map as gaze",
            SALIENCY_METRICS,
            values,
            "For maps of gaze. Of boxes and masks, they compare methods only. KL: lower is better.",
        ),
    ]


def _table(title: str, metrics: Sequence[str], values: dict[str, Named], note: str) -> Table:
    rows = [[name, *(_cell(of_method[m]) for m in metrics)] for name, of_method in values.items()]
    return Table(title, ["method", *metrics], rows, note)


def _cell(entry: dict[str, Any]) -> Cell:
    return with_interval(entry["value"], *entry["interval"])


def by_size(scores: dict[str, Scores], data: GroundingSet, seed: int) -> tuple[Any, Table]:
    """Scores for small, medium and large regions."""
    size = np.array([data.phrases[i].size for i in data.grounded])
    groups = data.groups[data.grounded]
    picked = [METRICS.index(name) for name in BY_SIZE]
    values: dict[str, Any] = {}
    rows: list[list[Cell]] = []
    for of_size in SIZES:
        some = size == of_size
        values[of_size] = {"phrases": int(some.sum()), "methods": {}}
        if not some.any():
            continue
        for name, scored in scores.items():
            means = mean_intervals(scored.values[some][:, picked], groups[some], seed)
            values[of_size]["methods"][name] = dict(zip(BY_SIZE, means, strict=True))
            rows.append([of_size, int(some.sum()), name, *map(_cell, means)])
    note = (
        f"Share of the image's area that is marked (at least half of the map's maximum): small"
        f" below {SMALL:.0%}, large from {LARGE:.0%}, medium between."
    )
    table = Table("By size of the region", ["region", "phrases", "method", *BY_SIZE], rows, note)
    return values, table


def by_side(scores: dict[str, Scores], data: GroundingSet) -> tuple[Any, Table | None]:
    """Where maps have their maximum, if the phrase names a side; None without such phrases."""
    sides = np.array([data.phrases[i].side or "" for i in data.grounded])
    centres = np.array([data.phrases[i].left for i in data.grounded])
    if not (sides != "").any():
        return {}, None
    values: dict[str, Any] = {}
    rows: list[list[Cell]] = []
    lefts = {"the regions themselves": centres, **{n: s.left for n, s in scores.items()}}
    for name, left in lefts.items():
        shares = {
            side: float(left[sides == side].mean()) if (sides == side).any() else np.nan
            for side in SIDES
        }
        # agreement with the side of the region, for phrases that name one
        agrees = (left * centres + (1 - left) * (1 - centres))[sides != ""].mean()
        values[name] = {
            "named left": {"left": shares["left"], "right": 1 - shares["left"]},
            "named right": {"left": shares["right"], "right": 1 - shares["right"]},
            "on the region's side": float(agrees),
        }
        cells = [share for side in shares.values() for share in (side, 1 - side)]
        rows.append([name, *cells, float(agrees)])
    columns = ["method", *(f"named {a}: on the {b}" for a in SIDES for b in SIDES)]
    count = [int((sides == side).sum()) for side in SIDES]
    note = (
        f"Share of maps whose maximum is in the left or right half of the image; {count[0]} phrases"
        f" name the left, {count[1]} the right. Of the regions, the centre counts: their row shows"
        " whose left is meant. In a frontal radiograph the patient's left is on the right."
    )
    return values, Table("Left and right", [*columns, "on the region's side"], rows, note)


def without_region(
    scores: dict[str, Scores], data: GroundingSet, seed: int
) -> tuple[Any, Table | None]:
    """How many phrases without a region are taken for one with a region; None if there is none."""
    grounded = np.array([phrase.grounded for phrase in data.phrases])
    if grounded.all():
        return {}, None
    _, member = np.unique(data.groups, return_inverse=True)
    of_group = [np.flatnonzero(member == g) for g in range(member.max() + 1)]
    values, rows = {}, []
    for name, scored in scores.items():
        if scored.peaks is None or scored.empty_peaks is None:
            continue
        peaks = np.empty(len(grounded))
        peaks[grounded], peaks[~grounded] = scored.peaks, scored.empty_peaks

        area_of = auroc_of_rows(grounded[:, None].astype(float), peaks[:, None])

        def rates(
            rows: np.ndarray,
            peaks: np.ndarray = peaks,
            area_of: Callable[[np.ndarray], np.ndarray] = area_of,
        ) -> np.ndarray:
            chosen = np.concatenate([of_group[i] for i in rows])
            known, value = grounded[chosen], peaks[chosen]
            rate = false_alarm_rate(value[known], value[~known])
            return np.array([rate, area_of(chosen)[0]])

        full = rates(np.arange(len(of_group)))
        low, high = bootstrap_interval(rates, len(of_group), seed=seed)
        entries = [{"value": full[i], "interval": [low[i], high[i]]} for i in range(2)]
        values[name] = dict(zip(("false_alarm_rate", "AUROC"), entries, strict=True))
        rows.append([name, *map(_cell, entries)])
    note = (
        f"{int((~grounded).sum())} phrases have no region. A phrase counts as detected if the"
        f" maximum of its map reaches the threshold that {SENSITIVITY:.0%} of the phrases with a"
        " region reach; the maps are not rescaled. AUROC: of the maximum, with against without a"
        " region; chance is 0.5."
    )
    return values, Table(
        "Phrases without a region", ["method", "false alarms", "AUROC"], rows, note
    )
