"""Which members of a sample in a shard are read, and what is wrong with the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ..heatmap import SUFFIXES
from ..sentence_windows import MAPS_MEMBER, TEXT_MEMBER

IMAGE_MEMBERS = ("jpg", "png", "jpeg", "webp")  # open_clip's, in its order
HEATMAP_MEMBERS = tuple(f"heatmap{suffix}" for suffix in SUFFIXES)
WINDOW_MEMBERS = (TEXT_MEMBER, MAPS_MEMBER)
READ_MEMBERS = frozenset((*IMAGE_MEMBERS, "txt", *HEATMAP_MEMBERS, *WINDOW_MEMBERS))
OTHER_IMAGES = ("tif", "tiff", "bmp", "gif", "jp2", "dcm", "dicom", "jfif", "jpe", "ppm", "pgm")
OTHER_CAPTIONS = ("text", "caption", "captions", "cap")
HEATMAP_LIKE = re.compile(
    r"(^|\.)(heat_?-?maps?|heat|gaze|masks?|saliency|attention|fixations?)($|[._\-\d])"
)
WINDOWS_LIKE = re.compile(r"(^|\.)windows?($|[._\-\d])")
SHOWN = 10  # members that one message names

Fault = tuple[str, str]  # (member, message)


def find_member(members: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that a sample has."""
    return next((name for name in names if name in members), None)


def list_members(members: Collection[str]) -> str:
    """The first ten names, and how many more there are."""
    shown = sorted(members)[:SHOWN]
    return ", ".join(shown) + (f" and {len(members) - SHOWN} more" if len(members) > SHOWN else "")


def member_faults(members: Collection[str], heatmaps: bool, windows: bool) -> list[Fault]:
    """What the names of a sample's members say: two images, a heatmap in a format that is not read,
    and so on.

    Members of heatmaps and of sentence windows count only where they are used.
    """
    faults = _image_and_caption(members)
    extra = [name for name in members if name not in READ_MEMBERS]
    if heatmaps:
        found = [name for name in HEATMAP_MEMBERS if name in members]
        if len(found) > 1:
            faults.append(
                (
                    found[1],
                    f"a second heatmap beside {found[0]}: which one is meant is a guess; keep one",
                )
            )
        faults += [
            (name, f"looks like a heatmap, but is not read; expected {', '.join(HEATMAP_MEMBERS)}")
            for name in extra
            if HEATMAP_LIKE.search(name)
        ]
    if windows:
        faults += [
            (
                name,
                (
                    f"looks like sentence windows, but is not read; expected {TEXT_MEMBER} and "
                    f"{MAPS_MEMBER}"
                ),
            )
            for name in extra
            if WINDOWS_LIKE.search(name)
        ]
    return faults


def _image_and_caption(members: Collection[str]) -> list[Fault]:
    images = [name for name in (*IMAGE_MEMBERS, *OTHER_IMAGES) if name in members]
    captions = [name for name in ("txt", *OTHER_CAPTIONS) if name in members]
    read = find_member(images, IMAGE_MEMBERS)
    if read is None or "txt" not in members:
        why = _why_missing(members, images if read is None else [], captions)
        return [
            (
                "members",
                (
                    f"{why}found {list_members(members)}; expected an image "
                    f"({', '.join(IMAGE_MEMBERS)}) and a txt"
                ),
            )
        ]
    faults = []
    if len(images) > 1:
        faults.append(
            (
                images[1],
                (
                    f"a second image beside {read}: which one belongs to the caption is a guess;"
                    " keep one"
                ),
            )
        )
    if len(captions) > 1:
        faults.append((captions[1], "a second caption beside txt, and only txt is read; keep one"))
    return faults


def _why_missing(members: Collection[str], images: list[str], captions: list[str]) -> str:
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
