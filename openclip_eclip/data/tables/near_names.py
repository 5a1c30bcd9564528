"""Find columns of a similar name, for messages about a misspelt one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

# Common names of these columns, simplified as `_simplify` does
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
CUTOFF = 0.75  # of difflib's ratio, for swapped or missing letters


def near_names(wanted: str, header: Iterable[str]) -> list[str]:
    """Names in `header` that are similar to `wanted`, or synonyms of it.

    Similar means: but for case, blanks, hyphens, the plural, or a misspelling.
    """
    simple = _simplify(wanted)
    role = next((role for role in ROLES if simple in role), {simple})
    names = [name for name in header if name != wanted and _simplify(name)]
    return [
        name
        for name in names
        if _simplify(name) in {simple} | role
        or difflib.SequenceMatcher(None, simple, _simplify(name)).ratio() >= CUTOFF
    ]


def other_separator(header: Sequence[str]) -> str | None:
    """The separator that a header seems to have, if it was read as one column."""
    marks = [mark for mark in ";|,\t" if len(header) == 1 and mark in header[0]]
    return marks[0] if marks else None


def did_you_mean(wanted: str, header: Iterable[str]) -> str:
    """A hint that begins with a blank, or "" if no name is similar."""
    header = list(header)
    if mark := other_separator(header):
        seems = f"The separator of the header seems to be {mark!r}"
        return f" {seems}: save the table with commas or tabs."
    names = near_names(wanted, header)
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def _simplify(name: str) -> str:
    """Lower-case letters and digits only, without a plural s or an ending such as "path"."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    short = re.sub(r"(?<=.{4})(path|file|column|image)s?$", "", letters)
    return short.removesuffix("s") if len(short) > 3 else short
