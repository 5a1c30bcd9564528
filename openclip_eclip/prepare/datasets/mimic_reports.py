"""Makes captions from MIMIC-CXR's reports, by their sections and the official fall-backs.

The rules restate section_parser.py and create_section_files.py of the data set's authors (MIT-LCP).
Their list of about 55 manual offsets is not included; to use it, give their output with
--sectioned.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections import Counter
from collections.abc import Callable
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
SECTIONS = ("impression", "findings", "last_paragraph", "comparison")
# misspelt headers; `section_of` recognises the others by their words
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
# a header that describes the views comes before the findings
VIEWS = re.compile(
    "chest|portable|pa and lat|lateral and pa|ap and lateral|lateral and ap|frontal and|two"
    " views|frontal view|pa view|ap view|one view|lateral view|bone window|frontal upright|frontal"
    " semi-upright|ribs"
)
WORKERS = 16  # threads, which mostly wait for the disk


class Caption(NamedTuple):
    """The caption of one report; if `text` is empty, `missing` gives the reason."""

    text: str
    sections: str = ""  # the sections it consists of, joined by +
    missing: str = ""
    replaced: bool = False  # whether the file had bytes that are not UTF-8


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sections",
        choices=("findings", "impression", "both"),
        default="both",
        help=(
            "sections of the report that become the text; both: one of them is enough (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--fallback",
        choices=("official", "none"),
        default="official",
        help=(
            "what replaces a missing section; official: the first of impression, findings, last"
            " paragraph and comparison, as the data set's authors do; none: the image is left out"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--sectioned",
        type=Path,
        metavar="TABLE",
        help="reads mimic_cxr_sectioned.csv of the authors' script instead of the reports",
    )


def section_of(header: str) -> str:
    """The section that a header starts.

    It is impression, findings, history, comparison or addendum; else the header in lower case.
    """
    header = header.lower().strip()
    if header in BY_SPELLING:
        return BY_SPELLING[header]
    for name in ("impression", "findings", "history", "comparison", "addendum"):
        if name in header:
            return name
    return "findings" if VIEWS.search(header) else header


def split_sections(report: str) -> dict[str, str]:
    """{section: text} of the non-empty impression, findings, last_paragraph and comparison.

    If a section occurs several times, the last one counts. last_paragraph is the text after the
    first blank line of the last section; it exists only without impression and findings.
    """
    report = report.replace("\r\n", "\n")
    sections, match = [("preamble", report)], HEADER.search(report)
    while match:
        begin, name = match.end(), section_of(match[1])
        # as in the authors' code, the rest of a header's line holds no other header
        line_end = report.find("\n", begin)
        match = HEADER.search(report, begin if line_end < 0 else line_end)
        text = report[begin : match.start() if match else len(report)]
        if name not in ("impression", "findings") or text.strip():
            sections.append((name, text))
    names = {name for name, _ in sections}
    if not {"impression", "findings"} & names and PARAGRAPH in sections[-1][1]:
        name, text = sections.pop()
        first, rest = text.split(PARAGRAPH, 1)
        sections += [(name, first), ("last_paragraph", rest)]
    cleaned = [(name, clean(text)) for name, text in sections]
    return {name: text for name, text in cleaned if name in SECTIONS and text}


def clean(text: str) -> str:
    """The text in one line with single spaces, without the ruled lines around addenda."""
    return " ".join(RULE.sub(" ", text).split())


def choose(sections: dict[str, str], wanted: str, fallback: str) -> Caption:
    """The caption that --sections and --fallback choose."""
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
    """The caption of one report; bytes that are not UTF-8 become U+FFFD."""
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
    """{study: caption} from the authors' table, which writes studies with a leading s."""
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


def add_texts(
    plan: Plan,
    items: list[Item],
    root: Path,
    args: argparse.Namespace,
    path_of: Callable[[Path, str, str], Path] = report_path,
) -> list[Item]:
    """The items with the caption of their study as text.

    `path_of` gives the report of a root, a subject and a study.

    Items without a caption are left out and counted by reason.
    """
    studies = sorted({(item.patient, item.study) for item in items})
    if args.sectioned:
        table = read_sectioned(plan, args.sectioned, args)
        captions = {
            study: table.get(study, Caption("", missing="no report")) for _, study in studies
        }
    else:
        with ThreadPoolExecutor(WORKERS) as pool:
            results = pool.map(
                lambda ids: read_caption(path_of(root, *ids), args.sections, args.fallback),
                studies,
            )
            bar = tqdm(results, total=len(studies), desc="reports", unit="report", disable=None)
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
