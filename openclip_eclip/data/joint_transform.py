"""open_clip's training transform with one random geometry for an image and its heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from .heatmap import unit_map
from .images.picture import QUARTER_TURNS
from .map_tensors import to_levels

REDUCTIONS = (8, 4, 2)  # of libjpeg, the strongest first
ENOUGH = 0.9  # least pixels of a reduced crop for one of the view, in each direction
# Steps of open_clip's and timm's training transforms that move no pixel
PHOTOMETRIC = {
    "MaybeConvertMode",
    "MaybeToTensor",
    "MaybePILToTensor",
    "ToTensor",
    "PILToTensor",
    "Normalize",
    "ToNumpy",
    "ColorJitter",
    "color_jitter",
    "gray_scale",
    "RandomErasing",
    "RandomGrayscale",
    "RandomApply",
}


class Crop(NamedTuple):
    """A crop, in pixels of the whole upright image."""

    top: int
    left: int
    height: int
    width: int
    interpolation: InterpolationMode
    canvas: tuple[int, int]  # (height, width) of the whole image
    reduction: int = 1  # the image was decoded at 1 / reduction of its size


class SharedCrop:
    """The random resized crop `crop` (torchvision's or timm's), drawn once for image and maps.

    Its random draws are those of `crop` itself.
    """

    def __init__(self, crop: Any) -> None:
        self.crop = crop
        self.size = [crop.size, crop.size] if isinstance(crop.size, int) else list(crop.size)

    def draw(self, canvas: tuple[int, int]) -> Crop:
        """Draw a crop of an image of `canvas` (height, width) pixels."""
        image = torch.empty(1, *canvas, device="meta")  # its size alone is read
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        interpolation = self.crop.interpolation
        if isinstance(interpolation, (tuple, list)):  # timm's 'random'
            interpolation = interpolation[int(torch.randint(len(interpolation), ()))]
        return Crop(top, left, height, width, interpolation, canvas)

    def of_image(self, image: Image.Image, crop: Crop) -> Image.Image:
        if crop.reduction == 1:
            return F.resized_crop(image, *crop[:4], self.size, crop.interpolation)
        factor = crop.reduction
        box = (
            crop.left / factor,
            crop.top / factor,
            min((crop.left + crop.width) / factor, image.width),
            min((crop.top + crop.height) / factor, image.height),
        )
        how = Image.Resampling(F.pil_modes_mapping[crop.interpolation])
        return image.resize((self.size[1], self.size[0]), how, box=box)

    def of_map(self, values: np.ndarray, crop: Crop) -> np.ndarray:
        """Crop a map (h, w) float32 at any resolution over the image; (H, W) float32.

        Bilinear with antialiasing, so that no value overshoots.
        """
        rows, columns = values.shape
        scale_y, scale_x = rows / crop.canvas[0], columns / crop.canvas[1]
        box = (
            max(crop.left * scale_x, 0.0),
            max(crop.top * scale_y, 0.0),
            min((crop.left + crop.width) * scale_x, columns),
            min((crop.top + crop.height) * scale_y, rows),
        )
        # by Pillow, which resamples a box with fractional edges in one pass
        resized = Image.fromarray(values).resize(
            (self.size[1], self.size[0]), Image.Resampling.BILINEAR, box=box
        )
        return np.asarray(resized)


class DraftedCrop:
    """Draws the crop of a JPEG before it is decoded, and asks for no more pixels than it needs.

    The decoder of JPEG gives 1/2, 1/4 or 1/8 of the size at less work. `crop` is None until a JPEG
    has been read.
    """

    def __init__(self, shared: SharedCrop) -> None:
        self.shared = shared
        self.crop: Crop | None = None

    def __call__(self, image: Image.Image, orientation: int) -> None:
        """Set the decoder of an opened `image` with this orientation, EXIF's 1 to 8."""
        sides = image.height, image.width
        crop = self.crop = self.shared.draw(sides[::-1] if orientation in QUARTER_TURNS else sides)
        height, width = (ENOUGH * side for side in self.shared.size)
        for factor in REDUCTIONS:
            # the decoder rounds sides up; in a turned image the surplus may come first
            is_exact = orientation == 1 or not any(side % factor for side in sides)
            if is_exact and crop.height >= factor * height and crop.width >= factor * width:
                # None: a JPEG that Pillow cannot reduce
                if image.draft(None, (image.width // factor, image.height // factor)):
                    self.crop = crop._replace(reduction=factor)
                return


class PixelsToTensor:
    """`to_tensor` and `normalize` of torchvision in one step, with the same result bit for bit."""

    def __init__(self, to_tensor: Callable, normalize: Any) -> None:
        self.to_tensor, self.normalize = to_tensor, normalize
        self.mean, self.std = (
            torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in (normalize.mean, normalize.std)
        )

    def __call__(self, image: Any) -> Tensor:
        if getattr(image, "mode", "") != "RGB" or len(self.mean) != 3:
            return self.normalize(self.to_tensor(image))
        pixels = torch.empty(3, image.height, image.width)
        pixels.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return pixels.div_(255).sub_(self.mean).div_(self.std)


class JointTransform:
    """open_clip's training transform for an image with or without a heatmap.

    `train_transform` is what `create_model_and_transforms` returns for training. `--aug-cfg`, mean
    and std, interpolation and size therefore keep their meaning. Without a heatmap, the result is
    bit-for-bit identical to that of `train_transform`. Image and heatmap share the crop; all later
    steps apply to the image alone.

    Raises:
        ValueError: a step would move the image without its heatmap.
    """

    fast_jpeg = False

    def __init__(
        self,
        train_transform: Any,
        crop_threshold: float,
        crops: int | None = None,
        *,
        eight_bits: bool = False,
        fast_jpeg: bool = False,
    ) -> None:
        """Wrap `train_transform`.

        Args:
            crops: the number of views of each image; None: each draw is a new one.
            eight_bits: maps whose file has 8 bits are returned as uint8, 255 for 1, so that a
                quarter of the bytes goes to the device. A resampled map has more than 256 values,
                so each is off by up to 1 / 510. Which views are annotated does not change.
            fast_jpeg: `draft` makes drafts.
        """
        # open_clip's synthetic data reads the image size from this attribute
        self.transforms = train_transform.transforms
        first, *rest = self.transforms
        if not all(hasattr(first, name) for name in ("get_params", "scale", "ratio", "size")):
            raise ValueError(
                f"training transform starts with {type(first).__name__}; expected a random resized"
                " crop."
            )
        moving = [type(step).__name__ for step in rest if type(step).__name__ not in PHOTOMETRIC]
        if moving:
            raise ValueError(
                f"training transform has the step {moving[0]}, which may move pixels: the heatmap"
                " would no longer fit. Remove it from --aug-cfg."
            )
        self.crop = SharedCrop(first)
        self.rest: list[Callable] = rest
        if [type(step).__name__ for step in rest[-2:]] == ["MaybeToTensor", "Normalize"]:
            self.rest = [*rest[:-2], PixelsToTensor(*rest[-2:])]
        self.crop_threshold, self.crops = crop_threshold, crops
        self.eight_bits, self.fast_jpeg = eight_bits, fast_jpeg

    def draw_view(self) -> int | None:
        """The number of one of the `crops` views; None where each draw is a new one."""
        return None if self.crops is None else int(torch.randint(self.crops, ()))

    def draft(self) -> DraftedCrop | None:
        """What `read_picture` takes as its draft for one image; None without `fast_jpeg`."""
        return DraftedCrop(self.crop) if self.fast_jpeg else None

    def __call__(
        self,
        image: Image.Image,
        heatmap: np.ndarray | None = None,
        placebo: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform an image and its `heatmap`, (h, w) uint8 or float32.

        Returns the image (3, H, W) float32 and the heatmap (1, H, W), float32 with maximum 1, or
        uint8 with maximum 255 (`eight_bits`), or None. The heatmap is None, too, if the crop kept
        less than `crop_threshold` of its mass: the sample then counts as not annotated for this
        draw. `placebo` (h', w') float32, also over the whole image, is returned instead of a
        heatmap that the crop kept.
        """
        return self.with_windows(image, heatmap, placebo, ())[:2]

    def with_windows(
        self,
        image: Image.Image,
        heatmap: np.ndarray | None,
        placebo: np.ndarray | None,
        windows: Sequence[np.ndarray] | np.ndarray,
        crop: Crop | None = None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Transform an image, its heatmap, and the maps of its sentences with one geometry.

        `windows` are maps (h, w) of any number type. Each is returned as `heatmap` is: (1, H, W),
        or None if the crop lost it, independent of the others. A map of zeros, of a phrase without
        a region, stays one: it is none that the crop lost. `crop`: that of the image's draft.
        """
        if crop is None:
            crop = self.crop.draw((image.height, image.width))
        cropped = None
        if heatmap is not None:
            unit = unit_map(heatmap) if heatmap.dtype == np.uint8 else heatmap
            cropped = self._crop(unit, crop)
        maps = []
        for window in windows:
            empty = torch.zeros(1, *self.crop.size)
            kept = self._crop(window.astype(np.float32), crop) if window.any() else empty
            maps.append(self._rounded(kept, window))
        view = self._finish(self.crop.of_image(image, crop))
        # The true heatmap decides whether the view is annotated: if the crop loses the placebo,
        # the uncropped placebo takes its place
        if cropped is not None and placebo is not None:
            whole = crop._replace(top=0, left=0, height=crop.canvas[0], width=crop.canvas[1])
            cropped_placebo = self._crop(placebo, crop)
            if cropped_placebo is None:
                cropped_placebo = self._crop(placebo, whole)
            return view, cropped_placebo, maps
        return view, None if heatmap is None else self._rounded(cropped, heatmap), maps

    def _crop(self, heatmap: np.ndarray, crop: Crop) -> Tensor | None:
        """Crop a map; (1, H, W) with maximum 1, or None if too little of its mass is left."""
        cropped = self.crop.of_map(heatmap, crop)
        # mass = mean value x area, as a share of the whole map's
        area = crop.height * crop.width / (crop.canvas[0] * crop.canvas[1])
        mass = float(cropped.mean()) * area / float(heatmap.mean())
        peak = cropped.max()
        if mass < self.crop_threshold or peak <= 0:
            return None
        unit = cropped / peak
        return torch.from_numpy(np.clip(unit, 0, 1, out=unit))[None]

    def _rounded(self, cropped: Tensor | None, source: np.ndarray) -> Tensor | None:
        """A cropped map of `source` as uint8, where `eight_bits` asks for it."""
        if cropped is None or not self.eight_bits or source.dtype != np.uint8:
            return cropped
        return to_levels(cropped)

    def _finish(self, image: Image.Image) -> Tensor:
        view: Any = image  # a PIL image up to the step that converts it to a tensor
        for step in self.rest:
            view = step(view)
        return view
