"""What synthetic images show: the settings of a data set, and scenes drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import CLASS_SHARES, Scenes
from .chest import CHEST
from .head import HEAD

ANATOMIES = {"chest": CHEST, "head": HEAD}


@dataclass(frozen=True)
class Knobs:
    """The settings of `phantom.generate.generate` under the same names."""

    gaze_leak: float = 1.0
    gaze_noise: float = 0.0
    gaze_shift: float = 0.0
    shortcut: float = 0.0
    findings: int = 1
    anatomy: str = "chest"
    contrast: float = 1.0
    noise: float = 1.0
    devices: float = 1.0


def draw_scenes(rng: np.random.Generator, count: int, knobs: Knobs) -> Scenes:
    """Draw `count` scenes.

    Only the lesion, its position and the devices can depend on the class. The position does so
    with probability `gaze_leak`. The devices do so with probability `shortcut`: each class then
    has its own set of them.
    """
    anatomy = ANATOMIES[knobs.anatomy]
    classes, u_range, v_range = anatomy.words.classes, anatomy.u_range, anatomy.v_range
    label = rng.choice(len(classes), size=count, p=CLASS_SHARES)
    side = rng.integers(2, size=count)
    severity = rng.integers(3, size=count)
    natural_positions = np.array([anatomy.natural_position[name] for name in classes])  # (6, 4)
    u_mean, u_sd, v_mean, v_sd = natural_positions[label].T
    natural = rng.random(count) < knobs.gaze_leak
    # Both positions are always drawn, so that the rest of the scene does not change with gaze_leak
    natural_u, natural_v = rng.normal(u_mean, u_sd), rng.normal(v_mean, v_sd)
    common_u, common_v = rng.uniform(*u_range, count), rng.uniform(*v_range, count)
    u = np.clip(np.where(natural, natural_u, common_u), *u_range)
    v = np.clip(np.where(natural, natural_v, common_v), *v_range)
    least, most = np.array([(0.75, 1.15), (-0.07, 0.07), *[(-0.12, 0.12)] * 2, anatomy.noise]).T
    exposure = rng.uniform(least, most, (count, 5))
    exposure[:, 4] *= knobs.noise
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
        "organ": rng.uniform(0.9, 1.15, count),
    }
    shares = knobs.devices * np.array(anatomy.device_shares)
    devices = rng.random((count, len(shares))) < shares
    # the bits of the label are the devices of its class
    if knobs.shortcut:
        sets = label[:, None] >> np.arange(len(shares)) & 1
        devices = np.where(rng.random((count, 1)) < knobs.shortcut, sets, devices).astype(bool)
    # last, so that an anatomy without waves draws the same numbers as before there were any
    geometry["waves"] = rng.uniform(0, 2 * np.pi, (count, anatomy.waves, 2))
    return Scenes(
        anatomy=anatomy,
        contrast=knobs.contrast,
        label=label,
        side=side,
        zone=np.minimum((3 * (v - v_range[0]) / (v_range[1] - v_range[0])).astype(np.int64), 2),
        severity=severity,
        natural=natural,
        position=anatomy.place(side, u, v),
        **{name: values.astype(np.float32) for name, values in geometry.items()},
        devices=devices,
        marker=marker,
        exposure=exposure.astype(np.float32),
    )
