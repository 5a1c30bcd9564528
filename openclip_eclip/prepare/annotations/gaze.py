"""Gaze in a join: words of transcripts, and the quality of the recordings."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ...annotations.eye.quality import GazeQuality, add_quality_arguments
from ...annotations.eye.words import Transcripts, read_words
from ...annotations.record import Recording
from ...gaze import Fixations
from ..plan import Plan
from ..sentence_windows import check_lead, join_sentences
from .found import OfImage
from .match import Images

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
    """
    for name, words in transcripts.items():
        image = images.find(name)
        if image is None or not found[image].recordings:
            reason = "image" if image is None else "gaze"
            plan.leave_out(f"transcript without its {reason}", name)
            continue
        one = found[image]
        if sum(not recording.words for recording in one.recordings) > 1:
            plan.leave_out("transcript of an image with several readers: whose words?", name)
            continue
        one.recordings = [
            recording if recording.words else replace(recording, words=words)
            for recording in one.recordings
        ]


def check_quality(plan: Plan, found: Iterable[OfImage], left_of: str) -> None:
    """Add what the numbers of all recordings say to the facts of the plan, and log it."""
    quality = GazeQuality(left_of)
    for one in found:
        for recording in one.recordings:
            assert one.size is not None  # the sizes of annotated images have been read
            fixations = placed(recording, one.size)
            said = list(_statements(one, recording, fixations))
            quality.add(recording, fixations, one.size, said)
    if not quality.recordings:
        return
    plan.facts |= {f"gaze, {name}": _rounded(value) for name, value in quality.facts().items()}
    for i, sentence in enumerate(quality.sentences(), 1):
        plan.facts[f"look at this ({i})"] = sentence
        logger.warning("eclip: %s", sentence)


def _rounded(value: object) -> object:
    """Three digits are enough to look at."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_rounded(one)}" for name, one in value.items())
    return value


def _statements(
    one: OfImage, recording: Recording, fixations: Fixations
) -> Iterator[tuple[str, Fixations]]:
    """Texts that may name a side, with the gaze of their time: sentences, or the whole text."""
    sentences = join_sentences(recording.words) if fixations.start is not None else []
    for sentence in sentences:
        yield sentence.text, fixations.between(sentence.start, sentence.end)
    if not sentences:
        for text in one.texts:
            yield text.text, fixations


def placed(recording: Recording, size: tuple[int, int] | None) -> Fixations:
    """The fixations of a recording in pixels of its image of (height, width)."""
    if recording.place is None:
        return recording.fixations
    assert size is not None  # the sizes of annotated images have been read
    return recording.place(recording.fixations, size)
