"""Synthetic chest X-rays: scenes, then images, true lesion boxes and gaze heatmaps.

There are two coordinate frames. *Anatomy*: X to the right of the image, Y down, origin mid-chest,
unit = image side; lungs, heart and lesion are placed here. *Image*: x, y in [0, 1], pixel centres
at (i + 0.5) / size. A shift, a rotation and a scale per sample lead from one to the other.

Shape letters: B samples, H = W = size pixels, F fixations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .reports import CLASS_NAMES, DEVICES

Point = tuple[float, float]
NORMAL = CLASS_NAMES.index("normal")
CLASS_SHARES = (0.30, 0.14, 0.14, 0.14, 0.14, 0.14)

_LUNG_TOP, _LUNG_BOTTOM, _LUNG_HALF_WIDTH = -0.36, 0.27, 0.15
_HILUM = (0.10, -0.03)  # (|X|, Y)

# Where each class occurs in a lung: mean and s.d. of u (-1 mediastinum .. 1 chest wall), mean and
# s.d. of v (0 apex .. 1 diaphragm)
_NATURAL_POSITION = {
    "normal": (0.1, 0.3, 0.5, 0.2),  # drawn like the others, never used
    "nodule": (0.4, 0.2, 0.5, 0.10),
    "consolidation": (-0.1, 0.2, 0.68, 0.07),
    "cavity": (0.0, 0.2, 0.28, 0.05),
    "atelectasis": (0.1, 0.2, 0.85, 0.04),
    "bulla": (0.45, 0.15, 0.30, 0.07),
}
_U_RANGE, _V_RANGE = (-0.35, 0.65), (0.2, 0.88)  # lesions stay in the lung, clear of the heart

# By severity. All classes share the radii, so that neither the size of a lesion nor the spread of
# the gaze gives the class away.
_RADIUS = np.array([0.057, 0.071, 0.086], np.float32)  # image sides
_CONTRAST = np.array([0.25, 0.31, 0.37], np.float32)
_DEVICE_SHARES = np.array([0.30, 0.15, 0.15, 0.15])  # in the order of DEVICES
# R and L, each five rows of three blocks
_LETTERS = np.array(
    [
        [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]],
        [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Knobs:
    """The settings of `phantom.generate.generate` under the same names."""

    gaze_leak: float = 1.0
    gaze_noise: float = 0.0
    gaze_shift: float = 0.0
    shortcut: float = 0.0
    findings: int = 1


@dataclass(frozen=True)
class Scenes:
    """What B images show, before any pixel is drawn.

    Lengths are in image sides, angles in radians; arrays are float32 unless stated.
    """

    label: np.ndarray  # (B,) int64, index into CLASS_NAMES
    side: np.ndarray  # (B,) int64, 0 patient's right (the image's left), 1 patient's left
    zone: np.ndarray  # (B,) int64, 0 upper, 1 mid, 2 lower
    severity: np.ndarray  # (B,) int64, 0..2
    natural: np.ndarray  # (B,) bool: the position follows the class
    position: np.ndarray  # (B, 2) lesion (or decoy) centre X, Y in anatomy
    angle: np.ndarray  # (B,) of the lesion's long axis
    phase: np.ndarray  # (B, 4) of ribs, vessels right and left, lesion outline
    shift: np.ndarray  # (B, 2) of the patient
    scale: np.ndarray  # (B, 2) of the patient
    rotation: np.ndarray  # (B,) of the patient
    heart: np.ndarray  # (B,) relative heart size
    devices: np.ndarray  # (B, 4) bool, order of DEVICES
    marker: np.ndarray  # (B, 3): corner x, corner y, kind (0 R, 1 L, 2 none)
    exposure: np.ndarray  # (B, 5): gain, offset, tilt x, tilt y, noise s.d. in grey levels of 1


def lung_point(side: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Convert lung coordinates to anatomy X, Y, float32 (..., 2).

    u runs from -1 (medial) to 1 (lateral), v from 0 (apex) to 1 (diaphragm).
    """
    sign = np.where(side == 1, 1.0, -1.0)
    x = sign * (_lung_axis(v) + 0.8 * u * _lung_half_width(v))
    return np.stack([x, _LUNG_TOP + v * (_LUNG_BOTTOM - _LUNG_TOP)], axis=-1).astype(np.float32)


def draw_scenes(rng: np.random.Generator, count: int, knobs: Knobs) -> Scenes:
    """Draw `count` scenes.

    Only the lesion, its position and the devices can depend on the class. The position does so
    with probability `gaze_leak`. The devices do so with probability `shortcut`: each class then
    has its own set of them.
    """
    label = rng.choice(len(CLASS_NAMES), size=count, p=CLASS_SHARES)
    side = rng.integers(2, size=count)
    severity = rng.integers(3, size=count)
    natural_positions = np.array([_NATURAL_POSITION[name] for name in CLASS_NAMES])  # (6, 4)
    u_mean, u_sd, v_mean, v_sd = natural_positions[label].T
    natural = rng.random(count) < knobs.gaze_leak
    # Both positions are always drawn, so that the rest of the scene does not change with gaze_leak
    natural_u, natural_v = rng.normal(u_mean, u_sd), rng.normal(v_mean, v_sd)
    common_u, common_v = rng.uniform(*_U_RANGE, count), rng.uniform(*_V_RANGE, count)
    u = np.clip(np.where(natural, natural_u, common_u), *_U_RANGE)
    v = np.clip(np.where(natural, natural_v, common_v), *_V_RANGE)
    exposure = rng.uniform(
        (0.75, -0.07, -0.12, -0.12, 0.015), (1.15, 0.07, 0.12, 0.12, 0.045), (count, 5)
    )
    marker = np.stack(
        [rng.integers(2, size=count), rng.integers(2, size=count), rng.integers(3, size=count)],
        axis=-1,
    )
    geometry = {
        "angle": rng.uniform(-0.5, 0.5, count),
        "phase": rng.uniform(0, 2 * np.pi, (count, 4)),
        "shift": rng.uniform(-0.03, 0.03, (count, 2)),
        "scale": rng.uniform(0.93, 1.06, (count, 2)),
        "rotation": rng.uniform(-0.06, 0.06, count),
        "heart": rng.uniform(0.9, 1.15, count),
    }
    devices = rng.random((count, len(DEVICES))) < _DEVICE_SHARES
    # the bits of the label are the devices of its class
    if knobs.shortcut:
        sets = label[:, None] >> np.arange(len(DEVICES)) & 1
        devices = np.where(rng.random((count, 1)) < knobs.shortcut, sets, devices).astype(bool)
    return Scenes(
        label=label,
        side=side,
        zone=np.minimum((3 * (v - _V_RANGE[0]) / (_V_RANGE[1] - _V_RANGE[0])).astype(np.int64), 2),
        severity=severity,
        natural=natural,
        position=lung_point(side, u, v),
        **{name: values.astype(np.float32) for name, values in geometry.items()},
        devices=devices,
        marker=marker,
        exposure=exposure.astype(np.float32),
    )


def render_images(
    scenes: Scenes, rng: np.random.Generator, size: int, further: Sequence[Scenes] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Render images, uint8 (B, H, W), and their lesion boxes, int32 (B, 4).

    A box is x0, y0, x1, y1 in pixels, x1 and y1 exclusive; normal images have -1 throughout. It
    bounds the pixels where the rendered lesion has more than 35 % of its peak contrast.

    Args:
        rng: generator of the noise.
        further: L layers of further lesions of the same patients, drawn on the same images. The
            boxes are then int32 (1 + L, B, 4).
    """
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    image_x, image_y = centres[None, None, :], centres[None, :, None]
    x, y = _to_anatomy(scenes, image_x, image_y)
    image, lung = _anatomy(scenes, x, y)
    lesions = [_lesions(layer, x, y) * (0.25 + 0.75 * lung) for layer in (scenes, *further)]
    for lesion in lesions:
        image += lesion
    _add_devices(image, scenes, x, y)
    _add_markers(image, scenes, image_x, image_y)
    gain, offset, tilt_x, tilt_y, noise = (column[:, None, None] for column in scenes.exposure.T)
    image = 0.5 + gain * (image - 0.5) + offset
    image = image + tilt_x * (image_x - 0.5) + tilt_y * (image_y - 0.5)
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    layers = (scenes, *further)
    boxes = [_boxes(lesion, layer.label != NORMAL) for lesion, layer in zip(lesions, layers)]
    grey = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return grey, np.stack(boxes) if further else boxes[0]


def render_gaze(scenes: Scenes, rng: np.random.Generator, size: int, knobs: Knobs) -> np.ndarray:
    """Render gaze heatmaps, float32 (B, H, W) in [0, 1] with maximum 1.

    Each map has two fixations at the lesion and four weak fixations of visual search. `gaze_noise`
    adds fixations at random positions. A normal image has search only if its scene is `natural`;
    otherwise its lesion fixations go to a decoy position.
    """
    count = len(scenes.label)
    scatter = 0.025 * rng.standard_normal((count, 2, 2), dtype=np.float32)
    at_finding = scenes.position[:, None] + scatter
    side = rng.integers(2, size=(count, 4))
    search = lung_point(
        side, rng.uniform(-0.6, 0.8, (count, 4)), rng.uniform(0.1, 0.95, (count, 4))
    )
    fixations = _to_image(scenes, np.concatenate([at_finding, search], axis=1))  # (B, F, 2)
    weights = rng.uniform([0.8] * 2 + [0.10] * 4, [1.0] * 2 + [0.30] * 4, (count, 6)).astype(
        np.float32
    )
    weights[(scenes.label == NORMAL) & scenes.natural, :2] = 0
    sigma = rng.uniform(0.04, 0.06, (count, 6, 1)).astype(np.float32)
    # Six random fixations share the mass that makes them `gaze_noise` of the whole; the mass of a
    # Gaussian is proportional to weight x sigma^2
    if knobs.gaze_noise:
        strays = rng.uniform(0.1, 0.9, (count, 6, 2)).astype(np.float32)
        true_mass = (weights * sigma[..., 0] ** 2).sum(axis=1, keepdims=True)
        stray_mass = true_mass * knobs.gaze_noise / (1 - knobs.gaze_noise)
        fixations = np.concatenate([fixations, strays], axis=1)
        sigma = np.concatenate([sigma, sigma], axis=1)
        weights = np.concatenate([weights, stray_mass / (6 * sigma[:, 6:, 0] ** 2)], axis=1)
    # All fixations of a map move by the same vector
    if knobs.gaze_shift:
        turn = rng.uniform(0, 2 * np.pi, (count, 1))
        shift = knobs.gaze_shift * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        fixations = (fixations + shift).astype(np.float32)
    # The map is a sum of separable Gaussians
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    profile_x = np.exp(-0.5 * ((centres - fixations[..., :1]) / sigma) ** 2)  # (B, F, W)
    profile_y = np.exp(-0.5 * ((centres - fixations[..., 1:]) / sigma) ** 2)  # (B, F, H)
    heat = np.matmul((weights[..., None] * profile_y).transpose(0, 2, 1), profile_x)
    return heat / heat.max(axis=(1, 2), keepdims=True)


def _to_anatomy(
    scenes: Scenes, image_x: np.ndarray, image_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Convert image x, y to anatomy X, Y of each sample, both (B, H, W)."""
    dx = image_x - 0.5 - scenes.shift[:, 0, None, None]
    dy = image_y - 0.5 - scenes.shift[:, 1, None, None]
    cos, sin = np.cos(scenes.rotation)[:, None, None], np.sin(scenes.rotation)[:, None, None]
    return (
        (cos * dx + sin * dy) / scenes.scale[:, 0, None, None],
        (cos * dy - sin * dx) / scenes.scale[:, 1, None, None],
    )


def _to_image(scenes: Scenes, points: np.ndarray) -> np.ndarray:
    """Convert anatomy points (B, F, 2) to image points; the inverse of `_to_anatomy`."""
    x, y = np.moveaxis(points * scenes.scale[:, None], -1, 0)
    cos, sin = np.cos(scenes.rotation)[:, None], np.sin(scenes.rotation)[:, None]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + 0.5 + scenes.shift[:, None]


def _step(distance: np.ndarray, softness: float) -> np.ndarray:
    # a logistic step, by tanh because exp overflows in float32
    return 0.5 + 0.5 * np.tanh(distance * np.float32(0.5 / softness))


def _lung_axis(v: np.ndarray) -> np.ndarray:
    return 0.17 + 0.035 * v


def _lung_half_width(v: np.ndarray) -> np.ndarray:
    return _LUNG_HALF_WIDTH * (1 - (1 - np.clip(v, 0, 1)) ** 2.2) ** 0.6


def _anatomy(scenes: Scenes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image without findings and the lung field in [0, 1], both (B, H, W)."""
    across = np.abs(x)
    v = (y - _LUNG_TOP) / np.float32(_LUNG_BOTTOM - _LUNG_TOP)
    from_axis = across - _lung_axis(v)
    # The dome of the diaphragm leaves a sharp angle at the chest wall
    floor = _LUNG_BOTTOM + 2.5 * np.abs(from_axis - 0.02) ** 2
    heart_x, heart_y = x - 0.055, y - 0.15
    radius = 0.15 * scenes.heart[:, None, None]
    heart = _step(1 - np.sqrt((heart_x / radius) ** 2 + (heart_y / (0.85 * radius)) ** 2), 0.07)
    lung = (
        _step(_lung_half_width(v) - np.abs(from_axis), 0.008)
        * _step(floor - y, 0.010)
        * (1 - 0.85 * heart)
    )
    shoulders = 0.13 + 0.36 * _step(y + 0.40, 0.02)
    image = 0.06 + 0.50 * _step(shoulders - across, 0.012) - 0.36 * lung
    image += 0.14 * np.exp(-((across / 0.06) ** 4)) + 0.04 * heart
    # Ribs: bright bands along curved lines, beside the spine and above the diaphragm
    rib_phase = scenes.phase[:, 0, None, None] * 0.3
    rib_line = y - 0.9 * across + 1.6 * across**2
    ribs = np.maximum(np.cos(rib_line * np.float32(2 * np.pi / 0.085) + rib_phase), 0) ** 2
    beside_spine = _step(across - 0.05, 0.01)
    above_diaphragm = _step(_LUNG_BOTTOM - y, 0.03)
    image += 0.075 * ribs * (0.25 + 0.75 * lung) * beside_spine * above_diaphragm
    # Clavicles: one oblique line on each side
    clavicle = _step(0.013 - np.abs(y + 0.325 + 0.12 * (across - 0.2)), 0.004)
    image += 0.10 * clavicle * _step(0.36 - across, 0.01)
    image += 0.13 * lung * _vessels(scenes, across, y, x > 0)
    return image, lung


def _vessels(scenes: Scenes, across: np.ndarray, y: np.ndarray, is_left: np.ndarray) -> np.ndarray:
    """Vessels that leave the hilum and fade with distance, (B, H, W) in [0, 1]."""
    dx, dy = across - _HILUM[0], y - _HILUM[1]
    phase = np.where(is_left, scenes.phase[:, 2, None, None], scenes.phase[:, 1, None, None])
    distance = np.sqrt(dx**2 + dy**2)
    branches = np.maximum(np.cos(9 * np.arctan2(dy, dx) + phase + 12 * distance), 0) ** 3
    return np.exp(distance / np.float32(-0.13)) * (0.25 + 0.75 * branches)


def _lesions(scenes: Scenes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The grey that the findings add, (B, H, W); zero for normal images."""
    added = np.zeros_like(x)
    for label, name in enumerate(CLASS_NAMES):
        of_class = np.flatnonzero(scenes.label == label)
        if name == "normal" or not len(of_class):
            continue
        radius = _RADIUS[scenes.severity[of_class], None, None]
        dx = (x[of_class] - scenes.position[of_class, 0, None, None]) / radius
        dy = (y[of_class] - scenes.position[of_class, 1, None, None]) / radius
        angle = scenes.angle[of_class][:, None, None]
        cos, sin = np.cos(angle), np.sin(angle)
        along, beside = cos * dx + sin * dy, cos * dy - sin * dx
        shape = _lesion_shape(name, along, beside, scenes.phase[of_class, 3, None, None])
        added[of_class] = _CONTRAST[scenes.severity[of_class], None, None] * shape
    return added


def _lesion_shape(
    name: str, along: np.ndarray, beside: np.ndarray, phase: np.ndarray
) -> np.ndarray:
    """The profile of a finding, peak about 1, on its own axes in units of its radius."""
    r = np.sqrt(along**2 + beside**2)
    if name == "nodule":
        return _step(0.8 - r, 0.07)
    if name == "consolidation":
        theta = np.arctan2(beside, along)
        ragged = r * (1 + 0.22 * np.cos(3 * theta + phase) + 0.12 * np.cos(7 * theta + 2 * phase))
        return np.exp(-0.5 * (ragged / 0.85) ** 2) * (0.85 + 0.15 * np.cos(5 * along + phase))
    if name == "cavity":
        return np.exp(-(((r - 0.95) / 0.30) ** 2)) - 0.35 * _step(0.6 - r, 0.07)
    if name == "atelectasis":
        return np.exp(-((beside / 0.25) ** 2)) * _step(1.6 - np.abs(along), 0.10)
    return 0.25 * np.exp(-(((r - 1.15) / 0.15) ** 2)) - 0.8 * _step(1.0 - r, 0.08)  # bulla


def _boxes(lesion: np.ndarray, has_lesion: np.ndarray) -> np.ndarray:
    """Boxes int32 (B, 4) around the strong pixels of `lesion` (B, H, W); -1 without a lesion."""
    strength = np.abs(lesion)
    inside = strength > 0.35 * strength.max(axis=(1, 2), keepdims=True)
    size = lesion.shape[-1]
    columns, rows = inside.any(axis=1), inside.any(axis=2)
    low = [columns.argmax(axis=1), rows.argmax(axis=1)]
    high = [size - columns[:, ::-1].argmax(axis=1), size - rows[:, ::-1].argmax(axis=1)]
    return np.where(has_lesion[:, None], np.stack(low + high, axis=-1), -1).astype(np.int32)


def _line(x: np.ndarray, y: np.ndarray, start: Point, end: Point, width: float) -> np.ndarray:
    """A soft line of half-width `width`, values in [0, 1].

    `start` and `end` are (X, Y) in anatomy.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    share = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return _step(width - np.hypot(x - start[0] - share * dx, y - start[1] - share * dy), 0.004)


def _add_devices(image: np.ndarray, scenes: Scenes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw leads, pacemaker and tubes into `image`, in place; they lie on the body."""
    lines = (  # per device: (start, end, half-width, grey)
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
    )
    for device, parts in enumerate(lines):
        wearers = np.flatnonzero(scenes.devices[:, device])
        if len(wearers):
            # Devices lie a little differently in each patient: the phases of ribs and vessels
            # are reused as that jitter
            jitter = 0.02 * np.cos(scenes.phase[wearers, :2] * 5 + device)
            device_x = x[wearers] + jitter[:, 0, None, None]
            device_y = y[wearers] + jitter[:, 1, None, None]
            drawn = [
                grey * _line(device_x, device_y, start, end, width)
                for start, end, width, grey in parts
            ]
            image[wearers] += np.max(drawn, axis=0)


def _add_markers(
    image: np.ndarray, scenes: Scenes, image_x: np.ndarray, image_y: np.ndarray
) -> None:
    """Draw an R or an L in a corner, in place, independent of the finding."""
    block = 1 / 32  # side of a block of a letter: two pixels at 64
    corner_x, corner_y, kind = (column[:, None, None] for column in scenes.marker.T)
    column = np.floor((image_x - np.where(corner_x == 1, 0.86, 0.04)) / block).astype(np.int64)
    row = np.floor((image_y - np.where(corner_y == 1, 0.80, 0.04)) / block).astype(np.int64)
    inside = (column >= 0) & (column < 3) & (row >= 0) & (row < 5) & (kind < 2)
    letters = _LETTERS[np.minimum(kind, 1), np.clip(row, 0, 4), np.clip(column, 0, 2)]
    image += 0.45 * inside * letters
