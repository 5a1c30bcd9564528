"""Reports of the synthetic images: a small sentence grammar, paraphrased and true to the scene.

A report is one sentence on the finding (3 templates x synonyms of finding, side, zone and
severity), 0-2 negations of absent findings, 0-2 distractor sentences, and a sentence for most of
the devices present, in shuffled order. The negations name other classes, so that the presence of a
word alone does not give the class away.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from .anatomy import NORMAL, SIDES, Words

_MENTION_DEVICE = 0.8  # probability that a report mentions a device


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _capitalised(sentence: str) -> str:
    # "ECG" must keep its capitals, hence no str.capitalize; "a extensive" needs another article
    sentence = sentence.replace(" a extensive", " an extensive")
    return sentence[0].upper() + sentence[1:]


def _finding_sentence(
    rng: np.random.Generator, words: Words, label: int, side: int, zone: int, severity: int
) -> str:
    name = words.classes[label]
    if label == NORMAL:
        return _pick(rng, words.normal_templates).format(clear=_pick(rng, words.clear))
    return _pick(rng, words.templates).format(
        finding=_pick(rng, words.synonyms[name]),
        side=SIDES[side],
        zone=_pick(rng, words.zones[zone]),
        severity=_pick(rng, words.severities[severity]),
        seen=_pick(rng, words.seen),
    )


def _negations(rng: np.random.Generator, words: Words, names: list[str]) -> list[str]:
    """0-2 sentences that deny findings which the image does not show."""
    absent = [synonyms[0] for name, synonyms in words.synonyms.items() if name not in names]
    absent += words.never_drawn
    chosen = rng.permutation(len(absent))[: rng.integers(3)]
    return [_pick(rng, words.negations).format(finding=absent[i]) for i in chosen]


def compose_report(
    rng: np.random.Generator,
    words: Words,
    finding: tuple[int, int, int, int],
    devices: np.ndarray,
) -> str:
    """Write one report on one finding, given as in `dictate`."""
    return " ".join(sentence for sentence, _ in dictate(rng, words, [finding], devices))


def dictate(
    rng: np.random.Generator,
    words: Words,
    findings: Sequence[tuple[int, int, int, int]],
    devices: np.ndarray,
) -> list[tuple[str, int | None]]:
    """Dictate a report on `findings`, each (label, side, zone, severity).

    The integers index the classes of `words`, SIDES, its zones and its severities; `devices` is
    bool (4,), in the order of the anatomy's devices.

    Returns (sentence, index of the finding it describes) for every sentence; the index is None for
    sentences on anything else. Findings keep their order; other sentences stand anywhere between.
    """
    names = [words.classes[label] for label, *_ in findings]
    sentences = [_finding_sentence(rng, words, *finding) for finding in findings]
    sentences += _negations(rng, words, names)
    distractors = words.distractors
    sentences += [distractors[i] for i in rng.permutation(len(distractors))[: rng.integers(3)]]
    for present, options in zip(devices, words.devices, strict=True):
        if present and rng.random() < _MENTION_DEVICE:
            sentences.append(_pick(rng, options))
    order = rng.permutation(len(sentences))
    order[order < len(findings)] = np.arange(len(findings))
    return [(_capitalised(sentences[i]), int(i) if i < len(findings) else None) for i in order]


def zero_shot_prompts(words: Words, name: str) -> list[str]:
    """Six prompts of a class: one per side and zone, so that their mean is independent of both.

    The prompts follow the grammar of the reports, as prompts for real reports do. A bare "There is
    a nodule." is so unlike every report that a small text encoder embeds it almost at random.
    """
    if name == "normal":
        pairs = [(text, clear) for text in words.normal_templates for clear in words.clear[:2]]
        return [_capitalised(template.format(clear=clear)) for template, clear in pairs]
    prompts, synonyms = [], words.synonyms[name]
    for number, (side, zones) in enumerate(product(SIDES, words.zones)):
        fields = {
            "finding": synonyms[number % len(synonyms)],
            "side": side,
            "zone": zones[0],
            "severity": words.severities[1][0],
            "seen": words.seen[0],
        }
        prompts.append(
            _capitalised(words.templates[number % len(words.templates)].format(**fields))
        )
    return prompts
