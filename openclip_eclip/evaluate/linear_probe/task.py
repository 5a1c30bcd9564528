"""Task linear-probe: logistic regression on frozen image features, before and after the projection,
by share of the labels.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...config import UserError
from ...metrics.auroc import auroc
from ...metrics.probe import FALLS, MAX_ITERATIONS, STRENGTHS
from ...subcommands import seed
from ..inputs.features import encode_images, first_rank_only
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result
from .data import ProbeSet, add_data_arguments, gather, read_sets
from .learning_curve import DRAWS, Cell, Curve, measure
from .tables import class_figure, class_table, curve_figure, curve_table, figure_captions

BEFORE, AFTER = "before projection", "after projection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.1, 1, 5, 10, 25, 50, 100],
        metavar="PERCENT",
        help="shares of the training patients; 100 is always measured (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples", type=int, default=5, help="nested series of subsets (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="of splits, subsets and intervals (default: %(default)s)",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    percents = sorted({*args.fractions, 100.0})
    if not all(0 < percent <= 100 for percent in percents):
        raise UserError(
            f"--fractions {args.fractions}: expected percentages above 0 and up to 100."
        )
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: expected at least 1.")
    sets = read_sets(args)
    gather(sets, args.classes, args.split_column, args.seed)  # errors before the long part
    options, encoder = read_encode_options(args), read_encoder(args)
    features: dict[str, list[np.ndarray]] = {BEFORE: [], AFTER: []}
    for name in sets:
        found, sets[name] = encode_images(encoder, sets[name], options)
        if found.pooled is not None:
            features[BEFORE].append(found.pooled)
        features[AFTER].append(found.unit)
    first_rank_only()
    data = gather(sets, args.classes, args.split_column, args.seed)
    known = {kind: np.concatenate(parts) for kind, parts in features.items() if parts}
    curves = {
        kind: measure(values, data, percents, args.resamples, args.seed)
        for kind, values in known.items()
    }
    excluded = {name: reason for found in sets.values() for name, reason in found.excluded.items()}
    settings = {
        **encoder.facts,
        "data": args.data or args.test_data,
        "train_data": args.train_data,
        "val_data": args.val_data,
        "split_column": args.split_column,
        "classes": data.classes,
        "fractions": percents,
        "resamples": args.resamples,
        "seed": args.seed,
        "C_tried": STRENGTHS,
        "C_stops_after_falls": FALLS,
        "max_iterations": MAX_ITERATIONS,
        "solver": "lbfgs",
        "penalty": "L2",
        "by_patient": data.by_patient,
        "ids_and_labels_sha256": {part: data.digest(part) for part in data.parts},
    }
    return assemble(curves, data, settings, excluded)


def assemble(
    curves: dict[str, Curve], data: ProbeSet, settings: dict[str, Any], excluded: dict[str, str]
) -> Result:
    """Tables, pictures and notes."""
    chosen = BEFORE if BEFORE in curves else AFTER
    fitted, test = curves[chosen].fitted, data.parts["test"]
    predictions = {
        "kind": np.array("binary"),
        "id": np.array([data.ids[row] for row in test]),
        "label": data.labels[test][:, fitted],
        "score": curves[chosen].scores[:, fitted],
        "classes": np.array(data.classes)[fitted],
    }
    if data.by_patient:
        predictions["patient"] = np.array([data.patients[row] for row in test])
    values = {
        kind: {
            "cells": [_cell_values(cell, data.classes) for cell in curve.cells],
            "interval at 100 %": {
                name: [low, high]
                for name, low, high in zip(
                    [*data.classes, "macro"], curve.low, curve.high, strict=True
                )
            },
        }
        for kind, curve in curves.items()
    }
    return Result(
        "linear-probe",
        {**settings, "predictions_of": chosen},
        {
            "features": values,
            "images": {part: len(rows) for part, rows in data.parts.items()},
            "excluded": excluded,
        },
        [curve_table(curves), class_table(curves, data)],
        {"curve": curve_figure(curves), "classes": class_figure(curves, data)},
        figure_captions(),
        predictions=predictions,
        notes=_notes(curves, data, chosen, excluded, settings),
        terms=["AUROC", "linear probe"],
    )


def _cell_values(cell: Cell, classes: list[str]) -> dict[str, Any]:
    return {
        "percent": cell.percent,
        "images": cell.images,
        "macro_auroc": cell.macro,
        "C": cell.strengths,
        "validation": cell.validation,
        "auroc": {name: [values[k] for values in cell.aurocs] for k, name in enumerate(classes)},
        "left_out": dict(cell.left_out),
        "unconverged": cell.unconverged,
    }


def _notes(
    curves: dict[str, Curve],
    data: ProbeSet,
    chosen: str,
    excluded: dict[str, str],
    settings: dict[str, Any],
) -> list[str]:
    sizes = ", ".join(f"{part} {len(rows)}" for part, rows in data.parts.items())
    by_patient = "split and drawn by patient"
    unknown = "no patients known: every image counts as one"
    notes = [
        f"Images: {sizes}; {by_patient if data.by_patient else unknown}.",
        (
            "Logistic regression (L2, lbfgs), one class against the rest. Features have mean 0 and"
            " deviation 1 over all training images. One C for all classes of a fit, the best macro"
            " AUROC on the whole validation set, also for small shares; its labels come on top of"
            " those counted."
        ),
        f"predictions.npz holds the scores {chosen} at 100 %.",
    ]
    cells = [cell for curve in curves.values() for cell in curve.cells]
    chosen_c = [strength for cell in cells for strength in cell.strengths]
    low, high = chosen_c.count(STRENGTHS[0]), chosen_c.count(STRENGTHS[-1])
    if low + high:
        notes.append(
            f"Of {len(chosen_c)} fits {low} took the smallest C tried, {STRENGTHS[0]:g}, where the"
            f" weights point along the difference of class means, and {high} the largest,"
            f" {STRENGTHS[-1]:g}."
        )
    if sum(cell.unconverged for cell in cells):
        notes.append(
            f"{sum(cell.unconverged for cell in cells)} fits stopped after {MAX_ITERATIONS}"
            " iterations before they had converged."
        )
    absent = [
        name
        for name, value in zip(
            data.classes,
            auroc(
                data.labels[data.parts["test"]],
                np.zeros((len(data.parts["test"]), len(data.classes))),
            ),
            strict=True,
        )
        if np.isnan(value)
    ]
    if absent:
        notes.append(
            f"Not measured, the test set has no positive or no negative: {', '.join(absent)}."
        )
    if BEFORE not in curves:
        notes.append("This tower shows no features before its projection.")
    if excluded:
        notes.append(f"{len(excluded)} images left out, named in result.json.")
    return notes + [
        f"Intervals: 95 %, {DRAWS} draws of test {'patients' if data.by_patient else 'images'}."
    ]
