"""What an anatomy consists of: shapes, places and findings to draw, and words to report them.

`chest.py` and `head.py` have one each. Everything else of a phantom is the same for both: frames,
gaze, exposure, markers, boxes and the grammar of reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NORMAL = 0  # label of images without a finding, in every anatomy
SIDES = ("right", "left")  # of the patient: "right" is drawn on the left of the image
CLASS_SHARES = (0.30, 0.14, 0.14, 0.14, 0.14, 0.14)

Point = tuple[float, float]
Line = tuple[Point, Point, float, float]  # start and end (X, Y) in anatomy, half-width, grey


@dataclass(frozen=True)
class Words:
    """The words of an anatomy's reports. Templates name the fields that `reports.py` fills in."""

    synonyms: Mapping[str, tuple[str, ...]]  # of each finding: noun phrases that can follow "a"
    severities: tuple[tuple[str, ...], ...]  # synonyms of each of the three severities
    zones: tuple[tuple[str, ...], ...]  # synonyms of each of the three zones
    templates: tuple[str, ...]  # three: {severity} {finding} {side} {zone} {seen}
    seen: tuple[str, ...]
    normal_templates: tuple[str, ...]  # three: {clear}
    clear: tuple[str, ...]
    negations: tuple[str, ...]  # {finding}
    never_drawn: tuple[str, ...]  # denied, too
    distractors: tuple[str, ...]  # sentences that say nothing of the image
    devices: tuple[tuple[str, ...], ...]  # sentences on each device, in the anatomy's order

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the six classes; labels index them."""
        return ("normal", *self.synonyms)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Shapes, places and words of one anatomy; the functions are vectorised.

    `place`: (side, u, v) -> X, Y in anatomy, float32 (..., 2); u runs from -1 (medial) to 1
    (lateral), v from 0 (top) to 1 (bottom). `draw`: (scenes, X, Y) -> the image without findings
    and the field in [0, 1] where findings show, both (B, H, W). `finding_shape`: (class, along,
    beside, phase) -> the profile of a finding, peak about 1, on its own axes in units of its
    radius.
    """

    title: str  # of an image, for pages
    words: Words
    device_shares: tuple[float, ...]  # probability of each device
    device_lines: tuple[tuple[Line, ...], ...]  # what each device is drawn with
    # where each class occurs: mean and s.d. of u, mean and s.d. of v
    natural_position: Mapping[str, tuple[float, float, float, float]]
    u_range: tuple[float, float]  # findings stay in these ranges; zones are thirds of v_range
    v_range: tuple[float, float]
    # By severity, for all classes: neither the size of a finding nor the spread of the gaze gives
    # the class away
    radius: np.ndarray  # float32 (3,), image sides
    contrast: np.ndarray  # float32 (3,), grey levels of 1
    noise: tuple[float, float]  # range of the noise's s.d., grey levels of 1
    place: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    draw: Callable[[Scenes, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    finding_shape: Callable[[str, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    waves: int = 0  # number of random plane waves of the texture
    stream: Sequence[int] = ()  # spawn key of its random streams


@dataclass(frozen=True)
class Scenes:
    """What B images show, before any pixel is drawn.

    Lengths are in image sides, angles in radians; arrays are float32 unless stated.
    """

    anatomy: Anatomy
    contrast: float  # factor of the findings' contrast
    label: np.ndarray  # (B,) int64, index into the anatomy's classes
    side: np.ndarray  # (B,) int64, 0 patient's right (the image's left), 1 patient's left
    zone: np.ndarray  # (B,) int64, 0 upper, 1 mid, 2 lower
    severity: np.ndarray  # (B,) int64, 0..2
    natural: np.ndarray  # (B,) bool: the position follows the class
    position: np.ndarray  # (B, 2) lesion (or decoy) centre X, Y in anatomy
    angle: np.ndarray  # (B,) of the lesion's long axis
    phase: np.ndarray  # (B, 4) of the patient's shapes, the last of the lesion's outline
    shift: np.ndarray  # (B, 2) of the patient
    scale: np.ndarray  # (B, 2) of the patient
    rotation: np.ndarray  # (B,) of the patient
    organ: np.ndarray  # (B,) relative size of the heart, or of the brain's ventricles
    devices: np.ndarray  # (B, 4) bool, order of the anatomy's devices
    marker: np.ndarray  # (B, 3): corner x, corner y, kind (0 R, 1 L, 2 none)
    exposure: np.ndarray  # (B, 5): gain, offset, tilt x, tilt y, noise s.d. in grey levels of 1
    waves: np.ndarray  # (B, K, 2): direction and phase of each plane wave of the texture


def step(distance: np.ndarray, softness: float) -> np.ndarray:
    """A logistic step from 0 to 1 at distance 0."""
    # by tanh because exp overflows in float32
    return 0.5 + 0.5 * np.tanh(distance * np.float32(0.5 / softness))
