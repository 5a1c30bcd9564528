"""The methods (rows) of the paper's tables, as flags of openclip_eclip.train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PHANTOM_MODEL = f"local-dir:{Path(__file__).resolve().parent / 'phantom_model'}"
Flags = Sequence[str | int | float | Path]  # words of a command line, before str()
# decision 0027
CONSTANT: Flags = ["--eclip-priming-weight", 0, "--eclip-curriculum", 0, 0, 0, 0, 0, 0.2225]


@dataclass(frozen=True)
class Method:
    """A method: the `flags` of its training, and how it depends on other methods.

    `recipe`: the paper's settings for it; `start`: the method whose weights of the same seed it
    fine-tunes; `base`: the method it is compared with; `annotated`: it reads heatmaps, so it takes
    --expert-data; `plain`: the method that sees the same annotated images as often, without their
    heatmaps; `length`: its steps, as a multiple of those of other methods; `teacher`: the method
    whose model of the same seed makes pseudo-heatmaps for it, with the flags `teaching`.
    """

    name: str
    flags: Flags = ()
    recipe: str = "clip"
    start: str = ""
    base: str = "CLIP"
    annotated: bool = False
    plain: str = ""
    length: int = 1
    teacher: str = ""
    teaching: Flags = ()

    @property
    def validated(self) -> bool:
        """It keeps the best epoch on validation pairs, so it needs --validation."""
        return "--keep-best" in self.flags


NAIVE_PLAIN, ECLIP_PLAIN = "naive, no heatmaps", "eCLIP, no heatmaps"
# under a map of ones both add the image itself
PLAIN = {
    NAIVE_PLAIN: Method(
        NAIVE_PLAIN,
        ["--method", "naive", "--naive-form", "multiply", "--eclip-placebo", "ones"],
        annotated=True,
    ),
    ECLIP_PLAIN: Method(
        ECLIP_PLAIN,
        [
            *("--method", "eclip", "--eclip-processor", "mask", "--eclip-placebo", "ones"),
            *("--eclip-priming-weight", 0),
        ],
        "eclip",
        annotated=True,
    ),
}
UNTIL = Method(
    "CLIP, until validation stops it",
    ["--method", "clip", "--keep-best", "mean-rank", "--patience", 10],
    length=4,
)


def _family(base: str, method: str) -> list[Method]:
    """A base and the methods that Table 1 adds to it.

    "longer" is the comparison that fine-tunes as long, without annotations.
    """
    is_clip = method == "clip"
    plus, joined = ("", "") if is_clip else (f"{base} + ", f"{method}+")
    plain = (NAIVE_PLAIN, ECLIP_PLAIN) if is_clip else ("", "")
    return [
        Method(base, ["--method", method], base=base),
        Method(f"{plus}naive", ["--method", f"{joined}naive"], "clip", "", base, True, plain[0]),
        Method(f"{plus}DACL", ["--method", f"{joined}dacl"], base=base),
        Method(f"{plus}m3-mix", ["--method", f"{joined}m3-mix"], "m3-mix", base, base),
        Method(f"{plus}eCLIP", ["--method", f"{joined}eclip"], "eclip", "", base, True, plain[1]),
        Method(f"{plus}eCLIP^P", ["--method", f"{joined}eclip"], "eclip-p", base, base, True),
        Method(f"{base}, longer", ["--method", method], "eclip-p", base, base),
    ]


# the methods of Table 4; each has one more part of eCLIP
LADDER: dict[str, Flags] = {
    "mask": ["--eclip-processor", "mask", "--eclip-no-mixup", *CONSTANT],
    "CNN": ["--eclip-processor", "cnn", "--eclip-no-mixup", *CONSTANT],
    "MHA": ["--eclip-no-mixup", *CONSTANT],
    "MHA + mixup": CONSTANT,
    "MHA + mixup + curriculum": ["--eclip-priming-weight", 0],
    "eCLIP, random heatmaps": ["--eclip-placebo", "random"],
    "eCLIP": ["--method", "eclip"],
}
# those with a processor that learns, once more with the authors' form of it: that needs priming,
# while ours starts as the identity
LADDER |= {
    f"{name}, authors' processor": ["--eclip-processor", "authors", *flags]
    for name, flags in list(LADDER.items())[2:]
}
SAME_GATE = ("eCLIP", "eCLIP, random heatmaps", "MHA + mixup + curriculum")  # as ECLIP_PLAIN
TABLES = {
    "table1": [*_family("CLIP", "clip"), *PLAIN.values(), UNTIL, *_family("GLoRIA", "gloria")],
    "table4": [
        Method("CLIP", ["--method", "clip"]),
        *(
            Method(
                name,
                flags,
                "eclip",
                annotated=True,
                plain=ECLIP_PLAIN * (name.removesuffix(", authors' processor") in SAME_GATE),
            )
            for name, flags in LADDER.items()
        ),
        PLAIN[ECLIP_PLAIN],
    ],
}

# flags of all methods of a benchmark: (training from scratch, fine-tuning, evaluation)
SETTINGS: dict[str, tuple[Flags, Flags, Flags]] = {
    "phantoms": (
        [
            *("--model", PHANTOM_MODEL, "--batch-size", 64, "--lr", 1e-3, "--wd", 0.1),
            *("--warmup", 50, "--force-context-length", 64, "--workers", 0, "--precision", "fp32"),
        ],
        [
            *("--batch-size", 64, "--lr", 3e-4, "--wd", 0.1, "--warmup", 10),
            *("--force-context-length", 64, "--workers", 0, "--precision", "fp32"),
        ],
        ["--workers", 0],
    ),
    # each run has one GPU that holds the whole batch of 512: no accumulation, no gathering
    "paper": (
        ["--precision", "amp_bf16", "--workers", 8, "--pretrained-image"],
        ["--precision", "amp_bf16", "--workers", 8],
        ["--protocol", "eclip-paper", "--workers", 8],
    ),
}
