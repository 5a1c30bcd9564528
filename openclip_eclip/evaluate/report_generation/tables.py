"""Tables, figures and examples of written reports (Tab. 3, Tab. 5)."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...generate import Generation, count_faults
from ...json_text import counted, shorten
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
EXAMPLES = 8
LONGEST_TEXT = 400  # characters of a report in an example

CAPTIONS = {
    "scores": (
        "Every metric with its 95 % interval; each metric has its own scale. The score of"
        " `copy` is that of retrieval alone; the score of `random` is the floor."
    ),
    "findings": (
        "Findings by a dictionary of phrases, which is approximate. Found: in the true and"
        " in the written report; missed: in the true report alone; invented: in the"
        " written report alone."
    ),
}


@dataclass
class WriterOutput:
    """The reports of one writer: `generations` in the order of the test set, `scores` by metric."""

    facts: dict[str, Any]
    generations: list[Generation]
    scores: dict[str, Scored] = field(default_factory=dict)

    @classmethod
    def of_records(cls, facts: dict[str, Any], records: Sequence[dict[str, Any]]) -> WriterOutput:
        return cls(facts, [Generation(record["raw"], record["finish"]) for record in records])

    @property
    def name(self) -> str:
        return self.facts["writer"]


def make_result(
    settings: dict[str, Any],
    test: EvalSet,
    args: argparse.Namespace,
    outputs: list[WriterOutput],
    retrieved: list[Snippets],
    references: list[str],
    duplicates: list[str],
    index: ReportIndex,
) -> Result:
    """The result. `outputs`: the writer of --writer first, then the baselines."""
    patients = test.column(args.patient_column)
    numbers = {output.name: _measure(output, patients) for output in outputs}
    findings = {
        output.name: _found_and_missed(
            [generation.text for generation in output.generations], references
        )
        for output in outputs
    }
    means = {
        name: scored.values
        for name, scored in outputs[0].scores.items()
        if scored.values is not None and scored.values.ndim == 1
    }
    problems = {output.name: count_faults(output.generations) for output in outputs}
    values = {
        "images": len(test),
        "patients": len(set(patients)),
        "excluded": test.excluded,
        "scores": numbers,
        "faults": problems,
        "findings": findings,
        "missing": {
            name: scored.missing for name, scored in outputs[0].scores.items() if scored.missing
        },
        "index": {key: index.facts[key] for key in ("kind", "count", "recall_at_10", "left_out")},
        "same_text": len(duplicates),
        "writer": outputs[0].facts,
    }
    figures = {
        "scores": draw_scores(numbers),
        "findings": draw_findings(findings[outputs[0].name], outputs[0].name),
    }
    return Result(
        "reports",
        {**settings, "protocol": f"reports, {args.pick} {args.snippets}, {outputs[0].name}"},
        values,
        [
            _score_table(outputs, numbers),
            *_difference_tables(outputs, patients),
            _fault_table(problems),
            _metric_table(outputs[0]),
        ],
        figures,
        CAPTIONS,
        _examples(test, outputs[0], retrieved, references),
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
        _notes(test, args, outputs[0], problems, duplicates, index),
        [*METRICS, "copy and random", "95 % interval"],
        WARNING,
    )


def _measure(output: WriterOutput, patients: Sequence[str]) -> dict[str, dict[str, float]]:
    measured = {}
    for name, scored in output.scores.items():
        if scored.values is not None:
            low, high = bootstrap_interval(scored.value, len(patients), groups=patients)
            measured[name] = {"value": scored.value(), "low": float(low), "high": float(high)}
    return measured


def _score_table(
    outputs: list[WriterOutput], numbers: dict[str, dict[str, dict[str, float]]]
) -> Table:
    rows: list[list[Cell]] = []
    for name in METRICS:
        cells = [
            (
                with_interval(*numbers[output.name][name].values())
                if name in numbers[output.name]
                else "missing"
            )
            for output in outputs
        ]
        rows.append([name, *cells])
    writers = "; ".join(
        f"{output.name}: {FLOORS.get(output.name, output.facts['model'])}" for output in outputs
    )
    return Table(
        "Against the true reports",
        ["metric", *(output.name for output in outputs)],
        rows,
        f"{writers}. In brackets: 95 % intervals, bootstrap over patients. 'missing': the weights"
        " or the library are not installed, see 'How it was measured'. These metrics reward the"
        " usual wording; none of them says that a report is right.",
    )


def _difference_tables(outputs: list[WriterOutput], patients: Sequence[str]) -> list[Table]:
    """Differences of the writer from the baselines, with the same draws of patients."""
    if len(outputs) < 3:
        return []
    rows: list[list[Cell]] = []
    for name, scored in outputs[0].scores.items():
        if scored.values is None:
            continue
        cells = []
        for floor in outputs[1:]:
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
            f"{outputs[0].name}: what it adds",
            ["metric", *(f"less {floor.name}" for floor in outputs[1:])],
            rows,
            "Differences with 95 % intervals, both writers on the same drawn patients.",
        )
    ]


def _fault_table(problems: dict[str, dict[str, int]]) -> Table:
    return Table(
        "What came back",
        ["writer", "reports", "empty", "cut by the limit of tokens", "stopped otherwise"],
        [[name, *counts.values()] for name, counts in problems.items()],
    )


def _metric_table(output: WriterOutput) -> Table:
    return Table(
        "How it was measured",
        ["metric", "with"],
        [[name, scored.missing or scored.setting] for name, scored in output.scores.items()],
        "--sentence-model, --bertscore-model, --chexbert-model and --radgraph-model give the"
        " folders of models. Nothing is downloaded.",
    )


def _found_and_missed(texts: list[str], references: list[str]) -> dict[str, dict[str, int]]:
    """{finding: counts of "found", "missed" and "invented"} over all reports.

    An uncertain finding counts as present.
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
    test: EvalSet, output: WriterOutput, retrieved: list[Snippets], references: list[str]
) -> list[Example]:
    """Images at even steps from the best to the worst ROUGE-L."""
    scored = output.scores["ROUGE-L"].values
    order = np.argsort(np.zeros(len(test)) if scored is None else -scored, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(int))]
    names = np.array(finding_names())
    examples = []
    for row in rows.tolist():
        text = output.generations[row].text
        written, true = (
            np.isin(label_matrix([side])[0], (PRESENT, UNCERTAIN))
            for side in (text, references[row])
        )
        lines: list[str | tuple[str, str]] = [
            test.ids[row] if scored is None else f"{test.ids[row]}: ROUGE-L {scored[row]:.3f}",
            ("True", shorten(references[row], LONGEST_TEXT)),
            (f"Written by {output.name}", shorten(text, LONGEST_TEXT) or "(nothing)"),
            ("✓ found", _names(names[written & true])),
            ("✗ missed", _names(names[true & ~written])),
            ("! invented", _names(names[written & ~true])),
        ]
        lines += [
            (f"Retrieved {rank} ({score:.3f})", shorten(snippet, LONGEST_TEXT))
            for rank, (score, snippet) in enumerate(
                zip(retrieved[row].scores, retrieved[row].texts, strict=True), 1
            )
        ]
        examples.append(Example(test.thumbnail(row), lines))
    return examples


def _names(names: np.ndarray) -> str:
    return ", ".join(names.tolist()) or "none"


def _notes(
    test: EvalSet,
    args: argparse.Namespace,
    output: WriterOutput,
    problems: dict[str, dict[str, int]],
    duplicates: list[str],
    index: ReportIndex,
) -> list[str]:
    notes = [
        f"{counted(len(test), 'image')}; {index.facts['count']} distinct reports of"
        f" {index.facts['samples']} samples to retrieve from. No value of"
        f" {args.patient_column!r} and no image is on both sides."
    ]
    if duplicates:
        notes.append(
            f"{len(duplicates)} training reports have the words of a test report and "
            + (
                "are left out of the index."
                if args.same_text == "drop"
                else "stay in the index, as in the paper: retrieval can return the same text."
            )
        )
    else:
        notes.append("No training report has the words of a test report.")
    for reason, count in Counter(test.excluded.values()).items():
        notes.append(f"Left out: {count} x {reason}.")
    if output.name == "smollm2":
        notes.append(
            "SmolLM2-135M only shows that the pipeline works. It has no medical knowledge; its"
            " scores say nothing about retrieval-augmented reports."
        )
    counts = problems[output.name]
    if counts["empty"] or counts["runaway"]:
        notes.append(
            f"{output.name}: {counts['empty']} empty reports (each scores 0), {counts['runaway']}"
            f" reports cut at {args.max_new_tokens} tokens."
        )
    if index.facts["kind"] != "exact":
        notes.append(
            f"The {index.facts['kind']} index finds {index.facts['recall_at_10']:.3f} of the exact"
            " ten nearest reports."
        )
    if index.facts["pick"] == "medoids":
        notes.append(
            "Snippets are medoids of clusters of the 100 nearest reports, as in the authors' code,"
            " not the nearest reports, as in the paper."
        )
    notes.append("reports.jsonl holds every prompt, its retrieved reports and its answer.")
    return notes
