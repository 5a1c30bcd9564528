"""Gaze in a join: words of transcripts, and the quality of the recordings."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...annotations.eye.options import gaze_setting
from ...annotations.eye.quality import GazeQuality, add_quality_arguments
from ...annotations.eye.samples import detection_facts
from ...annotations.eye.words import Transcripts, read_words
from ...annotations.record import Recording
from ...config import UserError
from ...gaze import Fixations
from ..plan import Plan
from ..sentence_windows import check_lead, join_sentences
from .found import OfImage
from .gaze_picture import draw_gaze
from .match import Images

PICTURE = "picture of all gaze"  # the fact that names it

logger = logging.getLogger(__name__)


def add_gaze_join_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--transcripts",
        type=Path,
        metavar="FILE|FOLDER",
        help="words with times on the clock of the gaze, for sentence windows",
    )
    parser.add_argument(
        "--tier", metavar="NAME", help="tier of ELAN or Praat transcripts (default: a usual name)"
    )
    parser.add_argument(
        "--lead",
        type=float,
        default=1.5,
        metavar="SECONDS",
        help=(
            "time from the start of a sentence's window to its first word (default: %(default)s)"
        ),
    )
    add_quality_arguments(parser)


def read_transcripts(args: argparse.Namespace) -> Transcripts:
    """The words of --transcripts by image; {} without it. UserError: see `read_words`."""
    check_lead(args)
    return {} if args.transcripts is None else read_words(args.transcripts, args.tier)


def add_words(
    plan: Plan, images: Images, found: dict[str, OfImage], transcripts: Transcripts
) -> None:
    """Give the words of transcripts to the recordings of their images.

    A transcript without an image or without gaze is counted and named.

    Raises:
        UserError: a name that fits two images, two transcripts of an image, or gaze without start
            times.
    """
    taken: dict[str, Path] = {}
    for name, transcript in transcripts.items():
        where = f"{transcript.file} ({name})"
        try:
            image = images.find(name)
        except UserError as error:
            raise UserError(f"--transcripts {where}: {error}") from error
        if image is None or not found[image].recordings:
            reason = "image" if image is None else "gaze"
            plan.leave_out(f"transcript without its {reason}", where)
            continue
        if image in taken:
            raise UserError(
                f"--transcripts {where}: words of {image}, as {taken[image]} has; expected one"
                " transcript of each image. Remove one of them."
            )
        taken[image] = transcript.file
        one = found[image]
        without = [recording for recording in one.recordings if not recording.words]
        if len(without) > 1:
            plan.leave_out("transcript of an image with several readers: whose words?", where)
            continue
        for recording in without:
            start = recording.fixations.start
            if start is None or not np.isfinite(start).any():
                raise UserError(
                    f"{recording.where}: gaze on {image} without start times, but words with times"
                    f" in {transcript.file}; expected the start of each fixation. Name its column"
                    " with --gaze-columns start=COLUMN, or leave out --transcripts."
                )
        one.recordings = [
            recording if recording.words else replace(recording, words=transcript.words)
            for recording in one.recordings
        ]


def check_quality(
    plan: Plan,
    found: Iterable[OfImage],
    left_of: str,
    picture: Path | None,
    reader: str | None,
) -> None:
    """Add what the numbers of all recordings say to the facts of the plan, log it, and draw it.

    Wrong units are errors when maps are drawn; the picture is there before. `reader`: the column of
    the texts that names who wrote them.
    """
    quality = GazeQuality(left_of)
    for one in found:
        if not one.recordings:
            continue
        assert one.size is not None  # the sizes of annotated images have been read
        readings = [(recording, placed(recording, one.size)) for recording in one.recordings]
        for recording, fixations in readings:
            quality.add(recording, fixations, one.size)
        for text, fixations in _statements(one, readings, reader):
            quality.add_text(text, fixations, one.size)
    if not quality.recordings:
        return
    plan.facts |= {f"gaze, {name}": _rounded(value) for name, value in quality.facts().items()}
    for i, sentence in enumerate(quality.sentences(), 1):
        plan.facts[f"look at this ({i})"] = sentence
        logger.warning("eclip: %s", sentence)
    if picture is not None:
        draw_gaze(quality, picture)
        plan.facts[PICTURE] = str(picture)


def gaze_parameters(plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    """For summary and manifest: how samples became fixations, and words windows."""
    facts: dict[str, Any] = {}
    if "gaze, samples per second (mean)" in plan.facts:
        facts = detection_facts(gaze_setting(args).detection)
    if args.transcripts is not None:
        facts["lead of a sentence, seconds"] = args.lead
    return {f"gaze, {name}": value for name, value in facts.items()}


def _rounded(value: object) -> object:
    """Three digits are enough to look at."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_rounded(one)}" for name, one in value.items())
    return value


def _statements(
    one: OfImage, readings: Sequence[tuple[Recording, Fixations]], reader: str | None
) -> Iterator[tuple[str, Fixations]]:
    """Texts that may name a side, with their gaze: sentences, else the texts of the image.

    A text of the image has the gaze of who wrote it, or of all.
    """
    timed = False
    for recording, fixations in readings:
        sentences = join_sentences(recording.words) if fixations.start is not None else []
        timed = timed or bool(sentences)
        for sentence in sentences:
            yield sentence.text, fixations.between(sentence.start, sentence.end)
    for text in () if timed else one.texts:
        author = text.columns.get(reader, "") if reader else ""
        parts = [
            fixations
            for recording, fixations in readings
            if not author or recording.annotator == author
        ]
        if parts:
            x, y, duration = (
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("x", "y", "duration")
            )
            yield text.text, Fixations(x, y, duration)


def placed(recording: Recording, size: tuple[int, int] | None) -> Fixations:
    """The fixations of a recording in pixels of its image of (height, width)."""
    if recording.place is None:
        return recording.fixations
    assert size is not None  # the sizes of annotated images have been read
    return recording.place(recording.fixations, size)
