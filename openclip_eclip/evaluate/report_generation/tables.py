"""Tables, pictures and examples of written reports (Tab. 3, Tab. 5)."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...generate import Generation, count_faults
from ...json_text import shorten
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.finding_labels import PRESENT, UNCERTAIN, finding_names, label_matrix
from ...metrics.text import METRICS, Scored
from ..inputs.eval_set import EvalSet
from ..inputs.report_index import ReportIndex
from ..output.result import Cell, Example, Result, Table, with_interval
from .figures import draw_findings, draw_scores
from .snippets import Snippets

WARNING = (
    "Research output, not a diagnosis. No sentence below was checked by a physician; none may be"
    " used in the care of a patient."
)
FLOORS = {"copy": "the nearest report itself", "random": "any report of the training side"}
FILMS = 8
LONGEST_TEXT = 400  # characters of a report in an example


@dataclass
class Written:
    """What one writer made: `generations` in the order of the test set, `scores` by metric."""

    facts: dict[str, Any]
    generations: list[Generation]
    scores: dict[str, Scored] = field(default_factory=dict)

    @classmethod
    def of_records(cls, facts: dict[str, Any], records: Sequence[dict[str, Any]]) -> Written:
        return cls(facts, [Generation(record["raw"], record["finish"]) for record in records])

    @property
    def name(self) -> str:
        return self.facts["writer"]


def make_result(
    settings: dict[str, Any],
    test: EvalSet,
    args: argparse.Namespace,
    written: list[Written],
    picked: list[Snippets],
    references: list[str],
    twins: list[str],
    index: ReportIndex,
) -> Result:
    """`written`: the writer asked for, then the floors."""
    patients = test.column(args.patient_column)
    numbers = {one.name: _measure(one, patients) for one in written}
    found = {
        one.name: _found_and_missed([made.text for made in one.generations], references)
        for one in written
    }
    means = {
        name: scored.values
        for name, scored in written[0].scores.items()
        if scored.values is not None and scored.values.ndim == 1
    }
    faults = {one.name: count_faults(one.generations) for one in written}
    values = {
        "images": len(test),
        "patients": len(set(patients)),
        "excluded": test.excluded,
        "scores": numbers,
        "faults": faults,
        "findings": found,
        "missing": {
            name: scored.missing for name, scored in written[0].scores.items() if scored.missing
        },
        "index": {key: index.facts[key] for key in ("kind", "count", "recall_at_10", "left_out")},
        "same_text": len(twins),
        "writer": written[0].facts,
    }
    figures = {
        "scores": draw_scores(numbers),
        "findings": draw_findings(found[written[0].name], written[0].name),
    }
    return Result(
        "reports",
        {**settings, "protocol": f"reports, {args.pick} {args.snippets}, {written[0].name}"},
        values,
        [
            _score_table(written, numbers),
            *_difference_tables(written, patients),
            _fault_table(faults),
            _metric_table(written[0]),
        ],
        figures,
        {
            "scores": (
                "Every metric with its 95 % interval; each has a scale of its own. What `copy`"
                " reaches is what retrieval alone is worth; what `random` reaches is worth nothing."
            ),
            "findings": (
                "Findings by a dictionary (a rule of thumb): in the true report and in the written"
                " one (found), in the true one alone (missed), in the written one alone (invented)."
            ),
        },
        _examples(test, written[0], picked, references),
        (
            {
                "kind": np.array("means"),
                "id": np.array(test.ids),
                "patient": np.array(patients),
                "classes": np.array(list(means)),
                "score": np.stack(list(means.values()), axis=1),
            }
            if means
            else {}
        ),
        _notes(test, args, written[0], faults, twins, index),
        [*METRICS, "copy and random", "95 % interval"],
        WARNING,
    )


def _measure(one: Written, patients: Sequence[str]) -> dict[str, dict[str, float]]:
    measured = {}
    for name, scored in one.scores.items():
        if scored.values is not None:
            low, high = bootstrap_interval(scored.value, len(patients), groups=patients)
            measured[name] = {"value": scored.value(), "low": float(low), "high": float(high)}
    return measured


def _score_table(written: list[Written], numbers: dict[str, dict[str, dict[str, float]]]) -> Table:
    rows: list[list[Cell]] = []
    for name in METRICS:
        cells = [
            (
                with_interval(*numbers[one.name][name].values())
                if name in numbers[one.name]
                else "missing"
            )
            for one in written
        ]
        rows.append([name, *cells])
    writers = "; ".join(
        f"{one.name}: {FLOORS.get(one.name, one.facts['model'])}" for one in written
    )
    return Table(
        "Against the true reports",
        ["metric", *(one.name for one in written)],
        rows,
        f"{writers}. In brackets: 95 % intervals, bootstrap over patients. 'missing': the weights"
        " or the library are not here, see 'How it was measured'. These metrics reward the usual"
        " wording; none of them says that a report is right.",
    )


def _difference_tables(written: list[Written], patients: Sequence[str]) -> list[Table]:
    """What the writer adds to the floors, by the same draws of patients."""
    if len(written) < 3:
        return []
    rows: list[list[Cell]] = []
    for name, scored in written[0].scores.items():
        if scored.values is None:
            continue
        cells = []
        for floor in written[1:]:
            other = floor.scores[name]

            def difference(
                rows: np.ndarray, other: Scored = other, scored: Scored = scored
            ) -> float:
                return scored.value(rows) - other.value(rows)

            cells.append(
                with_interval(
                    difference(np.arange(len(patients))),
                    *map(float, bootstrap_interval(difference, len(patients), groups=patients)),
                )
            )
        rows.append([name, *cells])
    return [
        Table(
            f"{written[0].name}: what it adds",
            ["metric", *(f"less {floor.name}" for floor in written[1:])],
            rows,
            "Differences with 95 % intervals, both writers on the same drawn patients.",
        )
    ]


def _fault_table(faults: dict[str, dict[str, int]]) -> Table:
    return Table(
        "What came back",
        ["writer", "reports", "empty", "cut by the limit of tokens", "stopped otherwise"],
        [[name, *counts.values()] for name, counts in faults.items()],
    )


def _metric_table(one: Written) -> Table:
    return Table(
        "How it was measured",
        ["metric", "with"],
        [[name, scored.missing or scored.setting] for name, scored in one.scores.items()],
        "Folders of models: --sentence-model, --bertscore-model, --chexbert-model,"
        " --radgraph-model. Nothing is downloaded.",
    )


def _found_and_missed(texts: list[str], references: list[str]) -> dict[str, dict[str, int]]:
    """{finding: {found, missed, invented}} over all reports; an uncertain finding counts as
    there.
    """
    written, true = (
        np.isin(label_matrix(side), (PRESENT, UNCERTAIN)) for side in (texts, references)
    )
    counts = {"found": written & true, "missed": ~written & true, "invented": written & ~true}
    return {
        name: {kind: int(cells[:, k].sum()) for kind, cells in counts.items()}
        for k, name in enumerate(finding_names())
    }


def _examples(
    test: EvalSet, one: Written, picked: list[Snippets], references: list[str]
) -> list[Example]:
    """Films from the best to the worst ROUGE-L, evenly: not the nicest ones."""
    scored = one.scores["ROUGE-L"].values
    order = np.argsort(np.zeros(len(test)) if scored is None else -scored, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, FILMS).round().astype(int))]
    names = np.array(finding_names())
    made = []
    for row in rows.tolist():
        text = one.generations[row].text
        written, true = (
            np.isin(label_matrix([side])[0], (PRESENT, UNCERTAIN))
            for side in (text, references[row])
        )
        lines: list[str | tuple[str, str]] = [
            test.ids[row] if scored is None else f"{test.ids[row]}: ROUGE-L {scored[row]:.3f}",
            ("True", shorten(references[row], LONGEST_TEXT)),
            (f"Written by {one.name}", shorten(text, LONGEST_TEXT) or "(nothing)"),
            ("✓ found", _names(names[written & true])),
            ("✗ missed", _names(names[true & ~written])),
            ("! invented", _names(names[written & ~true])),
        ]
        lines += [
            (f"Retrieved {place} ({score:.3f})", shorten(found, LONGEST_TEXT))
            for place, (score, found) in enumerate(
                zip(picked[row].scores, picked[row].texts, strict=True), 1
            )
        ]
        made.append(Example(test.thumbnail(row), lines))
    return made


def _names(found: np.ndarray) -> str:
    return ", ".join(found.tolist()) or "none"


def _notes(
    test: EvalSet,
    args: argparse.Namespace,
    one: Written,
    faults: dict[str, dict[str, int]],
    twins: list[str],
    index: ReportIndex,
) -> list[str]:
    notes = [
        f"{len(test)} images; {index.facts['count']} distinct reports of {index.facts['samples']}"
        f" samples to retrieve from; no value of {args.patient_column!r} and no image on both"
        " sides."
    ]
    if twins:
        notes.append(
            f"{len(twins)} training reports have the words of a test report and "
            + (
                "are left out of the index."
                if args.same_text == "drop"
                else "stay in the index, as in the paper: retrieval can find the very text."
            )
        )
    else:
        notes.append("No training report has the words of a test report.")
    for reason, count in Counter(test.excluded.values()).items():
        notes.append(f"Left out: {count} x {reason}.")
    if one.name == "smollm2":
        notes.append(
            "SmolLM2-135M shows that the plumbing works. It knows no medicine; its numbers say"
            " nothing about retrieval-augmented reports."
        )
    counts = faults[one.name]
    if counts["empty"] or counts["runaway"]:
        notes.append(
            f"{one.name}: {counts['empty']} empty reports (each scores 0), {counts['runaway']} cut"
            f" at {args.max_new_tokens} tokens."
        )
    if index.facts["kind"] != "exact":
        notes.append(
            f"The {index.facts['kind']} index finds {index.facts['recall_at_10']:.3f} of the exact"
            " ten nearest reports."
        )
    if index.facts["pick"] == "medoids":
        notes.append(
            "Snippets are medoids of clusters of the 100 nearest reports (the authors' code), not"
            " the nearest (the paper)."
        )
    notes.append("Every prompt, with what was retrieved and what came back, is in reports.jsonl.")
    return notes
