"""The head: an axial slice of skull and brain, with five findings of the brain.

Nothing but the frames is the chest's: a bright ring around a grey field with random folds and
clouds of its own in each image, where the chest has dark fields under regular ribs; findings that
differ in shape more than in brightness; other words.
"""

import numpy as np

from .anatomy import Anatomy, Scenes, Words, step

_TOP, _BOTTOM, _INNER = -0.38, 0.38, 0.9  # of the brain, in Y; inner skull, as share of the outer
# Plane waves of the texture, cycles a side. Clouds fall off with frequency; the folds lie where
# the sum of waves in a narrow band is zero
_CLOUDS = np.geomspace(2, 14, 12)
_FOLDS = np.linspace(5, 7.5, 10)


def _half_width(y: np.ndarray) -> np.ndarray:
    """Half-width of the outer skull at Y: an ellipse, wider at the back."""
    return (0.335 + 0.06 * y) * np.sqrt(np.clip(1 - (y / 0.43) ** 2, 0, 1))


def _brain_point(side: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Convert coordinates of a hemisphere to anatomy X, Y, float32 (..., 2).

    u runs from -1 (near the midline) to 1 (near the skull), v from 0 (frontal) to 1 (occipital).
    """
    y = _TOP + v * (_BOTTOM - _TOP)
    x = np.where(side == 1, 0.5, -0.5) * (1 + 0.8 * u) * _INNER * _half_width(y)
    return np.stack([x, y], axis=-1).astype(np.float32)


def _draw(scenes: Scenes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image without findings and the brain in [0, 1], both (B, H, W)."""
    across = np.abs(x)
    # 1 at the outer skull
    r = np.sqrt((x / (0.335 + 0.06 * y)) ** 2 + (y / np.float32(0.43)) ** 2)
    brain = step(_INNER - r, 0.012)
    skull = step(1 - r, 0.012) - brain
    scalp = step(1.1 - r, 0.012) - step(1 - r, 0.012)
    # Ventricles: a dark bow beside the midline in each hemisphere
    bow = across - 0.032 - 0.9 * (y + 0.01) ** 2
    width = 0.020 * scenes.organ[:, None, None]
    ventricles = step(width - np.abs(bow), 0.006) * step(0.15 - np.abs(y + 0.01), 0.012)
    midline = np.exp(-((x / 0.008) ** 2)) * step(np.abs(y) - 0.17, 0.02)
    of_clouds, of_folds = np.split(scenes.waves, [len(_CLOUDS)], axis=1)
    clouds = _sum_of_waves(of_clouds, _CLOUDS, 1 / _CLOUDS, x, y)
    band = _sum_of_waves(of_folds, _FOLDS, np.ones_like(_FOLDS), x, y)
    folds = np.exp(-((band / 0.35) ** 2)) * step(r - 0.42, 0.05)
    inside = 0.48 + 0.05 * clouds - 0.17 * folds + 0.12 * midline
    image = 0.04 + 0.24 * scalp + 0.82 * skull
    image += brain * (inside + ventricles * (0.12 - inside))
    return image, brain * (1 - 0.5 * ventricles)


def _sum_of_waves(
    waves: np.ndarray, cycles: np.ndarray, amplitude: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Random plane waves, summed and scaled to a variance of 1, (B, H, W).

    `waves`: (B, K, 2) direction and phase; `cycles`, `amplitude`: (K,) of each wave.
    """
    total = np.zeros_like(x)
    scaled = amplitude * np.sqrt(2 / np.sum(amplitude**2))
    for k, (turns, height) in enumerate(zip(2 * np.pi * cycles, scaled, strict=True)):
        direction, phase = waves[:, k, 0, None, None], waves[:, k, 1, None, None]
        along = np.cos(direction) * x + np.sin(direction) * y
        total += np.float32(height) * np.cos(np.float32(turns) * along + phase)
    return total


def _finding_shape(
    name: str, along: np.ndarray, beside: np.ndarray, phase: np.ndarray
) -> np.ndarray:
    """The profile of a finding, peak about 1, on its own axes in units of its radius."""
    r = np.sqrt(along**2 + beside**2)
    if name == "haemorrhage":  # a bright crescent
        bite = np.sqrt(along**2 + (beside + 0.75) ** 2)
        return step(1.1 - r, 0.08) * step(bite - 0.75, 0.08)
    if name == "infarct":  # a dark wedge
        wide = 0.55 * (beside + 1.1) - np.abs(along)
        return -step(wide, 0.08) * step(1.0 - beside, 0.08)
    if name == "calcification":  # a cluster of bright dots
        dots = np.zeros_like(along)
        for k in range(5):
            turn = phase + 2 * np.pi * k / 5
            far = 0.55 + 0.35 * (k % 2)
            apart = (along - far * np.cos(turn)) ** 2 + (beside - far * np.sin(turn)) ** 2
            dots += np.exp(-apart / (2 * 0.20**2))
        return 1.4 * dots
    if name == "metastasis":  # a bright core in a dark halo
        return np.exp(-((r / 0.45) ** 2)) - 0.7 * np.exp(-(((r - 1.0) / 0.35) ** 2))
    # malformation: winding stripes, bright and dark
    winding = along + 0.25 * np.sin(2.5 * beside + phase)
    return np.exp(-0.5 * (r / 0.8) ** 2) * np.cos(winding * np.float32(2 * np.pi / 0.95))


_WORDS = Words(
    synonyms={
        "haemorrhage": (
            "haemorrhage",
            "parenchymal bleed",
            "hyperdense haematoma",
            "crescent of fresh blood",
        ),
        "infarct": (
            "infarct",
            "wedge-shaped hypodensity",
            "demarcated ischaemic territory",
            "focus of ischaemia",
        ),
        "calcification": (
            "calcification",
            "cluster of calcified specks",
            "group of mineral deposits",
            "punctate calcified focus",
        ),
        "metastasis": (
            "metastasis",
            "target-like secondary",
            "nodule with a halo of oedema",
            "deposit with surrounding oedema",
        ),
        "malformation": (
            "vascular malformation",
            "tangle of vessels",
            "serpiginous nidus",
            "cavernoma-like bundle",
        ),
    },
    severities=(
        ("tiny", "discrete", "faint"),
        ("sizeable", "mid-sized"),
        ("bulky", "pronounced", "massive"),
    ),
    zones=(
        ("frontal lobe", "frontal region", "anterior third"),
        ("parietal lobe", "central region", "middle third"),
        ("occipital lobe", "occipital region", "posterior third"),
    ),
    templates=(
        "{side} {zone}: {severity} {finding}.",
        "The {side} hemisphere {seen} a {severity} {finding} in its {zone}.",
        "Axial slices reveal a {severity} {finding} within the {zone}, {side} side.",
    ),
    seen=("harbours", "contains", "shows", "exhibits"),
    normal_templates=(
        "The brain parenchyma is {clear}.",
        "{clear} grey-white differentiation throughout.",
        "Both hemispheres appear {clear}.",
    ),
    clear=("normal", "preserved", "age-appropriate", "unremarkable"),
    negations=(
        "Negative for {finding}.",
        "{finding} is absent.",
        "No sign of {finding}.",
        "{finding} has been excluded.",
    ),
    never_drawn=("hydrocephalus", "midline shift", "skull fracture"),
    distractors=(
        "Ventricular size is appropriate.",
        "The paranasal sinuses are aerated.",
        "Mild volume loss of the cerebellum.",
        "The study is degraded by motion.",
        "Unenhanced acquisition.",
        "The orbits are intact.",
        "Follow-up as clinically indicated.",
        "The basal cisterns are patent.",
    ),
    devices=(
        ("Scalp electrodes are attached.", "EEG electrodes surround the head."),
        ("A shunt ends in the ventricle.", "Ventricular drain in place."),
        ("An intracranial pressure probe is noted.", "Pressure monitor through a burr hole."),
        ("Aneurysm clip near the midline.", "A metallic clip causes artefacts."),
    ),
)
HEAD = Anatomy(
    title="head CT slices",
    words=_WORDS,
    device_shares=(0.25, 0.20, 0.20, 0.20),
    device_lines=(  # electrodes, shunt, pressure probe, aneurysm clip
        tuple(
            ((x, y), (x, y + 0.001), 0.017, 0.5)
            for x, y in ((-0.34, -0.15), (-0.37, 0.1), (-0.27, 0.34), (0.34, -0.15), (0.37, 0.1))
        ),
        (((0.30, 0.42), (0.05, 0.06), 0.006, 0.35),),
        (
            ((-0.27, -0.33), (-0.15, -0.20), 0.006, 0.45),
            ((-0.15, -0.20), (-0.15, -0.199), 0.014, 0.35),
        ),
        (((0.04, -0.02), (-0.03, 0.01), 0.012, 0.50), ((-0.03, 0.01), (0.02, 0.04), 0.007, 0.40)),
    ),
    natural_position={
        "normal": (0.1, 0.3, 0.5, 0.2),  # drawn like the others, never used
        "haemorrhage": (0.1, 0.2, 0.62, 0.06),
        "infarct": (0.35, 0.1, 0.45, 0.07),
        "calcification": (-0.2, 0.15, 0.38, 0.06),
        "metastasis": (0.3, 0.2, 0.25, 0.04),
        "malformation": (0.0, 0.2, 0.78, 0.04),
    },
    u_range=(-0.4, 0.45),  # clear of midline and skull
    v_range=(0.2, 0.82),
    radius=np.array([0.060, 0.074, 0.088], np.float32),
    contrast=np.array([0.26, 0.31, 0.36], np.float32),
    noise=(0.025, 0.055),
    place=_brain_point,
    draw=_draw,
    finding_shape=_finding_shape,
    waves=len(_CLOUDS) + len(_FOLDS),
    stream=(1,),
)
