"""Reads Open-I's reports from its XML archive or folder, or from Kaggle's table."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...config import UserError
from ...data.tables.missing_text import is_missing
from ...xml_text import parse_xml
from ..plan import Plan
from ..tables import find_table, read_table
from .open_sets import read_at_most

LARGEST = 1 << 20  # bytes of one report; real ones have about 5 000
SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")


class Report(NamedTuple):
    """One report; its texts are stripped.

    `images` are the image ids of the XML; None for Kaggle's table, which has none.
    """

    uid: str
    problems: str  # heads of the curated MeSH terms, joined by ; with repeats
    findings: str
    impression: str
    images: tuple[str, ...] | None


def read_reports(plan: Plan, src: Path) -> list[Report]:
    """All reports, in the order of their numbers.

    Raises:
        UserError: there are no reports, a report is unreadable, or an id occurs twice.
    """
    names = ("NLMCXR_reports.tgz", "NLMCXR_reports.tar.gz", "NLMCXR_reports.tar")
    archives = [src / name for name in names if (src / name).is_file()]
    folder = src / "ecgen-radiology"
    if archives:
        plan.tables.append(archives[0])
        reports = [
            _parse(content, f"{archives[0]}, {name}") for name, content in _members(archives[0])
        ]
    elif folder.is_dir():
        paths = sorted(folder.glob("*.xml"))
        plan.tables.extend(paths)
        reports = [_parse(read_at_most(path, LARGEST), str(path)) for path in paths]
    else:
        reports = _kaggle(plan, src)
    if not reports:
        raise UserError(f"{src}: no reports in the archive, folder or table; expected some.")
    reports.sort(key=lambda report: int(report.uid))
    for report, following in zip(reports, reports[1:]):
        if report.uid == following.uid:
            raise UserError(f"{src}: report {report.uid} occurs twice; expected each once.")
    return reports


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the XML files of the archive.

    Nothing is written, so a name such as ../x is harmless.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".xml"):
                    if member.size > LARGEST:
                        raise UserError(
                            f"{archive}, {member.name}: {member.size} bytes; expected a report of"
                            f" at most {LARGEST}."
                        )
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular file has one
                    yield member.name, stream.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"{archive}: not a readable tar archive ({error}). Copy it again."
        ) from error


def _parse(content: bytes, where: str) -> Report:
    """One report of the XML. UserError: not plain XML, or no report."""
    root = parse_xml(content, where)
    uid = root.find("uId")
    match = re.fullmatch(r"CXR(\d+)", uid.get("id", "") if uid is not None else "")
    if match is None:
        raise UserError(f"{where}: no uId CXRnumber; expected an Open-I report (eCitation).")
    sections = {
        node.get("Label"): " ".join("".join(node.itertext()).split())
        for node in root.iter("AbstractText")
    }
    terms = [(node.text or "").strip() for node in root.iterfind("MeSH/major")]
    images = tuple(node.get("id", "") for node in root.iterfind("parentImage"))
    return Report(
        match[1], heads(terms), sections.get("FINDINGS", ""), sections.get("IMPRESSION", ""), images
    )


def heads(terms: list[str]) -> str:
    """The heads of terms, such as `Lung` of `Lung/hypoinflation`, joined by ;.

    Repeated heads are kept, as in Kaggle's column Problems.
    """
    return ";".join(term.partition("/")[0].strip() for term in terms)


def _kaggle(plan: Plan, src: Path) -> list[Report]:
    """The reports of indiana_reports.csv; a blank comparison or indication does not matter."""
    table = find_table(src, "indiana_reports.csv")
    frame = read_table(table, ["uid", "Problems", "findings", "impression"])
    plan.tables.append(table)
    for i, uid in enumerate(frame["uid"]):
        if not (uid.isascii() and uid.isdigit()):
            raise UserError(f"{table}, row {i + 1}, column 'uid': {uid!r}; expected a number.")
    cells = (
        frame[name].map(lambda cell: "" if is_missing(cell) else " ".join(cell.split()))
        for name in ("uid", "Problems", "findings", "impression")
    )
    return [
        Report(uid, problems, findings, impression, None)
        for uid, problems, findings, impression in zip(*cells)
    ]
