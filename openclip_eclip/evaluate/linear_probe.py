"""Task linear-probe: logistic regression on frozen image features, before and after the projection, by share of the labels."""
from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ..config import UserError
from ..metrics.auroc import auroc, auroc_of_rows
from ..metrics.bootstrap import bootstrap_interval
from ..metrics.probe import FALLS, MAX_ITERATIONS, STRENGTHS, Probe, fit_probe, nested_subsets, standardise
from ..subcommands import seed
from .features import encode_images, first_rank_only
from .options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from .probe_data import ProbeSet, add_data_arguments, gather, read_sets
from .probe_report import class_figure, class_table, curve_figure, curve_table, figure_captions
from .result import Result

BEFORE, AFTER = "before projection", "after projection"
DRAWS = 1000


@dataclass
class Cell:
    """One share of the labels, over its resamples. `aurocs` (resamples, K): NaN for a class that could not be measured."""

    percent: float
    images: list[int] = field(default_factory=list)
    aurocs: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    validation: list[dict[float, float]] = field(default_factory=list)
    unconverged: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # {class: resamples without a positive or a negative}

    @property
    def macro(self) -> np.ndarray:
        """Mean over the classes of each resample in which any was measured."""
        measured = [values[~np.isnan(values)] for values in self.aurocs]
        return np.array([values.mean() for values in measured if len(values)])


@dataclass
class Curve:
    """Of one kind of features: a cell a share, and at 100 % the scores and 95 % intervals (K + 1,), the macro mean last."""

    cells: list[Cell]
    scores: np.ndarray
    fitted: np.ndarray
    low: np.ndarray
    high: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.1, 1, 5, 10, 25, 50, 100], metavar="PERCENT",
                        help="shares of the training patients; 100 is always measured (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=5, help="nested series of subsets (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of splits, subsets and intervals (default: %(default)s)")
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    percents = sorted({*args.fractions, 100.0})
    if not all(0 < percent <= 100 for percent in percents):
        raise UserError(f"--fractions {args.fractions}: expected percentages above 0 and up to 100.")
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: expected at least 1.")
    sets = read_sets(args)
    gather(sets, args.classes, args.split_column, args.seed)  # errors before the long part
    options, encoder = read_encode_options(args), read_encoder(args)
    features: dict[str, list[np.ndarray | None]] = {BEFORE: [], AFTER: []}
    for name in sets:
        found, sets[name] = encode_images(encoder, sets[name], options)
        features[BEFORE].append(found.pooled)
        features[AFTER].append(found.unit)
    first_rank_only()
    data = gather(sets, args.classes, args.split_column, args.seed)
    known = {kind: np.concatenate(parts) for kind, parts in features.items() if parts[0] is not None}
    curves = {kind: measure(values, data, percents, args.resamples, args.seed) for kind, values in known.items()}
    excluded = {name: reason for found in sets.values() for name, reason in found.excluded.items()}
    settings = {**encoder.facts, "data": args.data or args.test_data, "train_data": args.train_data, "val_data": args.val_data,
                "split_column": args.split_column, "classes": data.classes, "fractions": percents, "resamples": args.resamples,
                "seed": args.seed, "C_tried": STRENGTHS, "C_stops_after_falls": FALLS, "max_iterations": MAX_ITERATIONS,
                "solver": "lbfgs", "penalty": "L2", "by_patient": data.by_patient,
                "ids_and_labels_sha256": {part: data.digest(part) for part in data.parts}}
    return assemble(curves, data, settings, excluded)


def measure(features: np.ndarray, data: ProbeSet, percents: list[float], resamples: int, seed: int) -> Curve:
    """Fit every share and resample; test labels are looked at after C is chosen. `features` (rows of data, D)."""
    train, valid, test = (data.parts[name] for name in ("train", "valid", "test"))
    features, labels = standardise(features, train), data.labels
    patients = [data.patients[row] for row in train]
    series = [nested_subsets(patients, percents, (seed, number)) for number in range(resamples)]
    cells = [Cell(percent) for percent in percents]
    last: Probe | None = None
    jobs = [(place, number) for place, percent in enumerate(percents) for number in range(1 if percent == 100 else resamples)]
    for place, number in tqdm(jobs, desc="probes", disable=None):
        rows = train[series[number][place]]
        last = fit_probe(features[rows], labels[rows], features[valid], labels[valid])
        cell = cells[place]
        cell.images.append(len(rows))
        if last is None:
            cell.left_out.update(data.classes)
            continue
        cell.aurocs.append(_aurocs(last, features[test], labels[test]))
        cell.strengths.append(last.strength)
        cell.validation.append(last.validation)
        cell.unconverged += last.unconverged
        cell.left_out.update(name for name, fitted in zip(data.classes, last.fitted, strict=True) if not fitted)
    if last is None or not len(cells[-1].macro):
        raise UserError(f"no class of {data.classes} has positives and negatives in all of train ({len(train)} images), "
                        f"validation ({len(valid)}) and test ({len(test)}); is there enough data, are the labels right?")
    scores = last.scores(features[test])
    low, high = _intervals(labels[test], scores, last.fitted, [data.patients[row] for row in test], seed)
    return Curve(cells, scores, last.fitted, low, high)


def _aurocs(probe: Probe, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,), NaN for a class that was not fitted or that the test set lacks."""
    found = np.full(len(probe.fitted), np.nan)
    found[probe.fitted] = auroc(labels[:, probe.fitted], probe.scores(features)[:, probe.fitted])
    return found


def _intervals(labels: np.ndarray, scores: np.ndarray, fitted: np.ndarray, patients: list[str],
               seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % over test patients, of each class and of their mean (K + 1,); NaN where there is no value."""
    measured = fitted & ~np.isnan(auroc(labels, np.zeros(labels.shape)))
    of_rows = auroc_of_rows(labels[:, measured], scores[:, measured])

    def with_macro(rows: np.ndarray) -> np.ndarray:
        values = of_rows(rows)
        return np.append(values, values[~np.isnan(values)].mean() if not np.isnan(values).all() else np.nan)

    bounds = np.full((2, len(fitted) + 1), np.nan)
    bounds[:, np.append(measured, True)] = bootstrap_interval(with_macro, len(labels), DRAWS, seed, groups=patients)
    return bounds[0], bounds[1]


def assemble(curves: dict[str, Curve], data: ProbeSet, settings: dict[str, Any], excluded: dict[str, str]) -> Result:
    """Tables, pictures and notes."""
    chosen = BEFORE if BEFORE in curves else AFTER
    fitted, test = curves[chosen].fitted, data.parts["test"]
    predictions = {"kind": np.array("binary"), "id": np.array([data.ids[row] for row in test]),
                   "label": data.labels[test][:, fitted],
                   "score": curves[chosen].scores[:, fitted], "classes": np.array(data.classes)[fitted]}
    if data.by_patient:
        predictions["patient"] = np.array([data.patients[row] for row in test])
    values = {kind: {"cells": [_cell_values(cell, data.classes) for cell in curve.cells],
                     "interval at 100 %": {name: [low, high] for name, low, high in
                                           zip([*data.classes, "macro"], curve.low, curve.high, strict=True)}}
              for kind, curve in curves.items()}
    return Result("linear-probe", {**settings, "predictions_of": chosen},
                  {"features": values, "images": {part: len(rows) for part, rows in data.parts.items()}, "excluded": excluded},
                  [curve_table(curves), class_table(curves, data)],
                  {"curve": curve_figure(curves), "classes": class_figure(curves, data)}, figure_captions(),
                  predictions=predictions, notes=_notes(curves, data, chosen, excluded, settings),
                  terms=["AUROC", "linear probe"])


def _cell_values(cell: Cell, classes: list[str]) -> dict[str, Any]:
    return {"percent": cell.percent, "images": cell.images, "macro_auroc": cell.macro, "C": cell.strengths,
            "validation": cell.validation,
            "auroc": {name: [values[k] for values in cell.aurocs] for k, name in enumerate(classes)},
            "left_out": dict(cell.left_out),
            "unconverged": cell.unconverged}


def _notes(curves: dict[str, Curve], data: ProbeSet, chosen: str, excluded: dict[str, str],
           settings: dict[str, Any]) -> list[str]:
    sizes = ", ".join(f"{part} {len(rows)}" for part, rows in data.parts.items())
    notes = [f"Images: {sizes}; "
             f"{'split and drawn by patient' if data.by_patient else 'no patients known: every image counts as one'}.",
             "Logistic regression (L2, lbfgs), one class against the rest. Features have mean 0 and deviation 1 over all "
             "training images. One C for all classes of a fit, the best macro AUROC on the whole validation set, also for "
             "small shares; its labels come on top of those counted.",
             f"predictions.npz holds the scores {chosen} at 100 %."]
    cells = [cell for curve in curves.values() for cell in curve.cells]
    chosen_c = [strength for cell in cells for strength in cell.strengths]
    low, high = chosen_c.count(STRENGTHS[0]), chosen_c.count(STRENGTHS[-1])
    if low + high:
        notes.append(f"Of {len(chosen_c)} fits {low} took the smallest C tried, {STRENGTHS[0]:g}, where the weights point along "
                     f"the difference of class means, and {high} the largest, {STRENGTHS[-1]:g}.")
    if sum(cell.unconverged for cell in cells):
        notes.append(f"{sum(cell.unconverged for cell in cells)} fits stopped after {MAX_ITERATIONS} iterations before they had "
                     "converged.")
    absent = [name for name, value in zip(data.classes, auroc(data.labels[data.parts["test"]], np.zeros((len(data.parts["test"]),
              len(data.classes)))), strict=True) if np.isnan(value)]
    if absent:
        notes.append(f"Not measured, the test set has no positive or no negative: {', '.join(absent)}.")
    if BEFORE not in curves:
        notes.append("This tower shows no features before its projection.")
    if excluded:
        notes.append(f"{len(excluded)} images left out, named in result.json.")
    return notes + [f"Intervals: 95 %, {DRAWS} draws of test {'patients' if data.by_patient else 'images'}."]
