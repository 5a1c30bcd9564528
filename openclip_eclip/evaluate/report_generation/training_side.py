"""The training side, from which reports are retrieved: leak checks, index and worked examples.

It must share no patient and no image with the test side.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from ...config import UserError
from ...data.overlap import shared_patients
from ...data.overlap_read import clean_id, normalise
from ..inputs.encoder import Encoder
from ..inputs.eval_set import EvalSet
from ..inputs.features import EncodeOptions, encode_images, encode_texts
from ..inputs.report_index import ReportIndex, build_index
from .snippets import pick_snippets

SAME_TEXT = ("drop", "keep", "stop")
EXAMPLES = 2  # §4.4


def refuse_leaks(train: EvalSet, test: EvalSet, patient_column: str) -> None:
    """UserError: a patient or an image (equal bytes) is on both sides, or a patient is blank.

    Ids that are numbers are compared as numbers: 0012, 12.0 and p12 are the same patient.
    """
    for data in (train, test):
        cells = data.column(patient_column)
        blank = [row for row, cell in enumerate(cells) if not cell.strip()]
        if blank:
            raise UserError(
                f"{data.name(blank[0])}, column {patient_column!r}: blank, as in {len(blank)} of"
                f" {len(cells)} rows; expected a patient (or report) in every row, to check that no"
                " patient is on both sides."
            )
    sides = [
        [{"patient": clean_id(cell)} for cell in data.column(patient_column)]
        for data in (train, test)
    ]
    both = shared_patients(sides[0], sides[1])
    if both:
        rows = [
            next(row for row, entry in enumerate(side) if entry["patient"] == both[0])
            for side in sides
        ]
        raise UserError(
            f"{len(both)} values of {patient_column!r} are on both sides, such as {both[0]} in"
            f" {train.name(rows[0])} and {test.name(rows[1])}. A report could then be retrieved"
            " from the patient it is written for. Split by that column."
        )
    same_images = _same_images(train, test)
    if same_images:
        raise UserError(
            f"{len(same_images)} test images are also in the training side, byte for byte, such as"
            f" {test.name(same_images[0][1])} and {train.name(same_images[0][0])}; remove them from"
            " one side (openclip-eclip overlap lists all)."
        )


def _same_images(train: EvalSet, test: EvalSet) -> list[tuple[int, int]]:
    """(row of train, row of test) of images with equal bytes; only equal sizes are read."""
    by_size: dict[int, list[int]] = {}
    for row in range(len(test)):
        by_size.setdefault(test.size(row), []).append(row)
    known: dict[int, dict[bytes, int]] = {}
    pairs = []
    for row in range(len(train)):
        size = train.size(row)
        if size in by_size and size not in known:
            known[size] = {hashlib.sha256(test.read(i)).digest(): i for i in by_size[size]}
        equal_row = (
            known[size].get(hashlib.sha256(train.read(row)).digest()) if size in by_size else None
        )
        pairs += [] if equal_row is None else [(row, equal_row)]
    return pairs


def distinct_reports(
    train: EvalSet, test: EvalSet, text_column: str, same_text: str
) -> tuple[list[str], list[str]]:
    """(distinct reports of the training side, those of them that equal a test report).

    Reports are equal if they differ only in case, punctuation and blanks. `same_text`: "drop"
    leaves reports that equal a test report out of the index; "keep" keeps them, as the paper and
    the authors' code do; "stop" is a UserError if there are any.
    """
    test_rows = {
        normalise(text): row for row, text in reversed(list(enumerate(test.column(text_column))))
    }
    first: dict[str, tuple[int, str]] = {}
    for row, text in enumerate(train.column(text_column)):
        first.setdefault(normalise(text), (row, text.strip()))
    duplicates = [words for words in first if words in test_rows]
    if duplicates and same_text == "stop":
        row = first[duplicates[0]][0]
        raise UserError(
            f"{len(duplicates)} test reports are also in the training side, such as"
            f" {test.name(test_rows[duplicates[0]])} and {train.name(row)}:"
            f" {first[duplicates[0]][1][:80]!r}. --same-text drop leaves them out of the index,"
            " --same-text keep keeps them."
        )
    chosen = [
        text for words, (_, text) in first.items() if same_text == "keep" or words not in test_rows
    ]
    if len(chosen) <= EXAMPLES:
        raise UserError(
            f"{train.path}: {len(chosen)} distinct reports to retrieve from; expected more than"
            f" {EXAMPLES}."
        )
    return chosen, [first[words][1] for words in duplicates]


def index_reports(
    encoder: Encoder, train: EvalSet, texts: list[str], kind: str, options: EncodeOptions
) -> tuple[ReportIndex, np.ndarray]:
    """(index of `texts` with facts of its model and data, unit text features (M, D) float32)."""
    unit = encode_texts(encoder, texts, options).unit
    index = build_index(unit, texts, kind)
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    index.facts |= {
        "encoder": encoder.facts,
        "data": str(train.path),
        "samples": len(train),
        "texts_hash": digest,
    }
    return index, unit


def choose_examples(
    encoder: Encoder,
    train: EvalSet,
    index: ReportIndex,
    columns: tuple[str, str],
    pick: tuple[int, str, int],
    options: EncodeOptions,
) -> list[dict[str, Any]]:
    """Draw two worked examples of different patients from the training side (§4.4).

    `columns`: names of the text and patient columns; `pick`: (number of snippets, how they are
    selected, seed). Returns {"key", "snippets", "report"} for each. Snippets are retrieved as for a
    query, but never from the example's patient: else the examples would teach the writer to copy
    the first snippet. Only rows whose report is in the index are drawn, so a report that was left
    out because of a test report is no example. UserError: fewer patients than examples.
    """
    texts, patients = (train.column(name) for name in columns)
    count, kind, seed = pick
    indexed = {normalise(text) for text in index.texts}
    order = np.random.default_rng(seed).permutation(
        [row for row, text in enumerate(texts) if normalise(text) in indexed]
    )
    rows: list[int] = []
    for row in order.tolist():
        if patients[row] not in {patients[other] for other in rows}:
            rows.append(row)
        if len(rows) == EXAMPLES:
            break
    else:
        raise UserError(
            f"{train.path}: {len(rows)} patients; expected at least {EXAMPLES} for the worked"
            " examples."
        )
    mask = np.zeros(len(train), bool)
    mask[rows] = True
    features, _ = encode_images(encoder, train.keep(mask, "no worked example"), options)
    examples = []
    for unit, row in zip(features.unit, np.flatnonzero(mask).tolist(), strict=True):
        of_patient = {
            normalise(texts[other])
            for other, patient in enumerate(patients)
            if patient == patients[row]
        }
        allowed = [i for i, text in enumerate(index.texts) if normalise(text) not in of_patient]
        snippets = pick_snippets(index, unit[None], count, kind, seed, allowed)[0]
        examples.append(
            {"key": train.ids[row], "snippets": snippets.texts, "report": texts[row].strip()}
        )
    return examples
