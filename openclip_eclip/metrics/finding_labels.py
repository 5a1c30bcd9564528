"""Findings of a chest radiograph report by a dictionary of phrases; approximate, unlike CheXbert.

Phrases and cues are ours, in `finding_phrases.json`. A phrase counts inside its sentence. "no",
"without" and others before it, or "not seen" after it, make it absent; "possible", "may" and others
make it uncertain. A word such as "but" or "with" ends the scope of these cues. This is a much
shortened NegEx (Chapman et al. 2001). It does not handle anatomy, time ("previous effusion") or
spelling errors.
Measured on Open-I's curated terms, on reports not used to write the phrases: precision 0.97
(cardiomegaly) to 0.73 (edema), recall 0.94 to 0.76; docs/decisions/0022 has all numbers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources

import numpy as np

NOT_MENTIONED, PRESENT, ABSENT, UNCERTAIN = 0, 1, 2, 3  # as CheXbert numbers them
NO_FINDING = "no finding"
# if a report has several mentions of a finding, the highest number wins
_AFFIRMED = {PRESENT: 3, UNCERTAIN: 2, ABSENT: 1}


class _Rules:
    """finding_phrases.json as compiled regular expressions."""

    def __init__(self) -> None:
        table = json.loads(
            resources.files(__package__)
            .joinpath("finding_phrases.json")
            .read_text(encoding="utf-8")
        )
        self.findings = {
            name: (_pattern(rule["present"]), _pattern(rule["absent"]))
            for name, rule in table["findings"].items()
        }
        self.negation, self.uncertainty = (
            {side: _pattern(table[kind][side]) for side in ("before", "after")}
            for kind in ("negation", "uncertainty")
        )
        self.ignored = _pattern(table["ignored"])
        self.not_negation = _pattern(table["negation"]["not_negation"])
        self.scope_ends = _pattern(table["scope_ends"])


def _pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """Matches whole words with an optional plural s; ` ... ` matches up to three words between."""
    if not phrases:
        return re.compile(r"(?!)")
    parts = (
        r"(?:\W+\w+){0,3}?\W+".join(
            r"[\s-]+".join(map(re.escape, piece.split())) for piece in phrase.split("...")
        )
        for phrase in sorted(phrases, key=len, reverse=True)
    )
    return re.compile(rf"\b(?:{'|'.join(parts)})s?\b")


@functools.cache
def _rules() -> _Rules:
    return _Rules()


def finding_names() -> tuple[str, ...]:
    """The findings of the dictionary, `no finding` first."""
    return (NO_FINDING, *_rules().findings)


def label_report(text: str) -> dict[str, int]:
    """{finding: PRESENT, UNCERTAIN or ABSENT} of the mentioned findings.

    Of several mentions present wins over uncertain, and uncertain over absent. `no finding` is
    PRESENT if no finding except support devices is present or uncertain, as in CheXpert's labeller.
    An empty text has no findings at all.
    """
    rules = _rules()
    labels: dict[str, int] = {}
    for sentence in re.split(r"(?<!\d)\.|\.(?!\d)|[;:!?\n]", text.lower()):
        sentence = rules.ignored.sub(" ", sentence)
        for name, (present, absent) in rules.findings.items():
            states = [_state(sentence, *match.span()) for match in present.finditer(sentence)]
            if absent.search(sentence):
                states.append(ABSENT)
            for state in states:
                labels[name] = max(labels.get(name, ABSENT), state, key=_AFFIRMED.__getitem__)
    if text.strip() and not any(
        state != ABSENT for name, state in labels.items() if name != "support devices"
    ):
        labels[NO_FINDING] = PRESENT
    return labels


def _state(sentence: str, start: int, end: int) -> int:
    """PRESENT, UNCERTAIN or ABSENT: the state of the phrase at [start, end) of a sentence."""
    rules = _rules()
    before, after = sentence[:start], sentence[end:]
    ends = [match.end() for match in rules.scope_ends.finditer(before)]
    before = before[max(ends, default=0) :]
    stop = rules.scope_ends.search(after)
    after = after[: stop.start()] if stop else after
    if rules.uncertainty["before"].search(before) or rules.uncertainty["after"].search(after):
        return UNCERTAIN
    before, after = rules.not_negation.sub(" ", before), rules.not_negation.sub(" ", after)
    phrase = sentence[start:end]  # a phrase may contain its negation: "heart is not enlarged"
    denies = rules.negation["before"].search
    return (
        ABSENT
        if denies(before) or denies(phrase) or rules.negation["after"].search(after)
        else PRESENT
    )


def label_matrix(texts: Sequence[str]) -> np.ndarray:
    """Labels (N, number of findings) int8: NOT_MENTIONED, PRESENT, ABSENT or UNCERTAIN.

    Columns are in the order of `finding_names()`.
    """
    names = finding_names()
    return np.array(
        [
            [labels.get(name, NOT_MENTIONED) for name in names]
            for labels in map(label_report, texts)
        ],
        dtype=np.int8,
    ).reshape(len(texts), len(names))
