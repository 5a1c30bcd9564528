"""The chest: two lung fields, heart, ribs and vessels, with five findings of the lung."""

import numpy as np

from .anatomy import Anatomy, Scenes, Words, step

_LUNG_TOP, _LUNG_BOTTOM, _LUNG_HALF_WIDTH = -0.36, 0.27, 0.15
_HILUM = (0.10, -0.03)  # (|X|, Y)


def _lung_point(side: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Convert lung coordinates to anatomy X, Y, float32 (..., 2).

    u runs from -1 (medial) to 1 (lateral), v from 0 (apex) to 1 (diaphragm).
    """
    sign = np.where(side == 1, 1.0, -1.0)
    x = sign * (_lung_axis(v) + 0.8 * u * _lung_half_width(v))
    return np.stack([x, _LUNG_TOP + v * (_LUNG_BOTTOM - _LUNG_TOP)], axis=-1).astype(np.float32)


def _lung_axis(v: np.ndarray) -> np.ndarray:
    return 0.17 + 0.035 * v


def _lung_half_width(v: np.ndarray) -> np.ndarray:
    return _LUNG_HALF_WIDTH * (1 - (1 - np.clip(v, 0, 1)) ** 2.2) ** 0.6


def _draw(scenes: Scenes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image without findings and the lung field in [0, 1], both (B, H, W)."""
    across = np.abs(x)
    v = (y - _LUNG_TOP) / np.float32(_LUNG_BOTTOM - _LUNG_TOP)
    from_axis = across - _lung_axis(v)
    # The dome of the diaphragm leaves a sharp angle at the chest wall
    floor = _LUNG_BOTTOM + 2.5 * np.abs(from_axis - 0.02) ** 2
    heart_x, heart_y = x - 0.055, y - 0.15
    radius = 0.15 * scenes.organ[:, None, None]
    heart = step(1 - np.sqrt((heart_x / radius) ** 2 + (heart_y / (0.85 * radius)) ** 2), 0.07)
    lung = (
        step(_lung_half_width(v) - np.abs(from_axis), 0.008)
        * step(floor - y, 0.010)
        * (1 - 0.85 * heart)
    )
    shoulders = 0.13 + 0.36 * step(y + 0.40, 0.02)
    image = 0.06 + 0.50 * step(shoulders - across, 0.012) - 0.36 * lung
    image += 0.14 * np.exp(-((across / 0.06) ** 4)) + 0.04 * heart
    # Ribs: bright bands along curved lines, beside the spine and above the diaphragm
    rib_phase = scenes.phase[:, 0, None, None] * 0.3
    rib_line = y - 0.9 * across + 1.6 * across**2
    ribs = np.maximum(np.cos(rib_line * np.float32(2 * np.pi / 0.085) + rib_phase), 0) ** 2
    beside_spine = step(across - 0.05, 0.01)
    above_diaphragm = step(_LUNG_BOTTOM - y, 0.03)
    image += 0.075 * ribs * (0.25 + 0.75 * lung) * beside_spine * above_diaphragm
    # Clavicles: one oblique line on each side
    clavicle = step(0.013 - np.abs(y + 0.325 + 0.12 * (across - 0.2)), 0.004)
    image += 0.10 * clavicle * step(0.36 - across, 0.01)
    image += 0.13 * lung * _vessels(scenes, across, y, x > 0)
    return image, lung


def _vessels(scenes: Scenes, across: np.ndarray, y: np.ndarray, is_left: np.ndarray) -> np.ndarray:
    """Vessels that leave the hilum and fade with distance, (B, H, W) in [0, 1]."""
    dx, dy = across - _HILUM[0], y - _HILUM[1]
    phase = np.where(is_left, scenes.phase[:, 2, None, None], scenes.phase[:, 1, None, None])
    distance = np.sqrt(dx**2 + dy**2)
    branches = np.maximum(np.cos(9 * np.arctan2(dy, dx) + phase + 12 * distance), 0) ** 3
    return np.exp(distance / np.float32(-0.13)) * (0.25 + 0.75 * branches)


def _finding_shape(
    name: str, along: np.ndarray, beside: np.ndarray, phase: np.ndarray
) -> np.ndarray:
    """The profile of a finding, peak about 1, on its own axes in units of its radius."""
    r = np.sqrt(along**2 + beside**2)
    if name == "nodule":
        return step(0.8 - r, 0.07)
    if name == "consolidation":
        theta = np.arctan2(beside, along)
        ragged = r * (1 + 0.22 * np.cos(3 * theta + phase) + 0.12 * np.cos(7 * theta + 2 * phase))
        return np.exp(-0.5 * (ragged / 0.85) ** 2) * (0.85 + 0.15 * np.cos(5 * along + phase))
    if name == "cavity":
        return np.exp(-(((r - 0.95) / 0.30) ** 2)) - 0.35 * step(0.6 - r, 0.07)
    if name == "atelectasis":
        return np.exp(-((beside / 0.25) ** 2)) * step(1.6 - np.abs(along), 0.10)
    return 0.25 * np.exp(-(((r - 1.15) / 0.15) ** 2)) - 0.8 * step(1.0 - r, 0.08)  # bulla


_WORDS = Words(
    synonyms={
        "nodule": (
            "nodule",
            "round nodular opacity",
            "well-defined coin lesion",
            "solitary nodule",
        ),
        "consolidation": (
            "consolidation",
            "patchy consolidation",
            "fluffy airspace opacity",
            "hazy pneumonic infiltrate",
        ),
        "cavity": (
            "cavity",
            "thick-walled cavity",
            "ring-shaped cavitating lesion",
            "cavitary lesion",
        ),
        "atelectasis": (
            "band of atelectasis",
            "linear atelectasis",
            "plate-like atelectasis",
            "streak of lung collapse",
        ),
        "bulla": ("bulla", "thin-walled bulla", "lucent air-filled bulla", "bullous lucency"),
    },
    severities=(
        ("small", "subtle", "minor"),
        ("moderate", "medium-sized"),
        ("large", "marked", "extensive"),
    ),
    zones=(
        ("upper zone", "upper lung", "upper lobe region"),
        ("mid zone", "middle zone", "mid lung"),
        ("lower zone", "lower lung", "base"),
    ),
    templates=(
        "There is a {severity} {finding} in the {side} {zone}.",
        "{severity} {finding} projecting over the {side} {zone}.",
        "In the {side} {zone} a {severity} {finding} is {seen}.",
    ),
    seen=("seen", "noted", "present", "demonstrated"),
    normal_templates=(
        "The lungs are {clear}.",
        "{clear} lungs on both sides.",
        "Both lung fields are {clear} without focal lesion.",
    ),
    clear=("clear", "well aerated", "normal", "unremarkable"),
    negations=(
        "No {finding}.",
        "There is no {finding}.",
        "No evidence of {finding}.",
        "{finding} is not seen.",
    ),
    never_drawn=("pleural effusion", "pneumothorax", "fracture"),
    distractors=(
        "Heart size is within normal limits.",
        "The cardiomediastinal contours are stable.",
        "The bony thorax is intact.",
        "Degenerative changes of the spine.",
        "The patient is slightly rotated.",
        "Comparison is made with the prior examination.",
        "Hilar contours are unremarkable.",
        "Portable frontal view of the chest.",
    ),
    devices=(
        ("ECG leads overlie the chest.", "Monitoring leads project over the thorax."),
        ("Left-sided pacemaker in situ.", "A pacemaker projects over the left chest wall."),
        (
            "Endotracheal tube tip above the carina.",
            "The endotracheal tube is in standard position.",
        ),
        (
            "Feeding tube courses below the diaphragm.",
            "Nasogastric tube with its tip in the stomach.",
        ),
    ),
)
CHEST = Anatomy(
    title="chest X-rays",
    words=_WORDS,
    device_shares=(0.30, 0.15, 0.15, 0.15),
    device_lines=(  # leads, pacemaker, endotracheal tube, feeding tube
        (
            ((-0.22, -0.45), (-0.20, -0.18), 0.004, 0.18),
            ((-0.20, -0.18), (-0.20, -0.179), 0.018, 0.25),
            ((0.30, -0.45), (0.24, -0.12), 0.004, 0.18),
            ((0.24, -0.12), (0.24, -0.119), 0.018, 0.25),
            ((0.42, 0.40), (0.27, 0.20), 0.004, 0.18),
            ((0.27, 0.20), (0.27, 0.201), 0.018, 0.25),
        ),
        (
            ((0.22, -0.28), (0.26, -0.27), 0.035, 0.40),
            ((0.22, -0.26), (0.03, -0.20), 0.005, 0.25),
            ((0.03, -0.20), (0.08, 0.20), 0.005, 0.25),
        ),
        (((0.0, -0.50), (0.005, -0.16), 0.009, 0.20),),
        (((0.015, -0.50), (0.02, 0.28), 0.005, 0.22), ((0.02, 0.28), (0.12, 0.38), 0.005, 0.22)),
    ),
    natural_position={
        "normal": (0.1, 0.3, 0.5, 0.2),  # drawn like the others, never used
        "nodule": (0.4, 0.2, 0.5, 0.10),
        "consolidation": (-0.1, 0.2, 0.68, 0.07),
        "cavity": (0.0, 0.2, 0.28, 0.05),
        "atelectasis": (0.1, 0.2, 0.85, 0.04),
        "bulla": (0.45, 0.15, 0.30, 0.07),
    },
    u_range=(-0.35, 0.65),  # in the lung, clear of the heart
    v_range=(0.2, 0.88),
    radius=np.array([0.057, 0.071, 0.086], np.float32),
    contrast=np.array([0.25, 0.31, 0.37], np.float32),
    noise=(0.015, 0.045),
    place=_lung_point,
    draw=_draw,
    finding_shape=_finding_shape,
)
