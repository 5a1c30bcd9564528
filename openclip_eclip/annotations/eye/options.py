"""The flags of all gaze formats: columns, units, the screen, and how the image lay on it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...config import UserError

UNITS = ("image-pixels", "image-fractions", "screen-pixels", "screen-fractions", "degrees")
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}  # seconds
PLACEMENTS = ("fit", "centre", "stretch")
ROLES = (
    *("image", "x", "y", "start", "end", "duration", "reader", "trial", "fixations"),
    *("left", "top", "right", "bottom"),  # the image, or its shown part, on the screen
    *("shown_xmin", "shown_ymin", "shown_xmax", "shown_ymax"),  # pixels of the image
    *("offset_x", "offset_y"),
)
DETECTORS = ("ivt", "idt")
VELOCITIES = ("smooth", "neighbors", "preceding")


@dataclass(frozen=True)
class Detection:
    """How raw samples become fixations. Degrees, or with `raw_units` the unit of the file."""

    detector: str | None = None  # None: raw samples are an error
    velocity: float = 30.0  # I-VT: degrees per second
    dispersion: float = 1.0  # I-DT: degrees, width plus height
    shortest: float = 0.06  # seconds
    gap: float = 0.075  # seconds; missing samples up to it are filled linearly
    margin: float = 0.0  # seconds on both sides of a longer gap, such as a blink
    method: str = "smooth"  # of the velocity
    raw_units: bool = False


@dataclass(frozen=True)
class GazeSetting:
    """What the user says about gaze files; None and {}: recognised."""

    columns: dict[str, str]
    unit: str | None = None
    time: str | None = None
    screen: tuple[float, float] | None = None  # width, height in pixels
    screen_cm: tuple[float, float] | None = None
    distance_cm: float | None = None
    placement: str | None = None
    rectangle: tuple[float, ...] | None = None  # left, top, right, bottom in pixels of the screen
    eye: str | None = None
    image_pattern: str | None = None
    variable: str | None = None
    detection: Detection = Detection()


def add_gaze_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all gaze formats share; `formats` calls it once, through `table`."""
    add = parser.add_argument_group("gaze").add_argument
    add(
        "--gaze-columns",
        metavar="ROLE=COLUMN,...",
        help=f"columns of a gaze table (default: guessed); roles: {', '.join(ROLES)}",
    )
    add("--gaze-unit", choices=UNITS, help="unit of positions (default: recognised)")
    add("--time-unit", choices=tuple(TIMES), help="unit of times (default: recognised)")
    add("--screen", metavar="WxH", help="size of the screen in pixels")
    add("--screen-cm", metavar="WxH", help="size of the screen in cm, for degrees")
    add("--distance-cm", type=float, metavar="CM", help="from eye to screen, for degrees")
    add(
        "--placement",
        choices=PLACEMENTS,
        help=(
            "how the image lay on the screen; fit: centred, as large as possible with its aspect;"
            " centre: centred, one pixel to one; stretch: over the whole screen"
        ),
    )
    add(
        "--image-rectangle",
        metavar="L,T,R,B",
        help="position of the image on the screen in pixels; right and bottom exclusive",
    )
    add(
        "--eye",
        choices=("left", "right"),
        help="eye of a recording of both (default: the one with more fixations)",
    )
    add(
        "--image-pattern",
        metavar="REGEX",
        help="EyeLink ASC: finds the image in messages, as its first group",
    )
    add("--gaze-variable", metavar="NAME", help="MATLAB: the variable with the fixations")
    add(
        "--detector",
        choices=DETECTORS,
        help="finds fixations in raw samples: by velocity (I-VT) or dispersion (I-DT)",
    )
    default = Detection()
    numbers = {
        "--velocity-threshold": (default.velocity, "I-VT: degrees per second"),
        "--dispersion-threshold": (default.dispersion, "I-DT: degrees, width plus height"),
        "--min-fixation": (default.shortest * 1000, "shortest fixation, ms"),
        "--max-gap": (default.gap * 1000, "missing samples up to so many ms are filled linearly"),
        "--gap-margin": (default.margin * 1000, "also left out around longer gaps (blinks), ms"),
    }
    for flag, (value, text) in numbers.items():
        add(flag, type=float, default=value, help=f"{text} (default: %(default)g)")
    add(
        "--velocity-method",
        choices=VELOCITIES,
        default=default.method,
        help="how pymovements computes velocity (default: %(default)s)",
    )
    add(
        "--raw-units",
        action="store_true",
        help="thresholds are in the file's unit of position, not in degrees",
    )


def gaze_setting(args: argparse.Namespace) -> GazeSetting:
    """The setting that the flags give. UserError: a flag with another value than expected."""
    for name in ("velocity_threshold", "dispersion_threshold", "min_fixation"):
        _check(name, getattr(args, name), positive=True)
    for name in ("max_gap", "gap_margin"):
        _check(name, getattr(args, name), positive=False)
    if args.distance_cm is not None:
        _check("distance_cm", args.distance_cm, positive=True)
    rectangle = None
    if args.image_rectangle is not None:
        rectangle = _numbers("--image-rectangle", args.image_rectangle, ",", 4)
        if not (rectangle[2] > rectangle[0] and rectangle[3] > rectangle[1]):
            raise UserError(
                f"--image-rectangle {args.image_rectangle}: no area; expected left, top, right,"
                " bottom in pixels of the screen."
            )
        if args.placement is not None:
            raise UserError("--image-rectangle and --placement: expected one of them.")
    return GazeSetting(
        columns=_columns(args.gaze_columns),
        unit=args.gaze_unit,
        time=args.time_unit,
        screen=_size("--screen", args.screen),
        screen_cm=_size("--screen-cm", args.screen_cm),
        distance_cm=args.distance_cm,
        placement=args.placement,
        rectangle=rectangle,
        eye=args.eye,
        image_pattern=args.image_pattern,
        variable=args.gaze_variable,
        detection=Detection(
            args.detector,
            args.velocity_threshold,
            args.dispersion_threshold,
            args.min_fixation / 1000,
            args.max_gap / 1000,
            args.gap_margin / 1000,
            args.velocity_method,
            args.raw_units,
        ),
    )


def _check(name: str, value: float, positive: bool) -> None:
    if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
        expected = "a positive number" if positive else "a number of at least 0"
        raise UserError(f"--{name.replace('_', '-')} {value}: expected {expected}.")


def _numbers(flag: str, text: str, separator: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.lower().split(separator))
    except ValueError:
        values = ()
    if len(values) != count or not all(map(math.isfinite, values)):
        form = separator.join(("1920", "1080") if count == 2 else ("0", "0", "1920", "1080"))
        raise UserError(f"{flag} {text}: expected {count} numbers such as {form}.")
    return values


def _size(flag: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    width, height = _numbers(flag, text, "x", 2)
    if not (width > 0 and height > 0):
        raise UserError(f"{flag} {text}: expected a positive width and height.")
    return width, height


def _columns(text: str | None) -> dict[str, str]:
    columns: dict[str, str] = {}
    for part in split_list(text):
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name or role not in ROLES:
            raise UserError(
                f"--gaze-columns {part!r}: expected role=column with a role of {', '.join(ROLES)}."
            )
        if role in columns:
            raise UserError(f"--gaze-columns: {role} twice; expected each role once.")
        columns[role] = name
    return columns


def split_list(text: str | None) -> Sequence[str]:
    return [part for part in (text or "").split(",") if part.strip()]
