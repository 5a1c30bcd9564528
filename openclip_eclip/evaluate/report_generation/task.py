"""Reports for images, written by a frozen language model from the nearest reports of other patients
(§4.4, Tab. 3, Tab. 5).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...config import UserError
from ...data.images.options import read_options
from ...generate import (
    Query,
    Template,
    WorkedExample,
    Writer,
    add_writer_arguments,
    build_chat,
    open_writer,
    read_template,
)
from ...generate.floors import CopyWriter, RandomWriter
from ...metrics.text import METRICS, score_reports
from ...subcommands import seed
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.features import encode_images, first_rank_only, rank_and_size
from ..inputs.report_index import KINDS, ReportIndex, measure_recall, save_index
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result
from .journal import SETTINGS, Journal
from .snippets import PICKS, Snippets, pick_snippets
from .tables import Written, make_result
from .training_side import SAME_TEXT, choose_examples, distinct_reports, index_reports, refuse_leaks

UNFINISHED = SETTINGS
# the paper's
MODELS = {
    "sentence": "sentence-transformers/all-mpnet-base-v2",
    "bertscore": "google-bert/bert-base-uncased",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="the images to write for, with their true reports: table or .tar shards",
    )
    parser.add_argument(
        "--train-data",
        required=True,
        metavar="FILE",
        help="where reports are retrieved from; no patient in common",
    )
    parser.add_argument(
        "--text-column",
        default="title",
        help="of both (default: %(default)s; in shards the .txt member)",
    )
    parser.add_argument(
        "--patient-column",
        default="patient",
        metavar="COLUMN",
        help=(
            "of both: patient, or report where nothing else is known; no value may be on both"
            " sides, intervals draw its values (default: %(default)s)"
        ),
    )
    _add_retrieval_arguments(parser)
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="of worked examples, medoids and random reports (default: %(default)s)",
    )
    add_writer_arguments(parser)
    for name, needs in {
        metric.model: metric.needs for metric in METRICS.values() if metric.model
    }.items():
        more = f"; default: {MODELS[name]}, if the hub's cache has it" if name in MODELS else ""
        parser.add_argument(
            f"--{name}-model", type=Path, metavar="FOLDER", help=f"for the metric: {needs}{more}"
        )
    add_output_argument(parser)


def _add_retrieval_arguments(parser: argparse.ArgumentParser) -> None:
    """Which training reports a prompt holds."""
    parser.add_argument(
        "--same-text",
        choices=SAME_TEXT,
        default="drop",
        help=(
            "a training report with the words of a test report: is left out of the index, stays (as"
            " in the paper), or stops the run (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--pick",
        choices=PICKS,
        default="nearest",
        help=(
            "nearest: the paper's; medoids: of clusters of the 100 nearest, the authors' code"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--snippets",
        type=int,
        default=5,
        metavar="K",
        help="reports in a prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--index",
        choices=KINDS,
        default="exact",
        help=(
            "kind of the index; approximate ones for more than a hundred thousand reports (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--save-index",
        type=Path,
        metavar="FOLDER",
        help=("keep the index for `search` and for python -m openclip_eclip report"),
    )


def run(args: argparse.Namespace) -> Result:
    """Check, index, retrieve, write, score. UserError: bad flags, a leak between the sides, a
    writer that fails.
    """
    if args.snippets < 1:
        raise UserError(f"--snippets {args.snippets}: expected at least 1.")
    options = read_encode_options(args)
    test, train = (
        with_reports(read_eval_set(path, options.skip_bad, read_options(args)), args.text_column)
        for path in (args.data, args.train_data)
    )
    _refuse_equal_ids(test)
    refuse_leaks(train, test, args.patient_column)
    texts, twins = distinct_reports(train, test, args.text_column, args.same_text)
    template = read_template(args.prompt_template)
    # before hours of encoding
    writer = open_writer(args, texts, args.seed) if rank_and_size()[0] == 0 else None
    encoder = read_encoder(args)
    images, test = encode_images(encoder, test, options)
    index, unit = index_reports(encoder, train, texts, args.index, options)
    examples = choose_examples(
        encoder,
        train,
        index,
        (args.text_column, args.patient_column),
        (args.snippets, args.pick, args.seed),
        options,
    )
    first_rank_only()
    assert writer is not None  # rank 0 has opened it, and goes on alone
    index.facts |= {
        "recall_at_10": measure_recall(index, unit, images.unit),
        "examples": examples,
        "snippets": args.snippets,
        "pick": args.pick,
        "seed": args.seed,
        "same_text": args.same_text,
        "left_out": len(twins) * (args.same_text == "drop"),
    }
    if args.save_index:
        save_index(index, args.save_index)
    picked = pick_snippets(index, images.unit, args.snippets, args.pick, args.seed)
    queries = make_queries(test.ids, picked, template, index)
    settings = {
        **encoder.facts,
        "data": str(test.path),
        "data_hash": test.content_hash(),
        "train_data": str(train.path),
        "train_texts_hash": index.facts["texts_hash"],
        "text_column": args.text_column,
        "patient_column": args.patient_column,
        "same_text": args.same_text,
        "pick": args.pick,
        "snippets": args.snippets,
        "index": args.index,
        "seed": args.seed,
        "examples": examples,
        "prompt": template.facts,
        "writer": writer.facts,
    }
    written = [write_all(writer, queries, picked, args.out, settings)]
    written += [
        _floor(floor, queries)
        for floor in (CopyWriter(), RandomWriter(texts, args.seed))
        if floor.facts["writer"] != args.writer
    ]
    references = [text.strip() for text in test.column(args.text_column)]
    models = find_models(args)
    for one in written:
        one.scores = score_reports(
            [made.text for made in one.generations], references, models, encoder.device.type
        )
    return make_result(settings, test, args, written, picked, references, twins, index)


def make_queries(
    keys: list[str], picked: list[Snippets], template: Template, index: ReportIndex
) -> list[Query]:
    """What a writer is asked, one a key; the worked examples are those of the index."""
    examples = [
        WorkedExample(example["snippets"], example["report"]) for example in index.facts["examples"]
    ]
    return [
        Query(key, build_chat(template, examples, one.texts), [one.nearest])
        for key, one in zip(keys, picked, strict=True)
    ]


def write_all(
    writer: Writer,
    queries: list[Query],
    picked: list[Snippets],
    out: Path,
    settings: dict[str, Any],
) -> Written:
    """A generation for every query, those of an earlier run with the same settings read from
    `out`/reports.jsonl.
    """
    with Journal(out, settings) as journal:
        left = [
            (query, one)
            for query, one in zip(queries, picked, strict=True)
            if query.key not in journal.records
        ]
        progress = tqdm(
            total=len(queries),
            initial=len(queries) - len(left),
            desc="reports",
            unit="report",
            disable=None,
        )
        with progress:
            for first in range(0, len(left), writer.batch_size):
                part = left[first : first + writer.batch_size]
                for (query, one), made in zip(
                    part, writer.write([query for query, _ in part]), strict=True
                ):
                    journal.append(record(query, one, made))
                progress.update(len(part))
        return Written.of_records(writer.facts, [journal.records[query.key] for query in queries])


def record(query: Query, one: Snippets, made: Any) -> dict[str, Any]:
    """What is saved of a report: the exact prompt, what was retrieved, what came."""
    return {
        "key": query.key,
        "retrieved": [
            {"cosine": score, "text": text}
            for score, text in zip(one.scores, one.texts, strict=True)
        ],
        "prompt": query.chat,
        **dataclasses.asdict(made),
    }


def _floor(writer: Writer, queries: list[Query]) -> Written:
    return Written(writer.facts, writer.write(queries))


def find_models(args: argparse.Namespace) -> dict[str, Path]:
    """Folders of the metrics' models: those given, else the paper's where the hub's cache has them.
    Nothing is downloaded.
    """
    from huggingface_hub import try_to_load_from_cache

    found = {}
    for name in {metric.model for metric in METRICS.values() if metric.model}:
        given = getattr(args, f"{name}_model")
        if given is None and name in MODELS:
            cached = try_to_load_from_cache(MODELS[name], "config.json")
            given = Path(cached).parent if isinstance(cached, str) else None
        if given is not None:
            found[name] = given
    return found


def _refuse_equal_ids(test: EvalSet) -> None:
    seen, twice = np.unique(test.ids, return_counts=True)
    if (twice > 1).any():
        raise UserError(
            f"{test.path}: {seen[twice > 1][0]!r} stands there {twice.max()} times; expected each"
            " image once, so that its report has a name."
        )
