"""Task linear-probe: logistic regression on frozen image features, by share of the labels.

Features before and after the projection are measured.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...config import UserError
from ...json_text import counted
from ...metrics.auroc import auroc
from ...metrics.probe import FALLS, MAX_ITERATIONS, STRENGTHS
from ...subcommands import seed
from ..inputs.features import encode_images, first_rank_only
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result
from .data import ProbeSet, add_data_arguments, gather, read_sets
from .learning_curve import DRAWS, Curve, CurvePoint, measure
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
        help=(
            "shares of the training patients in percent; 100 is always measured (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=5,
        help="number of nested series of subsets (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of splits, subsets and intervals (default: %(default)s)",
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
    # reports errors of the data before the long encoding
    gather(sets, args.classes, args.split_column, args.seed)
    options, encoder = read_encode_options(args), read_encoder(args)
    features: dict[str, list[np.ndarray]] = {BEFORE: [], AFTER: []}
    for name in sets:
        image_features, sets[name] = encode_images(encoder, sets[name], options)
        if image_features.pooled is not None:
            features[BEFORE].append(image_features.pooled)
        features[AFTER].append(image_features.unit)
    first_rank_only()
    data = gather(sets, args.classes, args.split_column, args.seed)
    known = {kind: np.concatenate(parts) for kind, parts in features.items() if parts}
    curves = {
        kind: measure(values, data, percents, args.resamples, args.seed)
        for kind, values in known.items()
    }
    excluded = {
        name: reason
        for image_features in sets.values()
        for name, reason in image_features.excluded.items()
    }
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
    """The result: values, tables, figures, predictions and notes."""
    predicted = BEFORE if BEFORE in curves else AFTER
    fitted, test = curves[predicted].fitted, data.parts["test"]
    predictions = {
        "kind": np.array("binary"),
        "id": np.array([data.ids[row] for row in test]),
        "label": data.labels[test][:, fitted],
        "score": curves[predicted].scores[:, fitted],
        "classes": np.array(data.classes)[fitted],
    }
    if data.by_patient:
        predictions["patient"] = np.array([data.patients[row] for row in test])
    values = {
        kind: {
            "cells": [_point_values(point, data.classes) for point in curve.points],
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
        {**settings, "predictions_of": predicted},
        {
            "features": values,
            "images": {part: len(rows) for part, rows in data.parts.items()},
            "excluded": excluded,
        },
        [curve_table(curves), class_table(curves, data)],
        {"curve": curve_figure(curves), "classes": class_figure(curves, data)},
        figure_captions(),
        predictions=predictions,
        notes=_notes(curves, data, predicted, excluded, settings),
        terms=["AUROC", "linear probe"],
    )


def _point_values(point: CurvePoint, classes: list[str]) -> dict[str, Any]:
    return {
        "percent": point.percent,
        "images": point.images,
        "macro_auroc": point.macro,
        "C": point.strengths,
        "validation": point.validation,
        "auroc": {name: [values[k] for values in point.aurocs] for k, name in enumerate(classes)},
        "left_out": dict(point.left_out),
        "unconverged": point.unconverged,
    }


def _notes(
    curves: dict[str, Curve],
    data: ProbeSet,
    predicted: str,
    excluded: dict[str, str],
    settings: dict[str, Any],
) -> list[str]:
    sizes = ", ".join(f"{part} {len(rows)}" for part, rows in data.parts.items())
    by_patient = "split and drawn by patient"
    unknown = "no patients known: every image counts as a patient"
    notes = [
        f"Images: {sizes}; {by_patient if data.by_patient else unknown}.",
        (
            "Logistic regression (L2, lbfgs), one class against the rest. Features have mean 0 and"
            " standard deviation 1 over all training images. All classes of a fit have one C, that"
            " of the best macro AUROC on the whole validation set, also for small shares. The"
            " validation labels are not counted in the shares."
        ),
        f"predictions.npz holds the scores {predicted} at 100 %.",
    ]
    points = [point for curve in curves.values() for point in curve.points]
    chosen_c = [strength for point in points for strength in point.strengths]
    low, high = chosen_c.count(STRENGTHS[0]), chosen_c.count(STRENGTHS[-1])
    if low + high:
        notes.append(
            f"Of {len(chosen_c)} fits {low} took the smallest C tried, {STRENGTHS[0]:g}, where the"
            f" weights point along the difference of class means, and {high} the largest,"
            f" {STRENGTHS[-1]:g}."
        )
    if sum(point.unconverged for point in points):
        notes.append(
            f"{sum(point.unconverged for point in points)} fits stopped after {MAX_ITERATIONS}"
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
            "Classes not measured, because the test set has no positive or no negative:"
            f" {', '.join(absent)}."
        )
    if BEFORE not in curves:
        notes.append("This image tower does not give features before its projection.")
    if excluded:
        notes.append(f"{counted(len(excluded), 'image')} left out, named in result.json.")
    return notes + [
        f"Intervals: 95 %, {DRAWS} draws of test {'patients' if data.by_patient else 'images'}."
    ]
