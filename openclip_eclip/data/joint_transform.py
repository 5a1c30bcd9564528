"""open_clip's training transform with one random geometry for an image and its heatmaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

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


class Heatmap(tv_tensors.TVTensor):
    """A heatmap (1, h, w), at any resolution, over an image of `canvas_size` (height, width)."""

    canvas_size: tuple[int, int]

    @classmethod
    def wrap(cls, values: Any, canvas_size: tuple[int, int]) -> Heatmap:
        heatmap = torch.as_tensor(values, dtype=torch.float32).as_subclass(cls)
        heatmap.canvas_size = canvas_size
        return heatmap


@F.register_kernel(F.resized_crop, Heatmap)
def _resized_crop_heatmap(
    heatmap: Heatmap, top: int, left: int, height: int, width: int, size: list[int], **_: Any
) -> Heatmap:
    """Crop in image pixels, whatever the resolution of the map.

    Bilinear with antialiasing, so that no value overshoots.
    """
    rows, columns = heatmap.shape[-2:]
    scale_y, scale_x = rows / heatmap.canvas_size[0], columns / heatmap.canvas_size[1]
    box = (
        max(left * scale_x, 0.0),
        max(top * scale_y, 0.0),
        min((left + width) * scale_x, columns),
        min((top + height) * scale_y, rows),
    )
    # by Pillow, which resamples a box with fractional edges in one pass
    resized = Image.fromarray(heatmap[0].numpy()).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR, box=box
    )
    return Heatmap.wrap(np.array(resized)[None], (size[0], size[1]))


class SharedCrop(v2.Transform):
    """The random resized crop `crop` (torchvision's or timm's), drawn once for all inputs.

    Its random draws are those of `crop` itself.
    """

    def __init__(self, crop: Any) -> None:
        super().__init__()
        self.crop = crop
        self.size = [crop.size, crop.size] if isinstance(crop.size, int) else list(crop.size)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(x for x in flat_inputs if isinstance(x, Image.Image))
        top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        interpolation = self.crop.interpolation
        if isinstance(interpolation, (tuple, list)):  # timm's 'random'
            interpolation = interpolation[int(torch.randint(len(interpolation), ()))]
        return {
            "top": top,
            "left": left,
            "height": height,
            "width": width,
            "interpolation": interpolation,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resized_crop, inpt, size=self.size, antialias=True, **params)


class JointTransform:
    """open_clip's training transform for an image with or without a heatmap.

    `train_transform` is what `create_model_and_transforms` returns for training. `--aug-cfg`, mean
    and std, interpolation and size therefore keep their meaning. Without a heatmap, the result is
    bit-for-bit identical to that of `train_transform`. Image and heatmap share the crop; all later
    steps apply to the image alone.

    Raises:
        ValueError: a step would move the image without its heatmap.
    """

    def __init__(
        self, train_transform: Any, crop_threshold: float, crops: int | None = None
    ) -> None:
        """`crops`: the number of views of each image; None: each draw is a new one."""
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
        self.crop_threshold, self.crops = crop_threshold, crops

    def draw_view(self) -> int | None:
        """The number of one of the `crops` views; None where each draw is a new one."""
        return None if self.crops is None else int(torch.randint(self.crops, ()))

    def __call__(
        self,
        image: Image.Image,
        heatmap: np.ndarray | None = None,
        placebo: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform an image and its `heatmap`, (h, w) float32.

        Returns the image (3, H, W) and the heatmap (1, H, W), float32 with maximum 1, or None. The
        heatmap is None, too, if the crop kept less than `crop_threshold` of its mass: the sample
        then counts as not annotated for this draw. `placebo` (h', w') float32, also over the whole
        image, is returned instead of a heatmap that the crop kept.
        """
        return self.with_windows(image, heatmap, placebo, ())[:2]

    def with_windows(
        self,
        image: Image.Image,
        heatmap: np.ndarray | None,
        placebo: np.ndarray | None,
        windows: Sequence[np.ndarray] | np.ndarray,
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Transform an image, its heatmap, and the maps of its sentences with one geometry.

        `windows` are maps (h, w) of any number type. Each is returned as `heatmap` is: (1, H, W),
        or None if the crop lost it, independent of the others. A map of zeros, of a phrase without
        a region, stays one: it is none that the crop lost.
        """
        if heatmap is None and not len(windows):
            return self._finish(self.crop(image)), None, []
        canvas = (image.height, image.width)
        params = self.crop.make_params([image])
        cropped = None if heatmap is None else self._crop(heatmap, canvas, params)
        maps = [
            self._crop(window, canvas, params) if window.any() else torch.zeros(1, *self.crop.size)
            for window in windows
        ]
        view = self._finish(self.crop.transform(image, params))
        # The true heatmap decides whether the view is annotated: if the crop loses the placebo,
        # the uncropped placebo takes its place
        if cropped is not None and placebo is not None:
            whole = {**params, "top": 0, "left": 0, "height": canvas[0], "width": canvas[1]}
            cropped_placebo = self._crop(placebo, canvas, params)
            if cropped_placebo is None:
                cropped_placebo = self._crop(placebo, canvas, whole)
            cropped = cropped_placebo
        return view, cropped, maps

    def _crop(
        self, heatmap: np.ndarray, canvas: tuple[int, int], params: dict[str, Any]
    ) -> Tensor | None:
        """Crop a map; (1, H, W) with maximum 1, or None if too little of its mass is left."""
        full = Heatmap.wrap(heatmap[None], canvas)
        cropped = self.crop.transform(full, params).as_subclass(Tensor)
        # mass = mean value x area, as a share of the whole map's
        area = params["height"] * params["width"] / (canvas[0] * canvas[1])
        mass = float(cropped.mean()) * area / float(heatmap.mean())
        peak = float(cropped.max())
        if mass < self.crop_threshold or peak <= 0:
            return None
        return (cropped / peak).clamp_(0, 1)

    def _finish(self, image: Image.Image) -> Tensor:
        view: Any = image  # a PIL image up to the step that converts it to a tensor
        for step in self.rest:
            view = step(view)
        return view
