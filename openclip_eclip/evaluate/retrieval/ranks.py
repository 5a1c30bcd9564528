"""Right answers of retrieval, their ranks in both directions, and the scores of the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.ranking import TIES, Ranks, chance_ranks, precision_at_k, rank_answers
from ..inputs.eval_set import EvalSet

RULES = ("paper", "index", "group")
KS = (1, 5, 10)
Interval = dict[str, float]  # {"value", "low", "high"}


@dataclass
class Reports:
    """The distinct reports of N images.

    `texts` and `groups`: the M reports and their groups; `report_of` (N,) int64: the index of each
    image's report; `image_groups`: the groups of the N images. Equal groups are right answers.
    """

    texts: list[str]
    groups: list[Any]
    report_of: np.ndarray
    image_groups: list[Any]


@dataclass
class DirectionResult:
    """One direction of retrieval: ranks of the queries, and their scores.

    `scores`: {convention for ties: {metric: interval}}; `chance`, `chance_scores`: of a random
    order, without intervals.
    """

    ranks: Ranks
    chance: Ranks
    scores: dict[str, dict[str, Interval]]
    chance_scores: dict[str, float]


def find_reports(
    data: EvalSet, rule: str, text_column: str, group_column: str | None = None
) -> Reports:
    """The reports that a rule distinguishes, in order of appearance. UserError: a blank group."""
    texts = [text.strip() for text in data.column(text_column)]
    groups: list[Any]
    if rule == "paper":
        texts = [text.lower() for text in texts]
        groups = texts
    elif rule == "index":
        groups = list(range(len(texts)))
    else:
        groups = _groups(data, group_column or "")
        if "" in groups:
            raise UserError(
                f"{data.name(groups.index(''))}, column {group_column!r}: blank; expected a group"
                " for every row."
            )
    index_of: dict[tuple[Any, str], int] = {}
    report_of = np.array(
        [index_of.setdefault(key, len(index_of)) for key in zip(groups, texts, strict=True)]
    )
    return Reports(
        [text for _, text in index_of], [group for group, _ in index_of], report_of, groups
    )


def _groups(data: EvalSet, column: str) -> list[str]:
    """The values of a column; paths are resolved, so that a.png and ./a.png are one image."""
    cells = data.column(column)
    if column != "filepath":
        return cells
    return [
        str(image.resolve()) if isinstance(image, Path) else cell
        for image, cell in zip(data.images, cells, strict=True)
    ]


def image_column(data: EvalSet) -> str | None:
    """The first column with one value for each image, and another for every other; None: none.

    Images are the same if their content is equal.
    """
    identities = data.identities()
    count = len(set(identities))
    for name in data.table:
        groups = _groups(data, name)
        if "" not in groups and len(set(groups)) == count == len(set(zip(groups, identities))):
            return name
    return None


def repeated_images(data: EvalSet, reports: Reports) -> tuple[int, int]:
    """(number of images, number of their rows) that occur in several rows of different groups.

    Images are the same if their content is equal.
    """
    groups: dict[bytes, list[Any]] = {}
    for identity, group in zip(data.identities(), reports.image_groups, strict=True):
        groups.setdefault(identity, []).append(group)
    counts = [
        len(groups_of_image) for groups_of_image in groups.values() if len(set(groups_of_image)) > 1
    ]
    return len(counts), sum(counts)


def measure(
    images: np.ndarray, texts: np.ndarray, reports: Reports, patients: Sequence[str] | None = None
) -> dict[str, DirectionResult]:
    """Results of "image_to_text" and "text_to_image", from unit features (N, D) and (M, D).

    `patients` (N,): intervals draw patients instead of queries. A report belongs to the patient of
    its first image.
    """
    report_patients = (
        None
        if patients is None
        else [patients[i] for i in np.unique(reports.report_of, return_index=True)[1]]
    )
    pairs = {
        "image_to_text": (images, texts, reports.image_groups, reports.groups, patients),
        "text_to_image": (texts, images, reports.groups, reports.image_groups, report_patients),
    }
    results = {}
    for name, (queries, gallery, query_groups, gallery_groups, units) in pairs.items():
        ranks = rank_answers(queries, gallery, query_groups, gallery_groups)
        chance = chance_ranks(query_groups, gallery_groups)
        results[name] = DirectionResult(
            ranks, chance, score(ranks, units), summarise(chance, "expected")
        )
    return results


def per_query(ranks: Ranks, ties: str) -> dict[str, np.ndarray]:
    """{"R@k" ..., "rank", "MRR"}, values of each query (N,).

    R@k is left out if the gallery has k answers or fewer: it would be 1 for any model.
    """
    hits = {f"R@{k}": ranks.hits(k, ties) for k in KS if k < ranks.gallery}
    return {**hits, "rank": ranks.rank(ties), "MRR": ranks.reciprocal(ties)}


def summarise(ranks: Ranks, ties: str) -> dict[str, float]:
    """{"R@k" ..., "MRR", "median rank", "mean rank"} over all queries."""
    return _values(per_query(ranks, ties))


def score(
    ranks: Ranks, units: Sequence[str] | None = None, draws: int = 1000
) -> dict[str, dict[str, Interval]]:
    """{convention for ties: {metric: interval}}, metrics as in `summarise`.

    Intervals are 95 %, by a bootstrap over queries, or over their `units` (N,).
    """
    kinds = TIES if ranks.tied else TIES[:1]  # without ties the conventions agree
    columns = [per_query(ranks, ties) for ties in kinds]

    def statistic(rows: np.ndarray) -> np.ndarray:
        return np.array(
            [
                list(_values({name: values[rows] for name, values in column.items()}).values())
                for column in columns
            ]
        )

    low, high = bootstrap_interval(statistic, len(ranks.above), draws, groups=units)
    scores = {
        ties: {
            name: {"value": value, "low": float(low[i, j]), "high": float(high[i, j])}
            for j, (name, value) in enumerate(_values(column).items())
        }
        for i, (ties, column) in enumerate(zip(kinds, columns, strict=True))
    }
    return {ties: scores.get(ties, scores[kinds[0]]) for ties in TIES}


def _values(column: dict[str, np.ndarray]) -> dict[str, float]:
    means = {name: float(values.mean()) for name, values in column.items() if name != "rank"}
    return {
        **means,
        "median rank": float(np.median(column["rank"])),
        "mean rank": float(column["rank"].mean()),
    }


def label_precision(
    images: np.ndarray, texts: np.ndarray, reports: Reports, data: EvalSet, columns: list[str]
) -> dict[str, Any]:
    """P@k: share of the nearest k reports that have the image's values in `columns`.

    "chance" is this share in all reports. A report has the values of its first image; "mixed"
    counts reports whose images differ.
    """
    labels = list(zip(*(data.column(name) for name in columns), strict=True))
    first = np.unique(reports.report_of, return_index=True)[1]
    of_report = [labels[i] for i in first]
    mixed = {
        int(i) for i, label in zip(reports.report_of, labels, strict=True) if label != of_report[i]
    }
    share = {label: of_report.count(label) / len(of_report) for label in set(labels)}
    ks = [k for k in KS if k < len(of_report)]
    return {
        "columns": columns,
        "mixed": len(mixed),
        "chance": float(np.mean([share[label] for label in labels])),
        **{f"P@{k}": float(precision_at_k(images, texts, labels, of_report, k).mean()) for k in ks},
    }
