"""Task reports: a frozen language model writes reports from the nearest reports of other patients.

§4.4, Tab. 3, Tab. 5.
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
from .tables import WriterOutput, make_result
from .training_side import SAME_TEXT, choose_examples, distinct_reports, index_reports, refuse_leaks

UNFINISHED = SETTINGS  # a file that only an unfinished run leaves without a result.json
# models of the metrics, as in the paper
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
        help="test set, a table or .tar shards: images to write for, with their true reports",
    )
    parser.add_argument(
        "--train-data",
        required=True,
        metavar="FILE",
        help="training set from which reports are retrieved; it shares no patient with --data",
    )
    parser.add_argument(
        "--text-column",
        default="title",
        help="column of the reports in both sets (default: %(default)s; in shards the .txt member)",
    )
    parser.add_argument(
        "--patient-column",
        default="patient",
        metavar="COLUMN",
        help=(
            "column of the patients in both sets, or of reports if patients are not known. No value"
            " may be in both sets; intervals draw its values (default: %(default)s)"
        ),
    )
    _add_retrieval_arguments(parser)
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of worked examples, medoids and random reports (default: %(default)s)",
    )
    add_writer_arguments(parser)
    for name, description in {
        metric.model: metric.needs for metric in METRICS.values() if metric.model
    }.items():
        default = f"; default: {MODELS[name]}, if the hub's cache has it" if name in MODELS else ""
        parser.add_argument(
            f"--{name}-model",
            type=Path,
            metavar="FOLDER",
            help=f"folder of the model for a metric: {description}{default}",
        )
    add_output_argument(parser)


def _add_retrieval_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that choose which training reports a prompt holds."""
    parser.add_argument(
        "--same-text",
        choices=SAME_TEXT,
        default="drop",
        help=(
            "what happens to a training report with the words of a test report: 'drop' leaves it"
            " out of the index, 'keep' keeps it, as in the paper, 'stop' is an error (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--pick",
        choices=PICKS,
        default="nearest",
        help=(
            "how the reports of a prompt are selected: 'nearest' as in the paper, 'medoids' of"
            " clusters of the 100 nearest as in the authors' code (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--snippets",
        type=int,
        default=5,
        metavar="K",
        help="number of retrieved reports in a prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--index",
        choices=KINDS,
        default="exact",
        help=(
            "kind of the index. The approximate kinds are for more than a hundred thousand reports"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--save-index",
        type=Path,
        metavar="FOLDER",
        help="folder in which the index is saved for `search` and openclip-eclip report",
    )


def run(args: argparse.Namespace) -> Result:
    """Check the data, index, retrieve, write and score.

    UserError: wrong flags, a leak between training and test side, or a writer that fails.
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
    texts, duplicates = distinct_reports(train, test, args.text_column, args.same_text)
    template = read_template(args.prompt_template)
    # opened first: its errors come before hours of encoding
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
    assert writer is not None  # rank 0 has opened it, and only rank 0 continues
    index.facts |= {
        "recall_at_10": measure_recall(index, unit, images.unit),
        "examples": examples,
        "snippets": args.snippets,
        "pick": args.pick,
        "seed": args.seed,
        "same_text": args.same_text,
        "left_out": len(duplicates) * (args.same_text == "drop"),
    }
    if args.save_index:
        save_index(index, args.save_index)
    retrieved = pick_snippets(index, images.unit, args.snippets, args.pick, args.seed)
    queries = make_queries(test.ids, retrieved, template, index)
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
    outputs = [write_all(writer, queries, retrieved, args.out, settings)]
    outputs += [
        _floor(floor, queries)
        for floor in (CopyWriter(), RandomWriter(texts, args.seed))
        if floor.facts["writer"] != args.writer
    ]
    references = [text.strip() for text in test.column(args.text_column)]
    models = find_models(args)
    for output in outputs:
        output.scores = score_reports(
            [generation.text for generation in output.generations],
            references,
            models,
            encoder.device.type,
        )
    return make_result(settings, test, args, outputs, retrieved, references, duplicates, index)


def make_queries(
    keys: list[str], retrieved: list[Snippets], template: Template, index: ReportIndex
) -> list[Query]:
    """One query for each key; the worked examples are those of the index."""
    examples = [
        WorkedExample(example["snippets"], example["report"]) for example in index.facts["examples"]
    ]
    return [
        Query(key, build_chat(template, examples, snippets.texts), [snippets.nearest])
        for key, snippets in zip(keys, retrieved, strict=True)
    ]


def write_all(
    writer: Writer,
    queries: list[Query],
    retrieved: list[Snippets],
    out: Path,
    settings: dict[str, Any],
) -> WriterOutput:
    """A generation for every query.

    Generations of an earlier run with the same settings are read from `out`/reports.jsonl.
    """
    with Journal(out, settings) as journal:
        missing = [
            (query, snippets)
            for query, snippets in zip(queries, retrieved, strict=True)
            if query.key not in journal.records
        ]
        progress = tqdm(
            total=len(queries),
            initial=len(queries) - len(missing),
            desc="reports",
            unit="report",
            disable=None,
        )
        with progress:
            for first in range(0, len(missing), writer.batch_size):
                part = missing[first : first + writer.batch_size]
                for (query, snippets), generation in zip(
                    part, writer.write([query for query, _ in part]), strict=True
                ):
                    journal.append(record(query, snippets, generation))
                progress.update(len(part))
        return WriterOutput.of_records(
            writer.facts, [journal.records[query.key] for query in queries]
        )


def record(query: Query, snippets: Snippets, generation: Any) -> dict[str, Any]:
    """What is saved of a report: the retrieved reports, the exact prompt and the answer."""
    return {
        "key": query.key,
        "retrieved": [
            {"cosine": score, "text": text}
            for score, text in zip(snippets.scores, snippets.texts, strict=True)
        ],
        "prompt": query.chat,
        **dataclasses.asdict(generation),
    }


def _floor(writer: Writer, queries: list[Query]) -> WriterOutput:
    return WriterOutput(writer.facts, writer.write(queries))


def find_models(args: argparse.Namespace) -> dict[str, Path]:
    """{name: folder} of the models of the metrics.

    They are those of the flags, else the paper's models if the cache of the hub has them. Nothing
    is downloaded.
    """
    from huggingface_hub import try_to_load_from_cache

    folders = {}
    for name in {metric.model for metric in METRICS.values() if metric.model}:
        folder = getattr(args, f"{name}_model")
        if folder is None and name in MODELS:
            cached = try_to_load_from_cache(MODELS[name], "config.json")
            folder = Path(cached).parent if isinstance(cached, str) else None
        if folder is not None:
            folders[name] = folder
    return folders


def _refuse_equal_ids(test: EvalSet) -> None:
    ids, counts = np.unique(test.ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{test.path}: {str(ids[counts > 1][0])!r} occurs {counts.max()} times; expected each"
            " image once, so that each report has its own key."
        )
