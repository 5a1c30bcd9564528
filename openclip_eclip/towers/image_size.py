"""Image towers at a size other than the one they were trained at: their positions interpolated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import Format, PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from ..config import UserError
from .host import ImageTower

RESNET_STRIDE = 32  # of open_clip's ResNets


@contextmanager
def at_size(visual: nn.Module, size: tuple[int, int] | None) -> Iterator[None]:
    """The image tower takes images of `size` (height, width) while this lasts; None: its own size.

    Learned positions are interpolated as open_clip and timm do it, bicubic with antialiasing. At
    the trained size nothing changes, nor for a tower without positions (ResNet, ConvNeXt).

    Raises:
        UserError: a tower that takes one size alone (Swin), or a size that its patches do not fill.
    """
    trained = cast(ImageTower, visual).image_size
    if size is None or size == ((trained, trained) if isinstance(trained, int) else tuple(trained)):
        yield
        return
    _check_sides(visual, size)
    with ExitStack() as stack:
        for owner, name, value in _changes(visual, size):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def patch_size(visual: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels that divide the sides of an image; (1, 1): any side.

    UserError: a tower that takes one size alone.
    """
    if isinstance(visual, VisionTransformer):
        return cast(Any, visual).patch_size
    if isinstance(visual, ModifiedResNet):
        return RESNET_STRIDE, RESNET_STRIDE
    trunk = _trunk(visual)
    if _is_plain(trunk):
        return trunk.patch_embed.patch_size
    if trunk.pretrained_cfg.get("fixed_input_size", False):
        raise UserError(
            f"image tower {type(trunk).__name__}: takes images of"
            f" {_times(cast(ImageTower, visual).image_size)} pixels alone; expected that size, or"
            " a plain ViT or a convolutional tower."
        )
    return 1, 1


def _trunk(visual: nn.Module) -> Any:
    """The timm model of a tower. UserError: another tower."""
    if not isinstance(visual, TimmModel):
        raise UserError(
            f"image tower {type(visual).__name__}: whether it takes another image size is not"
            " known; expected VisionTransformer, ModifiedResNet or a timm tower."
        )
    return visual.trunk


def _is_plain(trunk: Any) -> bool:
    """Whether timm interpolates its positions."""
    return isinstance(trunk, TimmViT) and type(trunk.patch_embed) is PatchEmbed


def _check_sides(visual: nn.Module, size: tuple[int, int]) -> None:
    patch = patch_size(visual)
    if min(size) < 1 or any(side % step for side, step in zip(size, patch)):
        raise UserError(
            f"images of {_times(size)} pixels: expected multiples of {_times(patch)}, the patches"
            f" of the image tower {type(visual).__name__}."
        )


def _changes(visual: nn.Module, size: tuple[int, int]) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute, value) of what another size needs."""
    if isinstance(visual, VisionTransformer):
        tower = cast(Any, visual)
        grid = tuple(side // step for side, step in zip(size, tower.patch_size))
        return [(visual, *_positions(visual, "positional_embedding", tower.grid_size, grid))]
    if isinstance(visual, ModifiedResNet):
        pool = cast(nn.Module, visual.attnpool)
        old = cast(int, visual.image_size) // RESNET_STRIDE
        grid = tuple(side // RESNET_STRIDE for side in size)
        return [(pool, *_positions(pool, "positional_embedding", (old, old), grid))]
    trunk = _trunk(visual)
    if not _is_plain(trunk):
        return []
    # timm's own interpolation, as it would be from the start with dynamic_img_size
    patches = trunk.patch_embed
    return [
        (trunk, "dynamic_img_size", True),
        (patches, "strict_img_size", False),
        (patches, "flatten", False),
        (patches, "output_fmt", Format.NHWC),
    ]


def _positions(
    owner: nn.Module, name: str, old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[str, nn.Parameter]:
    """The parameter (1 + positions, W), the first of the class or mean token, for another grid."""
    parameter = cast(nn.Parameter, getattr(owner, name))
    found = resample_abs_pos_embed(parameter.detach()[None], [*new], [*old], num_prefix_tokens=1)
    return name, nn.Parameter(found[0], requires_grad=parameter.requires_grad)


def _times(size: Any) -> str:
    return " x ".join(map(str, (size, size) if isinstance(size, int) else size))
