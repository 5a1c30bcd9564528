"""Published protocols of zero-shot classification (peers.md §2.1, docs/decisions/0012)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...config import UserError

COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
RSNA = ("No pneumonia", "Pneumonia")
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
HERNIA, NO_FINDING = "cxr-14x100-hernia", "cxr-14x100-no-finding"
OWN = "own"  # classes of the user, or of a classes.json or classnames.txt beside the data

SETS: dict[str, tuple[str, ...]] = {  # classes in the order of numeric labels
    "chexpert-5x200": COMPETITION,
    "mimic-5x200": COMPETITION,
    "rsna": RSNA,
    HERNIA: FINDINGS,  # as the paper says: 14 abnormalities
    NO_FINDING: ("No Finding", *FINDINGS[:-1]),  # the authors' code: Hernia is dropped
    "cxr8": FINDINGS[:8],
    "openi-5": COMPETITION,
}
# sets in which an image has exactly one class; the others are multi-label
SINGLE_LABEL = (
    "chexpert-5x200",
    "mimic-5x200",
    "rsna",
    HERNIA,
    NO_FINDING,
)
# choices of --set
FAMILIES = (
    "chexpert-5x200",
    "mimic-5x200",
    "rsna",
    "cxr-14x100",
    "cxr8",
    "openi-5",
    "phantom",
)
DEFAULT_PROMPTS = {
    "chexpert-5x200": "chexpert-5x200:gloria",
    "mimic-5x200": "chexpert-5x200:gloria",
    "openi-5": "chexpert-5x200:gloria",
    "rsna": "rsna:biovil",
    HERNIA: "cxr-14x100:clean",
    NO_FINDING: "cxr-14x100:clean",
    "cxr8": "cxr-14x100:clean",
}
_GLORIA = {"chexpert-5x200": "chexpert-5x200:gloria", "mimic-5x200": "chexpert-5x200:gloria"}
_ECLIP = {"chexpert-5x200": "chexpert-5x200:eclip", "mimic-5x200": "chexpert-5x200:eclip"}


@dataclass(frozen=True)
class Protocol:
    """A published way to score zero-shot classification.

    `prompts`: {set: prompt set}; sets of the user have their own prompts. `sample`: number of
    prompts drawn for each class, None for all.
    """

    description: str
    prompts: Mapping[str, str]
    class_vector: str
    sample: int | None = None
    z_score: bool = False
    headline: str = "macro-F1"
    headline_of: Mapping[str, str] = field(default_factory=dict)  # {set: another headline}


PROTOCOLS = {
    "eclip-paper": Protocol(
        "As the eCLIP paper describes it: mean of the unit prompt vectors, nearest class by cosine,"
        " macro-F1, 14 abnormalities with Hernia. The prompts of CheXpert are GLoRIA's. The prompts"
        " of RSNA are ours, because the paper gives none.",
        {**_GLORIA, "rsna": "rsna:structure", HERNIA: "cxr-14x100:clean"},
        "unit_mean",
    ),
    "eclip-release": Protocol(
        "As in the eCLIP authors' code: the mean prompt vector is not scaled to unit length, so"
        " classes with varied prompts score lower; effusion in the order severity, subtype,"
        " location; raw labels with underscores, No_Finding and 13 classes without Hernia; on RSNA"
        " the F1 of the positive class, which the paper's table calls macro. The prompts of RSNA"
        " are ours; those of the release are not copied.",
        {**_ECLIP, "rsna": "rsna:structure", NO_FINDING: "cxr-14x100:eclip"},
        "mean",
        headline_of={"rsna": "F1 of the positive class"},
    ),
    "gloria": Protocol(
        "GLoRIA: 5 prompts for each class drawn with --seed, best prompt, scores of each class"
        " standardised over the test images (transductive: the score of an image depends on the"
        " others, and balanced classes are assumed). Only global similarity is used: GLoRIA also"
        " averages its local attention, which an open_clip model does not have.",
        _GLORIA,
        "max",
        sample=5,
        z_score=True,
        headline="accuracy",
    ),
    "medclip": Protocol(
        "MedCLIP: 10 prompts for each class drawn with --seed, best prompt, accuracy.",
        _GLORIA,
        "max",
        sample=10,
        headline="accuracy",
    ),
    "cxr-clip": Protocol(
        "CXR-CLIP: cosine averaged over all prompts, accuracy; BioViL's pair of prompts on RSNA."
        " CXR-CLIP corrects two spellings of GLoRIA's prompts; here they stay.",
        {**_GLORIA, "rsna": "rsna:biovil"},
        "mean",
        headline="accuracy",
    ),
    "chexzero": Protocol(
        "CheXzero: each class separately, softmax of '{label}' against 'no {label}', AUROC.",
        {
            name: "pairs:chexzero"
            for name in ("chexpert-5x200", "mimic-5x200", "openi-5", "rsna", HERNIA, "cxr8")
        },
        "pair_softmax",
        headline="macro AUROC",
    ),
}


@dataclass(frozen=True)
class Rule:
    """How classes are scored: by a protocol, or as the flags say.

    `prompts`: name of a prompt set of the package, None for prompts of the user.
    """

    protocol: str | None
    prompts: str | None
    class_vector: str
    sample: int | None
    seed: int
    z_score: bool
    headline: str


def set_of(recipe_name: str) -> str:
    """The set that a recipe's name belongs to, "own" for an unknown name.

    rsna-gloria belongs to rsna, openi-5-all-views to openi-5.
    """
    return next(
        (name for name in SETS if recipe_name == name or recipe_name.startswith(f"{name}-")), OWN
    )


def choose_rule(
    protocol: str | None,
    set_name: str,
    *,
    prompts: str | None = None,
    class_vector: str | None = None,
    sample: int | None = None,
    seed: int | None = None,
    z_score: bool = False,
) -> Rule:
    """The rule of a protocol or of flags; None and False mean that a flag is not given.

    UserError: a flag that contradicts the protocol, a set that the protocol does not define, or a
    seed where nothing is drawn.
    """
    if protocol is None:
        chosen = prompts or DEFAULT_PROMPTS.get(set_name)
        if prompts is None and class_vector == "pair_softmax":
            chosen = "pairs:chexzero" if set_name != OWN else None
        rule = Rule(
            None, chosen, class_vector or "unit_mean", sample, seed or 0, z_score, "macro-F1"
        )
    else:
        named = PROTOCOLS[protocol]
        if set_name != OWN and set_name not in named.prompts:
            raise UserError(
                f"--protocol {protocol} does not define {set_name}; it defines"
                f" {', '.join(named.prompts)}, and accepts classes of your own. Give another"
                " protocol, or set the rule by flags."
            )
        fixed = {
            "--prompts": named.prompts.get(set_name),
            "--class-vector": named.class_vector,
            "--sample": named.sample,
            "--z-score": named.z_score,
        }
        for flag, given in (
            ("--prompts", prompts),
            ("--class-vector", class_vector),
            ("--sample", sample),
            ("--z-score", z_score or None),
        ):
            if given is not None and given != fixed[flag]:
                raise UserError(
                    f"{flag} {given} contradicts --protocol {protocol}, which has"
                    f" {fixed[flag] or 'none'}; leave one of them out."
                )
        rule = Rule(
            protocol,
            named.prompts.get(set_name),
            named.class_vector,
            named.sample,
            seed or 0,
            named.z_score,
            named.headline_of.get(set_name, named.headline),
        )
    if rule.sample is None and seed is not None:
        raise UserError(
            f"--seed {seed}: nothing is drawn; it belongs to --sample, or to a protocol that draws"
            " prompts (gloria, medclip)."
        )
    if rule.sample is not None and rule.sample < 1:
        raise UserError(f"--sample {rule.sample}: expected at least 1 prompt for each class.")
    return rule
