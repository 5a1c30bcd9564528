"""Joins timed words to sentences, and gives each sentence the fixations around its dictation."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence

from ..annotations.record import Word
from ..config import UserError
from ..gaze import Fixations
from .plan import Plan, Window

# a phrase may hold the end of one sentence and the start of the next
END = re.compile(r"(?<=\.)\s+")


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--windows",
        choices=("none", "sentence"),
        default="none",
        help="sentence: also writes one heatmap for each dictated sentence (default: %(default)s)",
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


def check_lead(args: argparse.Namespace) -> None:
    if not 0 <= args.lead < math.inf:
        raise UserError(f"--lead {args.lead}: expected seconds, at least 0.")


def join_sentences(words: Sequence[Word]) -> list[Word]:
    """Sentences with the start of their first word and the end of their last one.

    A sentence ends at a full stop; the last sentence may lack it. EGD-CXR joins the full stop to
    the word, REFLACX gives it a row of its own. A dot within a word ("1.5") does not end a
    sentence. Sentences without a word or without a duration are dropped.
    """
    sentences, open_words = [], []
    for word in words:
        for part in END.split(word.text.strip()):
            if part:
                open_words.append(word._replace(text=part))
            if part.endswith("."):
                sentences.append(open_words)
                open_words = []
    joined = []
    for group in (*sentences, open_words):
        text = re.sub(r"\s+([.,])", r"\1", " ".join(word.text for word in group))
        times = [
            (word.start, word.end)
            for word in group
            if math.isfinite(word.start) and math.isfinite(word.end)
        ]
        if times and re.search(r"\w", text) and times[-1][1] > times[0][0]:
            joined.append(Word(text, times[0][0], times[-1][1]))
    return joined


def make_windows(
    plan: Plan, fixations: Fixations, words: Sequence[Word], lead: float, identity: str
) -> tuple[Window, ...]:
    """One window for each sentence: from `lead` seconds before its first word to its end.

    The REFLACX authors also start no window before the start of the previous sentence. This is not
    done here.
    """
    sentences = join_sentences(words)
    if not sentences:
        plan.leave_out("windows: no words with times", identity)
    return tuple(
        Window(text, start - lead, end, fixations.between(start - lead, end))
        for text, start, end in sentences
    )
