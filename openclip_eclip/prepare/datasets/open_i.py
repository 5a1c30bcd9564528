"""Open-I, the Indiana University chest X-rays (Demner-Fushman et al. 2016), mainly for evaluation.

SRC holds the reports: NLMCXR_reports.tgz (or its folder ecgen-radiology), or Kaggle's
indiana_reports.csv. The images are PNG, JPEG or DICOM files anywhere under SRC or --images. The
reports do not say which images are frontal and which are lateral. Kaggle's indiana_projections.csv,
or a table of your own, does.
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
# groups of the eCLIP authors' report generation, besides exactly "normal"
GROUPS = ("cardiomegaly", "opacity", "atelectasis", "lung")
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
IMAGE_NAME = re.compile(
    r"(?:CXR(?P<raw>\d+)_(?:(?P<again>\d+)_)?|(?P<kaggle>\d+)_)(?P<rest>IM-\d{4}-\d{4,8}(?:-\d{4})?)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "--views",
        metavar="FILE|all",
        help=(
            "table with columns filename, projection (Frontal or Lateral); only frontal images are"
            " used. 'all' uses every image, also lateral ones (default:"
            " SRC/indiana_projections.csv)"
        ),
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="folder of the images (default: SRC)"
    )
    parser.add_argument(
        "--purpose",
        choices=("evaluation", "training"),
        default="evaluation",
        help=(
            "what the output is for; evaluation: all reports are in openi-5 and openi-retrieval,"
            " plus the splits of report generation; training: splits train and test by report, and"
            " evaluation sets of test reports only (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=123,
        help="random seed of the split by report (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> str:
    return run_plan(args, make_plan)


def make_plan(args: argparse.Namespace) -> Plan:
    """The evaluation sets openi-5 and openi-retrieval, and the splits of --purpose."""
    plan = Plan("open-i")
    reports = read_reports(plan, args.src)
    _facts(plan, reports)
    views = None if args.views == "all" else read_views(plan, args)
    images = _images_of_reports(plan, args, reports, views)
    with_image = [report for report in reports if images.get(report.uid)]
    test = split_reports(with_image, args.seed)
    chosen = [report for report in with_image if args.purpose == "evaluation" or report.uid in test]
    suffix = "" if views is not None else "-all-views"
    plan.evaluation[f"openi-5{suffix}"] = EvaluationSet(
        [
            _item(key, path, report, test, label_text(report), labels=True)
            for report in chosen
            for key, path in images[report.uid]
        ],
        list(CLASSES),
        RULES["openi-5"],
    )
    with_text = [report for report in chosen if report.findings]
    # {findings in lower case: text_id}, numbered in order of first occurrence
    texts = dict.fromkeys(report.findings.lower() for report in with_text)
    ids = {text: number for number, text in enumerate(texts)}
    plan.facts["distinct findings in openi-retrieval"] = len(ids)
    plan.evaluation[f"openi-retrieval{suffix}"] = EvaluationSet(
        [
            _item(key, path, report, test, report.findings, text_id=ids[report.findings.lower()])
            for report in with_text
            for key, path in images[report.uid]
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
        if report.uid in images and not report.findings:
            plan.leave_out(
                "report without findings, not in retrieval, report generation or training",
                f"CXR{report.uid}",
            )
            continue
        for key, path in images.get(report.uid, ()):
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
    """{class: 1 if its name is part of Problems, as in Pulmonary Atelectasis, else 0}."""
    return {name: int(name.lower() in report.problems.lower()) for name in CLASSES}


def label_text(report: Report) -> str:
    """A sentence that names the classes of a report."""
    names = [name.lower() for name, value in class_labels(report).items() if value]
    if names:
        return f"Findings: {', '.join(names)}."
    return f"Findings: none of {', '.join(CLASSES).lower()}."


def groups(report: Report) -> list[str]:
    """The authors' groups by the column Problems; a report can be in several or in none."""
    problems = report.problems.lower()
    return (["normal"] if problems == "normal" else []) + [
        name for name in GROUPS if name in problems
    ]


def split_reports(reports: Sequence[Report], seed: int) -> set[str]:
    """Ids of the test reports: 15 % of each combination of groups.

    No report is in both splits. The authors took 15 % of each group and joined them; because groups
    overlap, their training and test splits share images.
    """
    rng, test = np.random.default_rng(seed), set()
    strata: dict[tuple, list[str]] = {}
    for report in sorted(reports, key=lambda report: int(report.uid)):
        strata.setdefault((bool(report.findings), *groups(report)), []).append(report.uid)
    for stratum in sorted(strata):
        uids = strata[stratum]
        test |= {uids[i] for i in rng.permutation(len(uids))[: round(TEST_SHARE * len(uids))]}
    return test


def image_key(name: str, where: str) -> tuple[str, str]:
    """(key, report) of an image name in the XML or Kaggle's form.

    `CXR1_1_IM-0001-3001` and `1_IM-0001-3001.dcm.png` give (`1_IM-0001-3001`, `1`).

    Raises:
        UserError: the name has another form; the message begins with `where`.
    """
    match = IMAGE_NAME.fullmatch(name.partition(".")[0])
    if match is None or match["again"] not in (None, match["raw"]):
        raise UserError(
            f"{where}: {name!r}; expected an image name such as CXR2_IM-0652-1001.png or"
            " 2_IM-0652-1001.dcm.png."
        )
    uid = match["raw"] or match["kaggle"]
    return f"{uid}_{match['rest']}", uid


def read_views(plan: Plan, args: argparse.Namespace) -> dict[str, str]:
    """{image key: Frontal or Lateral} of the projections table.

    Raises:
        UserError: there is no table, a projection is another word, or an image occurs twice.
    """
    path = Path(args.views) if args.views else args.src / "indiana_projections.csv"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected a table with columns filename, projection. Neither"
            " reports nor file names tell frontal from lateral images: give Kaggle's"
            " indiana_projections.csv or your own table with --views FILE, or use all images with"
            " --views all."
        )
    frame = read_table(path, ["filename", "projection"])
    plan.tables.append(path)
    views: dict[str, str] = {}
    for i, (name, view) in enumerate(zip(frame["filename"], frame["projection"])):
        key, _ = image_key(name.strip(), f"{path}, row {i + 1}, column 'filename'")
        if view not in ("Frontal", "Lateral"):
            raise UserError(
                f"{path}, row {i + 1}, column 'projection': {view!r}; expected Frontal or Lateral."
            )
        if key in views:
            raise UserError(
                f"{path}, row {i + 1}, column 'filename': {name!r} occurs twice; expected each"
                " image once."
            )
        views[key] = view
    return views


def _images_of_reports(
    plan: Plan, args: argparse.Namespace, reports: Sequence[Report], views: dict[str, str] | None
) -> dict[str, list[tuple[str, Path]]]:
    """{report: its chosen images as (key, file)}.

    XML reports name their images. Kaggle's reports do not; there the projections table names them.
    """
    named = {
        report.uid: [image_key(name, f"report {report.uid}")[0] for name in report.images or ()]
        for report in reports
    }
    # {report: image keys}, for reports that name no images
    of_projections: dict[str, list[str]] = {}
    for key in views or ():
        of_projections.setdefault(key.partition("_")[0], []).append(key)
    files = _list_images(args.images or args.src)
    if views is None:
        for key in sorted(files):
            of_projections.setdefault(key.partition("_")[0], []).append(key)
    images: dict[str, list[tuple[str, Path]]] = {}
    for report in reports:
        keys = of_projections.get(report.uid, []) if report.images is None else named[report.uid]
        if not keys:
            plan.leave_out("report without a film", f"CXR{report.uid}")
        for key in keys:
            view = "Frontal" if views is None else views.get(key)
            if view == "Frontal":
                images.setdefault(report.uid, []).append(
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
    return images


def _list_images(folder: Path) -> dict[str, Path]:
    """{key: file} of all files under `folder` that are named like an image of Open-I."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected the folder of the images, or --images FOLDER."
        )
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*IM-*")):
        if path.suffix.lower() in SUFFIXES and IMAGE_NAME.fullmatch(path.name.partition(".")[0]):
            images.setdefault(image_key(path.name, str(path))[0], path)
    return images


def _facts(plan: Plan, reports: Sequence[Report]) -> None:
    """Adds the facts of the reports that --dry-run prints.

    They do not depend on the views; with --views all they describe the evaluation sets.
    """
    with_image = [report for report in reports if report.images is None or report.images]
    with_both = [report for report in with_image if report.findings]
    plan.facts |= {
        "reports": len(reports),
        "reports with findings": sum(bool(report.findings) for report in reports),
        "reports with impression": sum(bool(report.impression) for report in reports),
        "reports with neither": sum(
            not (report.findings or report.impression) for report in reports
        ),
        "reports with a film": len(with_image),
        "reports with a film and findings": len(with_both),
        "distinct findings of those": len({report.findings.lower() for report in with_both}),
        "films": sum(len(report.images or ()) for report in reports),
        "openi-5 (reports with a film)": {
            name: sum(class_labels(report)[name] for report in with_image) for name in CLASSES
        },
        "openi-5 (with findings)": {
            name: sum(class_labels(report)[name] for report in with_both) for name in CLASSES
        },
        "groups (with findings)": dict(
            Counter(name for report in with_both for name in groups(report))
        ),
        "in several groups": sum(len(groups(report)) > 1 for report in with_both),
        "in none": sum(not groups(report) for report in with_both),
    }
