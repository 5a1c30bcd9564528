"""Image to report and report to image: R@k, median and mean rank, with ties and uncertainty; and an index of the reports."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import UserError
from ..data.missing_text import is_doubtful, is_missing
from ..data.read_options import read_options
from ..metrics.bootstrap import bootstrap_interval
from ..metrics.ranking import TIES, Ranks, chance_ranks, precision_at_k, rank_answers
from .data import EvalSet, read_eval_set
from .features import ImageFeatures, TextFeatures, encode_images, encode_texts, first_rank_only
from .index import KINDS, ReportIndex, build_index, measure_recall, save_index
from .options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from .result import Result
from .retrieval_report import DIRECTIONS, curve_figure, film_examples, tables

RULES = ("paper", "index", "group")
KS = (1, 5, 10)
Interval = dict[str, float]  # value, low, high


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, metavar="FILE",
                        help=".csv or .tsv with filepath and reports, or .tar shards (braces allowed)")
    parser.add_argument("--text-column", default="title", help="(default: %(default)s; in shards the .txt member)")
    parser.add_argument("--rule", choices=RULES, default="paper",
                        help="which report is right. paper: equal reports (case and outer blanks aside) are one, encoded in lower case, section 4.3; "
                             "index: a row's own and no other, as clip_benchmark; group: any report of the row's --group-column "
                             "(default: %(default)s)")
    parser.add_argument("--group-column", metavar="COLUMN", help="for --rule group: study, report id, ...")
    parser.add_argument("--patient-column", metavar="COLUMN", help="intervals draw patients, not images")
    parser.add_argument("--labels", metavar="COL,COL...",
                        help="also the share of the nearest k reports with the image's values in these columns")
    parser.add_argument("--index", choices=KINDS, default="exact",
                        help="kind of the index; approximate ones for more than a million reports, their recall is measured "
                             "(default: %(default)s)")
    parser.add_argument("--save-index", type=Path, metavar="FOLDER", help="keep the index for `search`")
    add_output_argument(parser)


@dataclass
class Reports:
    """What is ranked: `texts` (M,) with `groups` (M,); `own` (N,): each image's report; `image_groups` (N,)."""

    texts: list[str]
    groups: list[Any]
    own: np.ndarray
    image_groups: list[Any]


@dataclass
class Found:
    """One direction: ranks of the queries, chance, and {convention: {metric: interval}}; chance has values alone."""

    ranks: Ranks
    chance: Ranks
    scores: dict[str, dict[str, Interval]]
    chance_scores: dict[str, float]


def run(args: argparse.Namespace) -> Result:
    """Encode, rank in both directions, index."""
    if (args.rule == "group") != (args.group_column is not None):
        raise UserError(f"--rule {args.rule} with --group-column {args.group_column}: --rule group needs a column, the other "
                        "rules take none.")
    options = read_encode_options(args)
    data = with_reports(read_eval_set(args.data, options.skip_bad, read_options(args)), args.text_column)
    wanted = [*filter(None, [args.group_column, args.patient_column]), *(args.labels.split(",") if args.labels else [])]
    for column in wanted:
        data.column(column)  # before hours of encoding
    encoder = read_encoder(args)
    images, data = encode_images(encoder, data, options)
    reports = find_reports(data, args.rule, args.text_column, args.group_column)
    texts = encode_texts(encoder, reports.texts, options)
    first_rank_only()
    patients = data.column(args.patient_column) if args.patient_column else None
    found = measure(images.unit, texts.unit, reports, patients)
    index = build_index(texts.unit, reports.texts, args.index)
    content = data.content_hash()
    index.facts |= {"recall_at_10": measure_recall(index, texts.unit, images.unit), "encoder": encoder.facts,
                    "data": str(data.path), "data_hash": content, "rule": args.rule, "text_column": args.text_column}
    if args.save_index:
        save_index(index, args.save_index)
    settings = {**encoder.facts, "data": str(data.path), "data_hash": content, "protocol": f"retrieval, rule {args.rule}",
                "rule": args.rule, "text_column": args.text_column, "group_column": args.group_column,
                "patient_column": args.patient_column, "labels": args.labels, "index": args.index,
                "batch_size": options.batch_size}
    semantic = label_precision(images.unit, texts.unit, reports, data, args.labels.split(",")) if args.labels else {}
    return _result(settings, data, images, texts, reports, found, index, semantic)


def with_reports(data: EvalSet, column: str) -> EvalSet:
    """The rows that have a report; the others are named as excluded. UserError if none has."""
    has = np.array([not is_missing(text) for text in data.column(column)])
    if not has.any():
        raise UserError(f"{data.path}: column {column!r} holds no report at all; name the column of the reports with "
                        "--text-column.")
    return data.keep(has, "no report") if not has.all() else data


def find_reports(data: EvalSet, rule: str, text_column: str, group_column: str | None = None) -> Reports:
    """The reports that a rule tells apart, in order of appearance. UserError: a row without group."""
    texts = [text.strip() for text in data.column(text_column)]
    groups: list[Any]
    if rule == "paper":
        texts = [text.lower() for text in texts]
        groups = texts
    elif rule == "index":
        groups = list(range(len(texts)))
    else:
        groups = data.column(group_column or "")
        if group_column == "filepath":  # a.png and ./a.png are one
            groups = [str(image.resolve()) if isinstance(image, Path) else image for image in data.images]
        if "" in groups:
            raise UserError(f"{data.name(groups.index(''))}, column {group_column!r}: blank; expected a group for every row.")
    place: dict[tuple[Any, str], int] = {}
    own = np.array([place.setdefault(key, len(place)) for key in zip(groups, texts, strict=True)])
    return Reports([text for _, text in place], [group for group, _ in place], own, groups)


def repeated_images(data: EvalSet, reports: Reports) -> tuple[int, int]:
    """(images, their rows): those of equal content that stand in several rows of which the rule makes different groups."""
    groups: dict[bytes, list[Any]] = {}
    for identity, group in zip(data.identities(), reports.image_groups, strict=True):
        groups.setdefault(identity, []).append(group)
    found = [len(of_one) for of_one in groups.values() if len(set(of_one)) > 1]
    return len(found), sum(found)


def measure(images: np.ndarray, texts: np.ndarray, reports: Reports, patients: Sequence[str] | None = None) -> dict[str, Found]:
    """Both directions, from unit features (N, D) and (M, D). A report belongs to the patient of its first image."""
    owners = None if patients is None else [patients[i] for i in np.unique(reports.own, return_index=True)[1]]
    pairs = {"image_to_text": (images, texts, reports.image_groups, reports.groups, patients),
             "text_to_image": (texts, images, reports.groups, reports.image_groups, owners)}
    found = {}
    for name, (queries, gallery, query_groups, gallery_groups, units) in pairs.items():
        ranks = rank_answers(queries, gallery, query_groups, gallery_groups)
        chance = chance_ranks(query_groups, gallery_groups)
        found[name] = Found(ranks, chance, score(ranks, units), summarise(chance, "expected"))
    return found


def per_query(ranks: Ranks, ties: str) -> dict[str, np.ndarray]:
    """{R@k ..., rank, reciprocal rank}, each (N,); no R@k where k answers are the whole gallery: it would be 1 for any model."""
    hits = {f"R@{k}": ranks.hits(k, ties) for k in KS if k < ranks.gallery}
    return {**hits, "rank": ranks.rank(ties), "MRR": ranks.reciprocal(ties)}


def summarise(ranks: Ranks, ties: str) -> dict[str, float]:
    """{R@k ..., MRR, median rank, mean rank} over all queries."""
    return _values(per_query(ranks, ties))


def score(ranks: Ranks, units: Sequence[str] | None = None, draws: int = 1000) -> dict[str, dict[str, Interval]]:
    """{convention: {R@k, median rank, mean rank, MRR: value, low, high}}; 95 % bootstrap over queries, or their `units` (N,)."""
    kinds = TIES if ranks.tied else TIES[:1]  # without ties the conventions agree
    columns = [per_query(ranks, ties) for ties in kinds]

    def statistic(rows: np.ndarray) -> np.ndarray:
        return np.array([list(_values({name: values[rows] for name, values in column.items()}).values()) for column in columns])

    low, high = bootstrap_interval(statistic, len(ranks.above), draws, groups=units)
    scores = {ties: {name: {"value": value, "low": float(low[i, j]), "high": float(high[i, j])}
                     for j, (name, value) in enumerate(_values(column).items())}
              for i, (ties, column) in enumerate(zip(kinds, columns, strict=True))}
    return {ties: scores.get(ties, scores[kinds[0]]) for ties in TIES}


def _values(column: dict[str, np.ndarray]) -> dict[str, float]:
    means = {name: float(values.mean()) for name, values in column.items() if name != "rank"}
    return {**means, "median rank": float(np.median(column["rank"])), "mean rank": float(column["rank"].mean())}


def label_precision(images: np.ndarray, texts: np.ndarray, reports: Reports, data: EvalSet, columns: list[str]) -> dict[str, Any]:
    """P@k: share of the nearest k reports whose values in `columns` are the image's own; chance is the share in all reports.

    A report has the values of its first image; `mixed` counts reports whose images differ.
    """
    labels = list(zip(*(data.column(name) for name in columns), strict=True))
    first = np.unique(reports.own, return_index=True)[1]
    of_report = [labels[i] for i in first]
    mixed = {int(own) for own, label in zip(reports.own, labels, strict=True) if label != of_report[own]}
    share = {label: of_report.count(label) / len(of_report) for label in set(labels)}
    ks = [k for k in KS if k < len(of_report)]
    return {"columns": columns, "mixed": len(mixed), "chance": float(np.mean([share[label] for label in labels])),
            **{f"P@{k}": float(precision_at_k(images, texts, labels, of_report, k).mean()) for k in ks}}


def _result(settings: dict[str, Any], data: EvalSet, images: ImageFeatures, texts: TextFeatures, reports: Reports,
            found: dict[str, Found], index: ReportIndex, semantic: dict[str, Any]) -> Result:
    counts = {"images": len(data), "reports": len(reports.texts), "reports_cut": texts.cut, "excluded": data.excluded}
    both = {name: {**of.scores, "chance": of.chance_scores, "tied": of.ranks.tied} for name, of in found.items()}
    about = {key: index.facts[key] for key in ("kind", "count", "recall_at_10")}
    values = {**counts, **both, "index": about, "semantic": semantic}
    expected = found["image_to_text"].ranks.rank("expected")
    return Result(
        "retrieval", settings, values, tables(found, semantic, KS), {"recall": curve_figure(found)},
        {"recall": "Share of the queries whose right answer is among the first k, against chance (dashed). Where equal scores "
                   "matter, the band reaches from the pessimistic to the optimistic order."},
        film_examples(data, images.unit, reports, expected, index),
        {"kind": np.array("ranks"), "id": np.array(data.ids), "rank": expected},
        _notes(data, texts, reports, found, index, settings["rule"]),
        ["R@k", "median rank", "mean rank", "MRR", "ties", *(["P@k"] if semantic else [])])


def _notes(data: EvalSet, texts: TextFeatures, reports: Reports, found: dict[str, Found], index: ReportIndex, rule: str) -> list[str]:
    notes = [f"{len(data)} images, {len(reports.texts)} reports to tell apart."]
    if data.excluded:
        reasons = list(data.excluded.values())
        notes.append("Left out: " + ", ".join(f"{reasons.count(reason)} x {reason}" for reason in sorted(set(reasons))) + ".")
    images, rows = repeated_images(data, reports)
    if images:
        notes.append(f"{images} images stand in several rows ({rows} rows) with several reports: under --rule {rule} each row is an image of its "
                     "own, and the other reports of its image count as wrong. To count them as right: --rule group --group-column filepath.")
    doubtful = sum(is_doubtful(text) for text in reports.texts)
    if doubtful:
        notes.append(f"{doubtful} reports are 'NA', which may stand for no report.")
    if texts.cut:
        notes.append(f"{texts.cut} reports fill the context length of the text tower: cut, or just fitting. Reports that are "
                     "equal up to the cut get one vector and tie.")
    for name, of in found.items():
        if of.ranks.tied:
            notes.append(f"{DIRECTIONS[name]}: for {of.ranks.tied} of {len(of.ranks.above)} queries a wrong answer scores "
                         "exactly as the right one.")
        short = [f"R@{k}" for k in KS if k >= of.ranks.gallery]
        if short:
            notes.append(f"{DIRECTIONS[name]}: {', '.join(short)} not reported, for there are only {of.ranks.gallery} answers: "
                         "any model has 1.")
    if index.facts["kind"] != "exact":
        notes.append(f"The {index.facts['kind']} index finds {index.facts['recall_at_10']:.3f} of the exact ten nearest reports. "
                     "The numbers above come from exact scores.")
    return notes
