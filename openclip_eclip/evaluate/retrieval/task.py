"""Task retrieval: R@k, median and mean rank from image to report and from report to image.

It reports ties and intervals, and writes an index of the reports.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...data.images.options import read_options
from ...data.tables.missing_text import is_doubtful
from ...json_text import counted
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.features import (
    ImageFeatures,
    TextFeatures,
    encode_images,
    encode_texts,
    first_rank_only,
)
from ..inputs.report_index import KINDS, ReportIndex, build_index, measure_recall, save_index
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result
from .ranks import (
    KS,
    RULES,
    DirectionResult,
    Reports,
    find_reports,
    image_column,
    label_precision,
    measure,
    repeated_images,
)
from .tables import DIRECTIONS, curve_figure, example_images, tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help=("data set: .csv or .tsv with filepath and reports, or .tar shards (braces allowed)"),
    )
    parser.add_argument(
        "--text-column",
        default="title",
        help="column of the reports (default: %(default)s; in shards the .txt member)",
    )
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="paper",
        help=(
            "rule that says which report is right for an image. paper (section 4.3): reports that"
            " differ only in case and outer blanks are one report, encoded in lower case. index:"
            " only the report of the same row, as in clip_benchmark. group: any report with the"
            " same value in --group-column (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--group-column",
        metavar="COLUMN",
        help="column of the groups for --rule group, such as a study or a report id",
    )
    parser.add_argument(
        "--patient-column",
        metavar="COLUMN",
        help="column of the patients; with it, intervals draw patients instead of images",
    )
    parser.add_argument(
        "--labels",
        metavar="COL,COL...",
        help=(
            "label columns; with them, P@k is measured: the share of the nearest k reports that"
            " have the image's values"
        ),
    )
    parser.add_argument(
        "--index",
        choices=KINDS,
        default="exact",
        help=(
            "kind of the index. The approximate kinds are for more than a million reports; their"
            " recall is measured (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--save-index",
        type=Path,
        metavar="FOLDER",
        help="folder in which the index is saved for `search`",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Encode, rank in both directions, index. UserError: flags that do not fit, or bad data."""
    if (args.rule == "group") != (args.group_column is not None):
        raise UserError(
            f"--rule {args.rule} with --group-column {args.group_column}: --rule group needs a"
            " --group-column, the other rules take none."
        )
    options = read_encode_options(args)
    data = with_reports(
        read_eval_set(args.data, options.skip_bad, read_options(args)), args.text_column
    )
    wanted = [
        *filter(None, [args.group_column, args.patient_column]),
        *(args.labels.split(",") if args.labels else []),
    ]
    for column in wanted:
        data.column(column)  # a missing column is an error before hours of encoding
    encoder = read_encoder(args)
    images, data = encode_images(encoder, data, options)
    reports = find_reports(data, args.rule, args.text_column, args.group_column)
    texts = encode_texts(encoder, reports.texts, options)
    first_rank_only()
    patients = data.column(args.patient_column) if args.patient_column else None
    results = measure(images.unit, texts.unit, reports, patients)
    index = build_index(texts.unit, reports.texts, args.index)
    content = data.content_hash()
    index.facts |= {
        "recall_at_10": measure_recall(index, texts.unit, images.unit),
        "encoder": encoder.facts,
        "data": str(data.path),
        "data_hash": content,
        "rule": args.rule,
        "text_column": args.text_column,
    }
    if args.save_index:
        save_index(index, args.save_index)
    settings = {
        **encoder.facts,
        "data": str(data.path),
        "data_hash": content,
        "protocol": f"retrieval, rule {args.rule}",
        "rule": args.rule,
        "text_column": args.text_column,
        "group_column": args.group_column,
        "patient_column": args.patient_column,
        "labels": args.labels,
        "index": args.index,
        "batch_size": options.batch_size,
    }
    semantic = (
        label_precision(images.unit, texts.unit, reports, data, args.labels.split(","))
        if args.labels
        else {}
    )
    return _result(settings, data, images, texts, reports, results, index, semantic)


def _result(
    settings: dict[str, Any],
    data: EvalSet,
    images: ImageFeatures,
    texts: TextFeatures,
    reports: Reports,
    results: dict[str, DirectionResult],
    index: ReportIndex,
    semantic: dict[str, Any],
) -> Result:
    counts = {
        "images": len(data),
        "reports": len(reports.texts),
        "reports_cut": texts.cut,
        "excluded": data.excluded,
    }
    both = {
        name: {**result.scores, "chance": result.chance_scores, "tied": result.ranks.tied}
        for name, result in results.items()
    }
    about = {key: index.facts[key] for key in ("kind", "count", "recall_at_10")}
    values = {**counts, **both, "index": about, "semantic": semantic}
    expected = results["image_to_text"].ranks.rank("expected")
    return Result(
        "retrieval",
        settings,
        values,
        tables(results, semantic, KS),
        {"recall": curve_figure(results)},
        {
            "recall": (
                "Share of the queries whose right answer is among the first k. Dashed: chance. The"
                " band reaches from the pessimistic to the optimistic order of equal scores."
            )
        },
        example_images(data, images.unit, reports, expected, index),
        {"kind": np.array("ranks"), "id": np.array(data.ids), "rank": expected},
        _notes(data, texts, reports, results, index, settings["rule"]),
        ["R@k", "median rank", "mean rank", "MRR", "ties", *(["P@k"] if semantic else [])],
    )


def _notes(
    data: EvalSet,
    texts: TextFeatures,
    reports: Reports,
    results: dict[str, DirectionResult],
    index: ReportIndex,
    rule: str,
) -> list[str]:
    notes = [f"{counted(len(data), 'image')}, {counted(len(reports.texts), 'distinct report')}."]
    if data.excluded:
        reasons = list(data.excluded.values())
        notes.append(
            "Left out: "
            + ", ".join(f"{reasons.count(reason)} x {reason}" for reason in sorted(set(reasons)))
            + "."
        )
    images, rows = repeated_images(data, reports)
    if images:
        column = image_column(data)
        advice = (
            f"--rule group --group-column {column} counts them as right."
            if column
            else "No column names the images; with one, --rule group counts them as right."
        )
        notes.append(
            f"{counted(images, 'image occurs', 'images occur')} in several rows ({rows} rows) with"
            f" several reports. Under --rule {rule} each row is a separate image, and the other"
            f" reports of the same image count as wrong. {advice}"
        )
    doubtful = sum(is_doubtful(text) for text in reports.texts)
    if doubtful:
        what = counted(doubtful, "report is", "reports are")
        notes.append(f"{what} 'NA', which may mean that there is no report.")
    if texts.cut:
        notes.append(
            f"{counted(texts.cut, 'report fills', 'reports fill')} the context length of the text"
            " tower, being cut or just fitting. Reports that are equal up to the cut have the same"
            " vector and tie."
        )
    for name, result in results.items():
        if result.ranks.tied:
            notes.append(
                f"{DIRECTIONS[name]}: for {result.ranks.tied} of {len(result.ranks.above)} queries"
                " a wrong answer has exactly the score of the right one."
            )
        short = [f"R@{k}" for k in KS if k >= result.ranks.gallery]
        if short:
            notes.append(
                f"{DIRECTIONS[name]}: {', '.join(short)} not reported: with only"
                f" {result.ranks.gallery} answers it is 1 for any model."
            )
    if index.facts["kind"] != "exact":
        notes.append(
            f"The {index.facts['kind']} index finds {index.facts['recall_at_10']:.3f} of the exact"
            " ten nearest reports. The numbers above come from exact scores."
        )
    return notes
