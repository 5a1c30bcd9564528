"""Reports of the synthetic images: a small sentence grammar, paraphrased and true to the scene.

A report is one sentence on the finding (3 templates x synonyms of finding, side, zone and
severity), 0-2 negations of absent findings, 0-2 distractor sentences, and a sentence for most of
the devices present, in shuffled order. The negations name other classes, so that the presence of a
word alone does not give the class away.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

CLASS_NAMES = ("normal", "nodule", "consolidation", "cavity", "atelectasis", "bulla")
SIDES = ("right", "left")  # of the patient: "right" is drawn on the left of the image
ZONES = ("upper", "mid", "lower")
DEVICES = ("leads", "pacemaker", "endotracheal tube", "feeding tube")

# The synonyms of each class; each is a noun phrase that can follow "a"
FINDING_WORDS = {
    "nodule": ("nodule", "round nodular opacity", "well-defined coin lesion", "solitary nodule"),
    "consolidation": (
        "consolidation",
        "patchy consolidation",
        "fluffy airspace opacity",
        "hazy pneumonic infiltrate",
    ),
    "cavity": ("cavity", "thick-walled cavity", "ring-shaped cavitating lesion", "cavitary lesion"),
    "atelectasis": (
        "band of atelectasis",
        "linear atelectasis",
        "plate-like atelectasis",
        "streak of lung collapse",
    ),
    "bulla": ("bulla", "thin-walled bulla", "lucent air-filled bulla", "bullous lucency"),
}
_SEVERITY_WORDS = (
    ("small", "subtle", "minor"),
    ("moderate", "medium-sized"),
    ("large", "marked", "extensive"),
)
_ZONE_WORDS = (
    ("upper zone", "upper lung", "upper lobe region"),
    ("mid zone", "middle zone", "mid lung"),
    ("lower zone", "lower lung", "base"),
)
_TEMPLATES = (
    "There is a {severity} {finding} in the {side} {zone}.",
    "{severity} {finding} projecting over the {side} {zone}.",
    "In the {side} {zone} a {severity} {finding} is {seen}.",
)
_SEEN = ("seen", "noted", "present", "demonstrated")
_NORMAL_TEMPLATES = (
    "The lungs are {clear}.",
    "{clear} lungs on both sides.",
    "Both lung fields are {clear} without focal lesion.",
)
_CLEAR = ("clear", "well aerated", "normal", "unremarkable")
_NEGATION_TEMPLATES = (
    "No {finding}.",
    "There is no {finding}.",
    "No evidence of {finding}.",
    "{finding} is not seen.",
)
_NEVER_DRAWN = ("pleural effusion", "pneumothorax", "fracture")
_DISTRACTORS = (
    "Heart size is within normal limits.",
    "The cardiomediastinal contours are stable.",
    "The bony thorax is intact.",
    "Degenerative changes of the spine.",
    "The patient is slightly rotated.",
    "Comparison is made with the prior examination.",
    "Hilar contours are unremarkable.",
    "Portable frontal view of the chest.",
)
_DEVICE_SENTENCES = (
    ("ECG leads overlie the chest.", "Monitoring leads project over the thorax."),
    ("Left-sided pacemaker in situ.", "A pacemaker projects over the left chest wall."),
    ("Endotracheal tube tip above the carina.", "The endotracheal tube is in standard position."),
    ("Feeding tube courses below the diaphragm.", "Nasogastric tube with its tip in the stomach."),
)
_MENTION_DEVICE = 0.8  # probability that a report mentions a device


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _capitalised(sentence: str) -> str:
    # "ECG" must keep its capitals, hence no str.capitalize; "a extensive" needs another article
    sentence = sentence.replace(" a extensive", " an extensive")
    return sentence[0].upper() + sentence[1:]


def _finding_sentence(
    rng: np.random.Generator, name: str, side: int, zone: int, severity: int
) -> str:
    if name == "normal":
        return _pick(rng, _NORMAL_TEMPLATES).format(clear=_pick(rng, _CLEAR))
    return _pick(rng, _TEMPLATES).format(
        finding=_pick(rng, FINDING_WORDS[name]),
        side=SIDES[side],
        zone=_pick(rng, _ZONE_WORDS[zone]),
        severity=_pick(rng, _SEVERITY_WORDS[severity]),
        seen=_pick(rng, _SEEN),
    )


def _negations(rng: np.random.Generator, names: list[str]) -> list[str]:
    """0-2 sentences that deny findings which the image does not show."""
    absent = [FINDING_WORDS[other][0] for other in FINDING_WORDS if other not in names] + list(
        _NEVER_DRAWN
    )
    chosen = rng.permutation(len(absent))[: rng.integers(3)]
    return [_pick(rng, _NEGATION_TEMPLATES).format(finding=absent[i]) for i in chosen]


def compose_report(
    rng: np.random.Generator, label: int, side: int, zone: int, severity: int, devices: np.ndarray
) -> str:
    """Write one report on one finding.

    The integers index CLASS_NAMES, SIDES, ZONES and severity; `devices` is bool (4,), in the order
    of DEVICES.
    """
    return " ".join(
        sentence for sentence, _ in dictate(rng, [(label, side, zone, severity)], devices)
    )


def dictate(
    rng: np.random.Generator, findings: Sequence[tuple[int, int, int, int]], devices: np.ndarray
) -> list[tuple[str, int | None]]:
    """Dictate a report on `findings`, each (label, side, zone, severity).

    Returns (sentence, index of the finding it describes) for every sentence; the index is None for
    sentences on anything else. Findings keep their order; other sentences stand anywhere between.
    """
    names = [CLASS_NAMES[label] for label, *_ in findings]
    sentences = [
        _finding_sentence(rng, name, *where)
        for name, (_, *where) in zip(names, findings, strict=True)
    ] + _negations(rng, names)
    sentences += [_DISTRACTORS[i] for i in rng.permutation(len(_DISTRACTORS))[: rng.integers(3)]]
    for present, options in zip(devices, _DEVICE_SENTENCES, strict=True):
        if present and rng.random() < _MENTION_DEVICE:
            sentences.append(_pick(rng, options))
    order = rng.permutation(len(sentences))
    order[order < len(findings)] = np.arange(len(findings))
    return [(_capitalised(sentences[i]), int(i) if i < len(findings) else None) for i in order]


def zero_shot_prompts(name: str) -> list[str]:
    """Six prompts of a class: one per side and zone, so that their mean is independent of both.

    The prompts follow the grammar of the reports, as prompts for real reports do. A bare "There is
    a nodule." is so unlike every report that a small text encoder embeds it almost at random.
    """
    if name == "normal":
        pairs = [(template, clear) for template in _NORMAL_TEMPLATES for clear in _CLEAR[:2]]
        return [_capitalised(template.format(clear=clear)) for template, clear in pairs]
    prompts = []
    for number, (side, zone) in enumerate(product(SIDES, range(len(ZONES)))):
        fields = {
            "finding": FINDING_WORDS[name][number % len(FINDING_WORDS[name])],
            "side": side,
            "zone": _ZONE_WORDS[zone][0],
            "severity": _SEVERITY_WORDS[1][0],
            "seen": _SEEN[0],
        }
        prompts.append(_capitalised(_TEMPLATES[number % len(_TEMPLATES)].format(**fields)))
    return prompts
