"""MIMIC-CXR's free-text reports to captions: the official sections and their fall-backs.

Source of the rules: section_parser.py and create_section_files.py of the data set's authors
(MIT-LCP), re-stated here. Their list of about 55 hand-made offsets is not included: give their
output with --sectioned to have those, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ...data.tables.missing_text import is_missing
from ..plan import Item, Plan
from ..tables import read_table
from .mimic_files import report_path

HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")  # a new line, one space, capitals, a colon
# a full line of underscores ends an addendum; "___" hides a name
RULE = re.compile(r"^ *_{20,} *$", re.MULTILINE)
PARAGRAPH = "\n \n"
# the official order of preference
SECTIONS = (
    "impression",
    "findings",
    "last_paragraph",
    "comparison",
)
# Headers as they were typed; others go by the words in them, see `section_of`
SPELLINGS = {
    "impression": (
        "conclusion",
        "ndication",
        "impresson",
        "imprression",
        "imoression",
        "impressoin",
        "imprssion",
        "impresion",
        "imperssion",
        "mpression",
        "impession",
    ),
    "findings": (
        "finding",
        "findins",
        "findindgs",
        "findgings",
        "findngs",
        "findnings",
        "finidngs",
    ),
    "comparison": ("reference exam", "comparision", "comparsion", "comparrison", "comparisions"),
}
BY_SPELLING = {typed: section for section, spellings in SPELLINGS.items() for typed in spellings}
# a header that describes the pictures stands before what was seen on them
VIEWS = re.compile(
    "chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two"
    " views|frontal view|pa view|ap view|one view|lateral view|bone window|frontal upright|frontal"
    " semi-upright|ribs"
)
WORKERS = 16  # threads: they wait for the disk


class Caption(NamedTuple):
    """`text` is empty where `missing` says why."""

    text: str
    sections: str = ""  # the sections it was made of
    missing: str = ""
    replaced: bool = False  # the file had bytes that are no UTF-8


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sections",
        choices=("findings", "impression", "both"),
        default="both",
        help=(
            "of the report; with both, a report that has one of them gives that one (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--fallback",
        choices=("official", "none"),
        default="official",
        help=(
            "official: where the section is missing, the authors' order impression, findings, last"
            " paragraph, comparison; none: the image is left out (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--sectioned",
        type=Path,
        metavar="TABLE",
        help="mimic_cxr_sectioned.csv of the authors' script, instead of the reports themselves",
    )


def section_of(header: str) -> str:
    """The section a header begins: impression, findings, comparison, or the header itself in small
    letters.
    """
    header = header.lower().strip()
    if header in BY_SPELLING:
        return BY_SPELLING[header]
    for name in ("impression", "findings", "history", "comparison", "addendum"):
        if name in header:
            return name
    return "findings" if VIEWS.search(header) else header


def split_sections(report: str) -> dict[str, str]:
    """{section: text} of impression, findings, last_paragraph and comparison, those that have any;
    the last one of a name wins.

    last_paragraph, what follows the first blank line of the last section, is made only if there is
    neither of the first two.
    """
    report = report.replace("\r\n", "\n")
    found, match = [("preamble", report)], HEADER.search(report)
    while match:
        begin, name = match.end(), section_of(match[1])
        # as the authors do: the line of the header holds no other header
        line_end = report.find("\n", begin)
        match = HEADER.search(report, begin if line_end < 0 else line_end)
        text = report[begin : match.start() if match else len(report)]
        if name not in ("impression", "findings") or text.strip():
            found.append((name, text))
    if not {"impression", "findings"} & {name for name, _ in found} and PARAGRAPH in found[-1][1]:
        name, text = found.pop()
        first, rest = text.split(PARAGRAPH, 1)
        found += [(name, first), ("last_paragraph", rest)]
    return {
        name: text
        for name, text in ((name, clean(text)) for name, text in found)
        if name in SECTIONS and text
    }


def clean(text: str) -> str:
    """One line, single spaces, without the ruled lines around addenda."""
    return " ".join(RULE.sub(" ", text).split())


def choose(sections: dict[str, str], wanted: str, fallback: str) -> Caption:
    """The caption by --sections and --fallback."""
    names: list[str] = [
        name for name in ("findings", "impression") if name in sections and wanted in (name, "both")
    ]
    if not names and fallback == "official":
        names = [name for name in SECTIONS if name in sections][:1]
    if not names:
        return Caption(
            "", missing="report without the section" if sections else "report without any section"
        )
    return Caption(" ".join(sections[name] for name in names), "+".join(names))


def read_caption(path: Path, wanted: str, fallback: str) -> Caption:
    """One report's caption; a byte that is no UTF-8 becomes U+FFFD."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Caption("", missing="no report")
    report = content.decode("utf-8", errors="replace")
    if not report.strip():
        return Caption("", missing="empty report")
    try:
        content.decode("utf-8")
        replaced = False
    except UnicodeDecodeError:
        replaced = True
    return choose(split_sections(report), wanted, fallback)._replace(replaced=replaced)


def read_sectioned(plan: Plan, table: Path, args: argparse.Namespace) -> dict[str, Caption]:
    """{study: caption} from the authors' table, whose studies are written with an s."""
    plan.tables.append(table)
    frame = read_table(table, ["study", *SECTIONS])
    frame = frame.assign(
        **{name: frame[name].mask(frame[name].map(is_missing), "") for name in SECTIONS}
    )
    rows = zip(frame["study"], *(frame[name] for name in SECTIONS))
    return {
        study.removeprefix("s"): choose(
            {name: text for name, cell in zip(SECTIONS, cells) if (text := clean(cell))},
            args.sections,
            args.fallback,
        )
        for study, *cells in rows
    }


def add_texts(plan: Plan, items: list[Item], root: Path, args: argparse.Namespace) -> list[Item]:
    """The items with their study's caption as text; those without one are counted by reason, never
    written empty.
    """
    studies = sorted({(item.patient, item.study) for item in items})
    if args.sectioned:
        table = read_sectioned(plan, args.sectioned, args)
        captions = {
            study: table.get(study, Caption("", missing="no report")) for _, study in studies
        }
    else:
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(
                lambda ids: read_caption(report_path(root, *ids), args.sections, args.fallback),
                studies,
            )
            bar = tqdm(found, total=len(studies), desc="reports", unit="report", disable=None)
            captions = dict(zip((study for _, study in studies), bar))
    plan.facts["reports by section"] = dict(
        Counter(caption.sections for caption in captions.values() if caption.text)
    )
    plan.facts["reports with bytes that are no UTF-8"] = sum(
        caption.replaced for caption in captions.values()
    )
    kept = []
    for item in items:
        caption = captions[item.study]
        if caption.text:
            kept.append(dataclasses.replace(item, text=caption.text))
        else:
            plan.leave_out(caption.missing, item.key)
    return kept
