"""Settings of eCLIP as frozen dataclasses.

The defaults are the paper's (arXiv 2403.10153, §3.2, §4.1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PROCESSORS = ("mha", "mask", "cnn")
RESIDUALS = ("query", "image", "none")
POSITIONS = ("none", "sincos")
OWN_PAIRS = ("diagonal", "multi", "mask")
SHUFFLES = ("shuffled", "same-class-shuffled")
PLACEBOS = ("random", *SHUFFLES, "centre", "ones", "phase-scrambled")


# Names of settings in release 0.1 and today's, in flags and in what a run has stored. Old names are
# read for one release.
RENAMED = {
    "align_least": "align_min_share",
    "align_replay": "align_oversample",
    "eclip_heatmap_control": "eclip_placebo",
}
# Options of release 0.1 that brought no gain, and their defaults there.
REMOVED: dict[str, Any] = {"align_schedule": "constant", "align_heads": 1.0}


class UserError(ValueError):
    """Bad settings or bad input.

    The message says what was found, what was expected and what to do.
    """

    exit_code = 2


class Stopped(UserError):
    """A run was stopped by a signal; the message names the signal and says how to continue."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(f"stopped {message}")
        self.exit_code = 128 + number


def _require(ok: bool, name: str, got: Any, expected: str, where: str = "eclip config") -> None:
    if not ok:
        raise UserError(f"{where}: {name}={got!r}; expected {expected}.")


def check_fields(settings: Any, method: str, checks: Iterable[tuple[bool, str, str]]) -> None:
    """UserError at the first failed check of (passed, name of the field, what is expected)."""
    for passed, name, expected in checks:
        _require(passed, name, getattr(settings, name), expected, method)


@dataclass(frozen=True)
class ProcessorConfig:
    """Heatmap processor (Fig. 2 right, §3.2).

    The authors' exact form is ``AUTHORS_PROCESSOR``; decision 0001 says why it is not the default.
    """

    kind: str = "mha"
    patch: int = 16  # pixels
    width: int = 256
    heads: int = 8
    residual: str = "query"  # what the attended patches are added to: E*I, I, or nothing
    zero_init: bool = True  # the last projection starts at zero
    positions: str = "none"
    extra_projection: bool = False  # the authors' second linear layer after the attention

    def __post_init__(self) -> None:
        _require(self.kind in PROCESSORS, "processor.kind", self.kind, f"one of {PROCESSORS}")
        _require(
            self.residual in RESIDUALS, "processor.residual", self.residual, f"one of {RESIDUALS}"
        )
        _require(
            self.positions in POSITIONS,
            "processor.positions",
            self.positions,
            f"one of {POSITIONS}",
        )
        _require(self.patch >= 1, "processor.patch", self.patch, "at least 1 pixel")
        _require(
            self.heads >= 1 and self.width >= 1 and self.width % self.heads == 0,
            "processor.width",
            self.width,
            f"a positive multiple of processor.heads={self.heads}",
        )
        _require(
            self.positions == "none" or self.width % 4 == 0,
            "processor.width",
            self.width,
            "a multiple of 4 with positions='sincos'",
        )


AUTHORS_PROCESSOR = ProcessorConfig(residual="none", zero_init=False, extra_projection=True)


@dataclass(frozen=True)
class CurriculumConfig:
    """Phases of p_curr as shares of all optimiser steps, and its values (§3.2).

    After cool-down p_curr stays at `end`.
    """

    cold: float = 0.1
    warm: float = 0.3
    cool: float = 0.4
    low: float = 0.05
    high: float = 0.5
    end: float = 0.1
    cold_probability: float = 0.0

    def __post_init__(self) -> None:
        for phase in dataclasses.fields(self):
            value = getattr(self, phase.name)
            _require(0 <= value <= 1, f"curriculum.{phase.name}", value, "a number from 0 to 1")
        total = self.cold + self.warm + self.cool
        _require(total <= 1 + 1e-9, "curriculum.cold + warm + cool", total, "at most 1")


@dataclass(frozen=True)
class EClipConfig:
    """Everything that distinguishes eCLIP from CLIP (Alg. 1)."""

    # None: a method without mixed pairs
    processor: ProcessorConfig | None = field(default_factory=ProcessorConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    alpha: float = 0.3  # lam ~ Beta(alpha, alpha)
    lam: float | None = None  # a fixed lam instead of a draw
    priming_weight: float = 0.1  # w_p
    regions: bool = False  # a projection of image regions to the width of words (GLoRIA)
    own_pairs: str = "diagonal"  # what the second copy of a sample's text counts as
    crop_threshold: float = 0.1  # a crop that keeps less of the heatmap's mass is not annotated

    def __post_init__(self) -> None:
        _require(0 < self.alpha < math.inf, "alpha", self.alpha, "a positive finite number")
        _require(
            self.lam is None or 0 <= self.lam <= 1, "lam", self.lam, "a number from 0 to 1, or None"
        )
        _require(
            0 <= self.priming_weight < 1, "priming_weight", self.priming_weight, "0 <= w_p < 1"
        )
        _require(self.own_pairs in OWN_PAIRS, "own_pairs", self.own_pairs, f"one of {OWN_PAIRS}")
        _require(
            0 <= self.crop_threshold <= 1,
            "crop_threshold",
            self.crop_threshold,
            "a share from 0 to 1",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EClipConfig:
        """Build from a (nested) dict such as a model JSON's `eclip_cfg`.

        UserError names an unknown key, or a bad value.
        """
        return build_settings(cls, values, "eclip_cfg")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# annotation of a field: classes of its values
KINDS: dict[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": str,
}


def flag_of(name: str) -> str:
    """The flag of an argument, e.g. `--batch-size` of `batch_size`."""
    return "--" + name.replace("_", "-")


def current_names(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings that a run has stored, under today's names; values may be texts, as in params.txt.

    UserError, beginning with `where`, for an option that went, unless it had its default.
    """
    for name, default in REMOVED.items():
        value = stored.get(name)
        if value not in (None, "None", default, str(default)):
            raise UserError(
                f"{where}: {flag_of(name)} {value} went after release 0.1, since it brought no"
                " gain; use release 0.1 for this run."
            )
    return {RENAMED.get(name, name): value for name, value in stored.items() if name not in REMOVED}


def build_settings(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """The dataclass `cls` from a (nested) dict.

    UserError, beginning with `where`, for an unknown key or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{where}: {values!r}; expected a dict of settings (use {{}} for the defaults)."
        )
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(
            f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}."
        )
    for f in dataclasses.fields(cls):
        annotation = str(f.type)  # a string already: annotations are not evaluated in this file
        kinds = KINDS.get(annotation)
        if (
            f.name in values
            and kinds
            and (
                not isinstance(values[f.name], kinds)
                or isinstance(values[f.name], bool) != (annotation == "bool")
            )
        ):
            raise UserError(f"{where}: {f.name}={values[f.name]!r}; expected {annotation}.")
    nested: dict[str, type] = (
        {"processor": ProcessorConfig, "curriculum": CurriculumConfig} if cls is EClipConfig else {}
    )
    return cls(
        **{
            key: (
                build_settings(nested[key], value, f"{where}.{key}")
                if key in nested and (key, value) != ("processor", None)
                else value
            )
            for key, value in values.items()
        }
    )


class DataError(UserError):
    """Bad input data; the message names file and row or key."""
