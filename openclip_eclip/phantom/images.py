"""Images, true lesion boxes and gaze heatmaps of scenes.

There are two coordinate frames. *Anatomy*: X to the right of the image, Y down, origin mid-body,
unit = image side; organs and lesion are placed here. *Image*: x, y in [0, 1], pixel centres
at (i + 0.5) / size. A shift, a rotation and a scale per sample lead from one to the other.

Shape letters: B samples, H = W = size pixels, F fixations.
"""

from collections.abc import Sequence

import numpy as np

from .anatomy import NORMAL, Line, Scenes, step
from .scenes import Knobs

# R and L, each five rows of three blocks
_LETTERS = np.array(
    [
        [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]],
        [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]],
    ],
    np.float32,
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
    image, field = scenes.anatomy.draw(scenes, x, y)
    lesions = [_lesions(layer, x, y) * (0.25 + 0.75 * field) for layer in (scenes, *further)]
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
    search = scenes.anatomy.place(
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


def _lesions(scenes: Scenes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The grey that the findings add, (B, H, W); zero for normal images."""
    anatomy, added = scenes.anatomy, np.zeros_like(x)
    for label, name in enumerate(anatomy.words.classes):
        of_class = np.flatnonzero(scenes.label == label)
        if label == NORMAL or not len(of_class):
            continue
        severity = scenes.severity[of_class]
        radius = anatomy.radius[severity, None, None]
        dx = (x[of_class] - scenes.position[of_class, 0, None, None]) / radius
        dy = (y[of_class] - scenes.position[of_class, 1, None, None]) / radius
        angle = scenes.angle[of_class][:, None, None]
        cos, sin = np.cos(angle), np.sin(angle)
        along, beside = cos * dx + sin * dy, cos * dy - sin * dx
        shape = anatomy.finding_shape(name, along, beside, scenes.phase[of_class, 3, None, None])
        added[of_class] = scenes.contrast * anatomy.contrast[severity, None, None] * shape
    return added


def _boxes(lesion: np.ndarray, has_lesion: np.ndarray) -> np.ndarray:
    """Boxes int32 (B, 4) around the strong pixels of `lesion` (B, H, W); -1 without a lesion."""
    strength = np.abs(lesion)
    inside = strength > 0.35 * strength.max(axis=(1, 2), keepdims=True)
    size = lesion.shape[-1]
    columns, rows = inside.any(axis=1), inside.any(axis=2)
    low = [columns.argmax(axis=1), rows.argmax(axis=1)]
    high = [size - columns[:, ::-1].argmax(axis=1), size - rows[:, ::-1].argmax(axis=1)]
    return np.where(has_lesion[:, None], np.stack(low + high, axis=-1), -1).astype(np.int32)


def _line(x: np.ndarray, y: np.ndarray, line: Line) -> np.ndarray:
    """A soft line, zero outside of it."""
    start, end, width, grey = line
    dx, dy = end[0] - start[0], end[1] - start[1]
    share = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    away = np.hypot(x - start[0] - share * dx, y - start[1] - share * dy)
    return grey * step(width - away, 0.004)


def _add_devices(image: np.ndarray, scenes: Scenes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw the devices into `image`, in place; they lie on the body."""
    for device, lines in enumerate(scenes.anatomy.device_lines):
        wearers = np.flatnonzero(scenes.devices[:, device])
        if len(wearers):
            # Devices lie a little differently in each patient: the phases of the patient's shapes
            # are reused as that jitter
            jitter = 0.02 * np.cos(scenes.phase[wearers, :2] * 5 + device)
            device_x = x[wearers] + jitter[:, 0, None, None]
            device_y = y[wearers] + jitter[:, 1, None, None]
            image[wearers] += np.max([_line(device_x, device_y, line) for line in lines], axis=0)


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
