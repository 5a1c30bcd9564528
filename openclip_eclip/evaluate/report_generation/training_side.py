"""The side that reports are retrieved from: apart from the test side, its distinct reports indexed,
its worked examples.
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
    """UserError where a patient, or an image by its bytes, is on both sides, or a row does not say
    whose it is.

    Ids are compared as numbers where they are such: 0012, 12.0 and p12 are one patient.
    """
    for data in (train, test):
        cells = data.column(patient_column)
        blank = [row for row, cell in enumerate(cells) if not cell.strip()]
        if blank:
            raise UserError(
                f"{data.name(blank[0])}, column {patient_column!r}: blank, as in {len(blank)} of"
                f" {len(cells)} rows; without the patient (or report) nobody can tell that the"
                " sides are apart."
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
            f" {train.name(rows[0])} and {test.name(rows[1])}; a report would be retrieved from the"
            " very patient it is written for. Split by that column."
        )
    found = _same_images(train, test)
    if found:
        raise UserError(
            f"{len(found)} test images are in the training side too, byte for byte, such as"
            f" {test.name(found[0][1])} and {train.name(found[0][0])}; take them out of one side"
            " (python -m openclip_eclip.data.overlap lists all)."
        )


def _same_images(train: EvalSet, test: EvalSet) -> list[tuple[int, int]]:
    """(row of train, row of test) of equal bytes; only images of equal size are read."""
    by_size: dict[int, list[int]] = {}
    for row in range(len(test)):
        by_size.setdefault(test.size(row), []).append(row)
    known: dict[int, dict[bytes, int]] = {}
    found = []
    for row in range(len(train)):
        size = train.size(row)
        if size in by_size and size not in known:
            known[size] = {hashlib.sha256(test.read(i)).digest(): i for i in by_size[size]}
        twin = (
            known[size].get(hashlib.sha256(train.read(row)).digest()) if size in by_size else None
        )
        found += [] if twin is None else [(row, twin)]
    return found


def distinct_reports(
    train: EvalSet, test: EvalSet, text_column: str, same_text: str
) -> tuple[list[str], list[str]]:
    """(the training side's reports, each once, those among them that a test report equals).

    Equal: case, punctuation and blanks aside. `same_text`: "drop" leaves such reports out of the
    index, so that no test report is in it; "keep" (the paper's and the authors' index of distinct
    reports) has them; "stop" raises UserError.
    """
    theirs = {
        normalise(text): row for row, text in reversed(list(enumerate(test.column(text_column))))
    }
    first: dict[str, tuple[int, str]] = {}
    for row, text in enumerate(train.column(text_column)):
        first.setdefault(normalise(text), (row, text.strip()))
    twins = [words for words in first if words in theirs]
    if twins and same_text == "stop":
        row = first[twins[0]][0]
        raise UserError(
            f"{len(twins)} test reports are in the training side too, such as"
            f" {test.name(theirs[twins[0]])} and {train.name(row)}: {first[twins[0]][1][:80]!r}."
            " --same-text drop leaves them out of the index, keep has them."
        )
    chosen = [
        text for words, (_, text) in first.items() if same_text == "keep" or words not in theirs
    ]
    if len(chosen) <= EXAMPLES:
        raise UserError(
            f"{train.path}: {len(chosen)} distinct reports to retrieve from; expected more than"
            f" {EXAMPLES}."
        )
    return chosen, [first[words][1] for words in twins]


def index_reports(
    encoder: Encoder, train: EvalSet, texts: list[str], kind: str, options: EncodeOptions
) -> tuple[ReportIndex, np.ndarray]:
    """The index of `texts`, with what it was made of, and their unit features (M, D) float32."""
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
    """Two worked examples of the training side (§4.4), of distinct patients, drawn by a seed: key,
    snippets, report.

    `columns`: of texts and of patients; `pick`: snippets a case, how they are picked, seed. An
    example's snippets are retrieved as for a query, but
    never from its own patient: else every example would teach to copy the first snippet. Only rows
    whose report is in the index are drawn: a report that was left out for a test report must not
    come back as an example.
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
    made = []
    for unit, row in zip(features.unit, np.flatnonzero(mask).tolist(), strict=True):
        own = {
            normalise(texts[other])
            for other, patient in enumerate(patients)
            if patient == patients[row]
        }
        allowed = [place for place, text in enumerate(index.texts) if normalise(text) not in own]
        snippets = pick_snippets(index, unit[None], count, kind, seed, allowed)[0]
        made.append(
            {"key": train.ids[row], "snippets": snippets.texts, "report": texts[row].strip()}
        )
    return made
