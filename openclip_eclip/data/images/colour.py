"""Apply embedded colour profiles (ICC) and the gamma of a PNG, to sRGB (decision 0039)."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Differences, of 255, up to which a profile counts as sRGB; a grey profile of gamma 2.2 differs by
# 8 in the darkest tones
SAME_COLOUR, SAME_GREY = 2, 10
SAME_GAMMA = 0.05  # libpng's threshold
SPACES = {"RGB ": "RGB", "CMYK": "CMYK", "GRAY": "L"}  # colour space of a profile -> mode


def apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an "L", "RGB" or "CMYK" image to sRGB; "L" stays "L", "CMYK" becomes "RGB".

    An image of mode "L" or "RGB" is unchanged bit for bit in three cases: it has no profile; the
    profile is sRGB, or a grey gamma close to it; the profile is damaged or of another mode, which
    viewers ignore.
    """
    if profile and image.mode == "L":
        table = _grey_table(profile)
        return image if table is None else image.point(table)
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return _applied(image, transform)
    return image.convert("RGB") if image.mode == "CMYK" else image


def apply_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """Convert an "L" or "RGB" image of samples light ** `gamma` (PNG's gAMA) to gamma 1 / 2.2."""
    if gamma <= 0 or abs(2.2 * gamma - 1) <= SAME_GAMMA:
        return image
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / (2.2 * gamma)))
    return image.point(table.astype(int).tolist() * len(image.getbands()))


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None is returned only for transforms in place
    return result


def _open(profile: bytes) -> tuple[ImageCms.ImageCmsProfile, str] | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return opened, SPACES.get(opened.profile.xcolor_space, "")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None


def _build(
    profile: ImageCms.ImageCmsProfile, mode: str, exact: bool = False
) -> ImageCms.ImageCmsTransform | None:
    """The transform of `profile` to sRGB; None if there is none.

    `exact` switches off the optimisation of lcms, which is off by 10 in the darkest greys.
    """
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | (ImageCms.Flags.NOOPTIMIZE if exact else 0)
    try:
        return ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None if the profile is sRGB already, or cannot be used."""
    opened = _open(profile)
    if opened is None or opened[1] != mode:
        return None
    transform = _build(opened[0], mode)
    if transform is None or mode != "RGB":
        return transform
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    greys = np.arange(256, dtype=np.uint8).reshape(1, -1, 1).repeat(3, axis=2)
    probe = np.concatenate([probe, greys], axis=1)
    return None if _change(probe, transform) <= SAME_COLOUR else transform


@lru_cache(maxsize=16)
def _grey_table(profile: bytes) -> list[int] | None:
    """What each of 256 greys becomes, None if nothing changes.

    Of a colour profile, the neutral colours are used.
    """
    opened = _open(profile)
    if opened is None or opened[1] not in ("L", "RGB"):
        return None
    transform = _build(*opened, exact=True)
    if transform is None:
        return None
    ramp = np.arange(256, dtype=np.uint8).reshape(1, -1)
    shown = _applied(Image.fromarray(ramp).convert(opened[1]), transform)
    greys = np.asarray(shown.convert("L"))
    change = np.abs(greys.astype(int) - ramp).max()
    return None if change <= (SAME_GREY if opened[1] == "L" else SAME_COLOUR) else greys[0].tolist()


def _change(probe: np.ndarray, transform: ImageCms.ImageCmsTransform) -> int:
    """The largest change of the colours `probe`, uint8 (1, N, 3)."""
    changed = np.asarray(_applied(Image.fromarray(probe), transform))
    return int(np.abs(changed.astype(int) - probe).max())
