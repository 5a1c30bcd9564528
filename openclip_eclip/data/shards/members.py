"""The members of a sample that are read from a shard, and the faults of other members."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ..heatmap import SUFFIXES
from ..sentence_windows import MAPS_MEMBER, TEXT_MEMBER

IMAGE_MEMBERS = ("jpg", "png", "jpeg", "webp")  # open_clip's, in its order
HEATMAP_MEMBERS = tuple(f"heatmap{suffix}" for suffix in SUFFIXES)
WINDOW_MEMBERS = (TEXT_MEMBER, MAPS_MEMBER)
READ_MEMBERS = frozenset((*IMAGE_MEMBERS, "txt", *HEATMAP_MEMBERS, *WINDOW_MEMBERS))
FIELDS_MEMBER = "json"  # named fields of a sample, read where a flag names one
OTHER_IMAGES = ("tif", "tiff", "bmp", "gif", "jp2", "dcm", "dicom", "jfif", "jpe", "ppm", "pgm")
OTHER_CAPTIONS = ("text", "caption", "captions", "cap")
HEATMAP_LIKE = re.compile(
    r"(^|\.)(heat_?-?maps?|heat|gaze|masks?|saliency|attention|fixations?)($|[._\-\d])"
)
WINDOWS_LIKE = re.compile(r"(^|\.)windows?($|[._\-\d])")
SHOWN = 10  # maximum number of members in a message

Fault = tuple[str, str]  # (member, message)


def find_member(members: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that a sample has, or None."""
    return next((name for name in names if name in members), None)


def list_members(members: Collection[str]) -> str:
    """The first ten names, and the number of further ones."""
    shown = sorted(members)[:SHOWN]
    return ", ".join(shown) + (f" and {len(members) - SHOWN} more" if len(members) > SHOWN else "")


def member_faults(members: Collection[str], heatmaps: bool, windows: bool) -> list[Fault]:
    """The faults that show in the names of a sample's members.

    Examples are two images, or a heatmap in a format that is not read. Members of heatmaps and of
    sentence windows are checked only with `heatmaps` and `windows`.
    """
    faults = _image_and_caption(members)
    unread = [name for name in members if name not in READ_MEMBERS]
    if heatmaps:
        maps = [name for name in HEATMAP_MEMBERS if name in members]
        if len(maps) > 1:
            message = f"a second heatmap beside {maps[0]}: the intended one is unclear; keep one"
            faults.append((maps[1], message))
        message = f"seems to be a heatmap, but is not read; expected {', '.join(HEATMAP_MEMBERS)}"
        faults += [(name, message) for name in unread if HEATMAP_LIKE.search(name)]
    if windows:
        message = (
            f"seems to hold sentence windows, but is not read; expected {TEXT_MEMBER} and "
            f"{MAPS_MEMBER}"
        )
        faults += [(name, message) for name in unread if WINDOWS_LIKE.search(name)]
    return faults


def _image_and_caption(members: Collection[str]) -> list[Fault]:
    images = [name for name in (*IMAGE_MEMBERS, *OTHER_IMAGES) if name in members]
    captions = [name for name in ("txt", *OTHER_CAPTIONS) if name in members]
    read = find_member(images, IMAGE_MEMBERS)
    if read is None or "txt" not in members:
        why = _why_missing(members, images if read is None else [], captions)
        message = (
            f"{why}found {list_members(members)}; expected an image "
            f"({', '.join(IMAGE_MEMBERS)}) and a txt"
        )
        return [("members", message)]
    faults = []
    if len(images) > 1:
        message = f"a second image beside {read}: the intended one is unclear; keep one"
        faults.append((images[1], message))
    if len(captions) > 1:
        faults.append((captions[1], "a second caption beside txt, and only txt is read; keep one"))
    return faults


def _why_missing(members: Collection[str], images: list[str], captions: list[str]) -> str:
    """The likely reason for a missing image or caption, for the message; "" if unknown."""
    ends = (*IMAGE_MEMBERS, *OTHER_IMAGES, "txt")
    if any(
        "." in name
        and name.rsplit(".", 1)[1] in ends
        and name not in READ_MEMBERS
        and not HEATMAP_LIKE.search(name)
        for name in members
    ):
        return "keys must not contain a dot; webdataset ends the key at the first one: "
    if images:
        return f"an image of the type {images[0]} is not read from shards: "
    if "txt" not in members and captions:
        return f"a caption in {captions[0]} is not read: "
    return ""
