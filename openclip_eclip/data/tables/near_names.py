"""Columns that are nearly what was asked for, for messages about a misspelt name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What people call these columns; levelled as `_level` does
HEATMAPS = {
    "heatmap",
    "gaze",
    "mask",
    "attention",
    "saliency",
    "gazemap",
    "attentionmap",
    "saliencymap",
    "heat",
    "annotation",
    "expertmap",
    "fixation",
    "fixationmap",
    "eyegaze",
    "roi",
    "hm",
}
IMAGES = {
    "image",
    "img",
    "file",
    "filename",
    "path",
    "imagepath",
    "imagefile",
    "imgpath",
    "filepath",
}
CAPTIONS = {"caption", "title", "text", "report", "finding", "impression"}
WINDOWS = {"window", "sentencewindow", "sentence"}
ROLES = (HEATMAPS, IMAGES, CAPTIONS, WINDOWS)
CUTOFF = 0.75  # of difflib's ratio, for letters swapped or forgotten


def near_names(wanted: str, found: Iterable[str]) -> list[str]:
    """Those of `found` like `wanted` but for case, blanks, hyphens, plural or a slip; synonyms."""
    own = _level(wanted)
    role = next((role for role in ROLES if own in role), {own})
    names = [name for name in found if name != wanted and _level(name)]
    return [
        name
        for name in names
        if _level(name) in {own} | role
        or difflib.SequenceMatcher(None, own, _level(name)).ratio() >= CUTOFF
    ]


def did_you_mean(wanted: str, found: Iterable[str]) -> str:
    """A sentence with a blank before it, or "" where nothing is near."""
    found = list(found)
    if len(found) == 1 and wanted in re.split(r"[;|,\t]", found[0]):
        separator = next(mark for mark in ";|,\t" if mark in found[0])
        return f" The header looks separated by {separator!r}."
    names = near_names(wanted, found)
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def _level(name: str) -> str:
    """Small letters and digits alone, without the plural's s and words such as "path" behind."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    short = re.sub(r"(?<=.{4})(path|file|column|image)s?$", "", letters)
    return short.removesuffix("s") if len(short) > 3 else short
