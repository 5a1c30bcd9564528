"""Open-I, the Indiana University chest films (Demner-Fushman et al. 2016): reports with their
films, for evaluation first.

SRC holds NLMCXR_reports.tgz (or its folder ecgen-radiology), or Kaggle's indiana_reports.csv; the
films as PNG, JPEG or DICOM somewhere under SRC or --images. Neither form of the reports tells
frontal from lateral films: that takes Kaggle's indiana_projections.csv, or a table of one's own.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...subcommands import seed
from ..command import run_plan
from ..images import SUFFIXES
from ..options import add_shared_arguments
from ..plan import EvaluationSet, Item, Plan
from ..tables import read_table
from .open_i_reports import Report, read_reports

CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# of the authors' report generation, beside exactly "normal"
GROUPS = (
    "cardiomegaly",
    "opacity",
    "atelectasis",
    "lung",
)
TEST_SHARE = 0.15
RULES = {
    "openi-5": (
        "all chosen films of every report; a class is 1 where its name is in Problems, whatever the"
        " case; `fold` is the report's side of the report generation split"
    ),
    "openi-retrieval": (
        "all chosen films of reports with findings; the text is the findings, `text_id` the same"
        " for texts equal in lower case: a hit is any film's own text_id among the first k"
    ),
}
PLACE = re.compile(
    r"(?:CXR(?P<raw>\d+)_(?:(?P<again>\d+)_)?|(?P<kaggle>\d+)_)(?P<rest>IM-\d{4}-\d{4,8}(?:-\d{4})?)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--views",
        metavar="FILE|all",
        help=(
            "table with columns filename, projection (Frontal or Lateral); "
            "default: SRC/indiana_projections.csv. 'all' takes every film, lateral ones too"
        ),
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="where the films are (default: SRC)"
    )
    parser.add_argument(
        "--purpose",
        choices=("evaluation", "training"),
        default="evaluation",
        help=(
            "evaluation: all reports in openi-5 and openi-retrieval, and the report generation"
            " split; training: splits train and test by report, the evaluation sets of test reports"
            " alone (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--seed", type=seed, default=123, help="of the split by report (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    plan = Plan("open-i")
    reports = read_reports(plan, args.src)
    _facts(plan, reports)
    views = None if args.views == "all" else read_views(plan, args)
    films = _films(plan, args, reports, views)
    test = split_reports([report for report in reports if films.get(report.uid)], args.seed)
    chosen = [
        report
        for report in reports
        if films.get(report.uid) and (args.purpose == "evaluation" or report.uid in test)
    ]
    suffix = "" if views is not None else "-all-views"
    plan.evaluation[f"openi-5{suffix}"] = EvaluationSet(
        [
            _item(key, path, report, test, label_text(report), labels=True)
            for report in chosen
            for key, path in films[report.uid]
        ],
        list(CLASSES),
        RULES["openi-5"],
    )
    with_text = [report for report in chosen if report.findings]
    ids = {
        text: number
        for number, text in enumerate(
            dict.fromkeys(report.findings.lower() for report in with_text)
        )
    }
    plan.facts["distinct findings in openi-retrieval"] = len(ids)
    plan.evaluation[f"openi-retrieval{suffix}"] = EvaluationSet(
        [
            _item(key, path, report, test, report.findings, text_id=ids[report.findings.lower()])
            for report in with_text
            for key, path in films[report.uid]
        ],
        [],
        RULES["openi-retrieval"],
    )
    names = (
        {"train": "train", "test": "test"}
        if args.purpose == "training"
        else {"train": "report-train", "test": "report-test"}
    )
    plan.splits = {name: [] for name in names.values()}
    for report in reports:
        if report.uid in films and not report.findings:
            plan.leave_out(
                "report without findings, not in retrieval, report generation or training",
                f"CXR{report.uid}",
            )
            continue
        for key, path in films.get(report.uid, ()):
            plan.splits[names["test" if report.uid in test else "train"]].append(
                _item(key, path, report, test, report.findings)
            )
    return plan


def _item(
    key: str,
    path: Path,
    report: Report,
    test: set[str],
    text: str,
    labels: bool = False,
    text_id: int | None = None,
) -> Item:
    columns: dict = {
        "patient": report.uid,
        "fold": "test" if report.uid in test else "train",
        "problems": report.problems,
        "groups": "|".join(groups(report)),
        "impression": report.impression,
    }
    if labels:
        columns |= class_labels(report)
    if text_id is not None:
        columns["text_id"] = text_id
    return Item(key, path, text, columns=columns)


def class_labels(report: Report) -> dict[str, int]:
    """1 where the class's name is part of Problems, as in Pulmonary Atelectasis."""
    return {name: int(name.lower() in report.problems.lower()) for name in CLASSES}


def label_text(report: Report) -> str:
    found = [name.lower() for name, value in class_labels(report).items() if value]
    return (
        f"Findings: {', '.join(found)}."
        if found
        else f"Findings: none of {', '.join(CLASSES).lower()}."
    )


def groups(report: Report) -> list[str]:
    """The authors' groups of Problems; a report can be in several, or in none."""
    problems = report.problems.lower()
    return (["normal"] if problems == "normal" else []) + [
        name for name in GROUPS if name in problems
    ]


def split_reports(reports: Sequence[Report], seed: int) -> set[str]:
    """Ids of the test reports: 15 % of each set of groups, so that no report is on both sides.

    The authors took 15 % of each group and joined them: groups overlap, and their train and test
    sides share films.
    """
    rng, test = np.random.default_rng(seed), set()
    strata: dict[tuple, list[str]] = {}
    for report in sorted(reports, key=lambda report: int(report.uid)):
        strata.setdefault((bool(report.findings), *groups(report)), []).append(report.uid)
    for stratum in sorted(strata):
        uids = strata[stratum]
        test |= {uids[i] for i in rng.permutation(len(uids))[: round(TEST_SHARE * len(uids))]}
    return test


def film_key(name: str, where: str) -> tuple[str, str]:
    """(key, report) of `CXR1_1_IM-0001-3001`, `CXR2_IM-0652-1001.png`, `1_IM-0001-3001.dcm.png`:
    `1_IM-0001-3001`, `1`.
    """
    match = PLACE.fullmatch(name.partition(".")[0])
    if match is None or match["again"] not in (None, match["raw"]):
        raise UserError(
            f"{where}: {name!r}; expected a film such as CXR2_IM-0652-1001.png or"
            " 2_IM-0652-1001.dcm.png."
        )
    uid = match["raw"] or match["kaggle"]
    return f"{uid}_{match['rest']}", uid


def read_views(plan: Plan, args: argparse.Namespace) -> dict[str, str]:
    """{film: Frontal or Lateral} of the projections table; UserError without one, for another word,
    for a film twice.
    """
    path = Path(args.views) if args.views else args.src / "indiana_projections.csv"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected a table with columns filename, projection. The reports"
            " do not tell frontal from lateral films and names do not either: give Kaggle's"
            " indiana_projections.csv or your own with --views FILE, or take all films with"
            " --views all."
        )
    frame = read_table(path, ["filename", "projection"])
    plan.tables.append(path)
    views: dict[str, str] = {}
    for i, (name, view) in enumerate(zip(frame["filename"], frame["projection"])):
        key, _ = film_key(name.strip(), f"{path}, row {i + 1}, column 'filename'")
        if view not in ("Frontal", "Lateral"):
            raise UserError(
                f"{path}, row {i + 1}, column 'projection': {view!r}; expected Frontal or Lateral."
            )
        if key in views:
            raise UserError(
                f"{path}, row {i + 1}, column 'filename': {name!r} stands there twice; expected"
                " each film once."
            )
        views[key] = view
    return views


def _films(
    plan: Plan, args: argparse.Namespace, reports: Sequence[Report], views: dict[str, str] | None
) -> dict[str, list[tuple[str, Path]]]:
    """{report: its chosen films as (key, file)}; Kaggle's reports name no films, there the
    projections do.
    """
    named = {
        report.uid: [film_key(name, f"report {report.uid}")[0] for name in report.films or ()]
        for report in reports
    }
    of_projections: dict[str, list[str]] = {}
    for key in views or ():
        of_projections.setdefault(key.partition("_")[0], []).append(key)
    files = _list_films(args.images or args.src)
    if views is None:
        for key in sorted(files):
            of_projections.setdefault(key.partition("_")[0], []).append(key)
    films: dict[str, list[tuple[str, Path]]] = {}
    for report in reports:
        keys = of_projections.get(report.uid, []) if report.films is None else named[report.uid]
        if not keys:
            plan.leave_out("report without a film", f"CXR{report.uid}")
        for key in keys:
            view = "Frontal" if views is None else views.get(key)
            if view == "Frontal":
                films.setdefault(report.uid, []).append(
                    (key, files.get(key, (args.images or args.src) / f"{key}.dcm.png"))
                )
            else:
                plan.leave_out("lateral film" if view else "film without a view", key)
    known = {key for keys in named.values() for key in keys}
    uids = {report.uid for report in reports}
    for key in views or ():
        if key.partition("_")[0] not in uids:
            plan.leave_out("view of a film without a report", key)
        elif known and key not in known:
            plan.leave_out("view of a film that its report does not name", key)
    plan.facts["films by view"] = (
        dict(Counter(views.values())) if views is not None else "not asked for (--views all)"
    )
    return films


def _list_films(folder: Path) -> dict[str, Path]:
    """{key: file} of everything named like a film under `folder`."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the films, or --images FOLDER.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*IM-*")):
        if path.suffix.lower() in SUFFIXES and PLACE.fullmatch(path.name.partition(".")[0]):
            found.setdefault(film_key(path.name, str(path))[0], path)
    return found


def _facts(plan: Plan, reports: Sequence[Report]) -> None:
    """What --dry-run prints of the reports, whatever the views; with --views all these are the
    sets.
    """
    film = [report for report in reports if report.films is None or report.films]
    both = [report for report in film if report.findings]
    plan.facts |= {
        "reports": len(reports),
        "reports with findings": sum(bool(report.findings) for report in reports),
        "reports with impression": sum(bool(report.impression) for report in reports),
        "reports with neither": sum(
            not (report.findings or report.impression) for report in reports
        ),
        "reports with a film": len(film),
        "reports with a film and findings": len(both),
        "distinct findings of those": len({report.findings.lower() for report in both}),
        "films": sum(len(report.films or ()) for report in reports),
        "openi-5 (reports with a film)": {
            name: sum(class_labels(report)[name] for report in film) for name in CLASSES
        },
        "openi-5 (with findings)": {
            name: sum(class_labels(report)[name] for report in both) for name in CLASSES
        },
        "groups (with findings)": dict(Counter(name for report in both for name in groups(report))),
        "in several groups": sum(len(groups(report)) > 1 for report in both),
        "in none": sum(not groups(report) for report in both),
    }
