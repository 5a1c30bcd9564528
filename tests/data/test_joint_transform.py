"""The joint transform (invariant 6): image and heatmap have the same crop."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from openclip_eclip.data.images.options import ReadOptions
from openclip_eclip.data.images.read import read_picture
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.map_tensors import to_unit


def marked(size: tuple[int, int], spot: tuple[float, float], width: float = 0.12) -> np.ndarray:
    """A bright square at relative position `spot` (y, x) on black."""
    values = np.zeros(size, np.float32)
    y, x = int(spot[0] * size[0]), int(spot[1] * size[1])
    r = max(1, int(width * size[0] / 2)), max(1, int(width * size[1] / 2))
    values[max(0, y - r[0]) : y + r[0], max(0, x - r[1]) : x + r[1]] = 1
    return values


def centre(values: torch.Tensor) -> torch.Tensor:
    """Centre of mass (y, x) in pixels."""
    weight = values.clamp(min=0)
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(side) + 0.5 for side in values.shape), indexing="ij")
    )
    return (grid * weight).sum((1, 2)) / weight.sum()


@pytest.mark.parametrize(
    "image_size,map_size,spot",
    [
        ((300, 200), (300, 200), (0.4, 0.6)),
        ((200, 300), (100, 150), (0.5, 0.5)),
        ((97, 131), (970, 1310), (0.6, 0.4)),
        ((256, 256), (32, 32), (0.5, 0.5)),
    ],
)
@pytest.mark.parametrize(
    "aug",
    [{"scale": (0.3, 1.0)}, {"use_timm": True, "scale": (0.3, 1.0)}],
    ids=["torchvision", "timm"],
)
def test_image_and_heatmap_stay_aligned(
    image_size: tuple, map_size: tuple, spot: tuple, aug: dict
) -> None:
    transform = JointTransform(
        image_transform(112, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg=aug), 0.5
    )
    image = Image.fromarray((marked(image_size, spot) * 255).astype(np.uint8)).convert("RGB")
    heatmap = marked(map_size, spot)
    torch.manual_seed(0)
    compared = 0
    for _ in range(20):
        pixels, cropped = transform(image, heatmap)
        if cropped is None:
            continue
        assert pixels.shape == (3, 112, 112)
        assert cropped.shape == (1, 112, 112) and cropped.dtype == torch.float32
        assert cropped.max() == 1 and cropped.min() >= 0
        distance = (centre(pixels[0]) - centre(cropped[0])).abs().max()
        # the squares consist of whole pixels of their own grid
        assert distance < 112 / min(*map_size) + 112 / min(*image_size), distance
        compared += 1
    assert compared >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "image_size,map_size,spot",
    [
        ((300, 150), (64, 64), (0.5, 0.4)),
        ((120, 310), (200, 40), (0.45, 0.6)),
        ((200, 200), (30, 90), (0.6, 0.5)),
    ],
)
def test_a_placebo_of_another_shape_lies_over_the_whole_image(
    image_size: tuple, map_size: tuple, spot: tuple
) -> None:
    """Height and width of the placebo are those of the image; a mark stays at its position."""
    transform = JointTransform(
        image_transform(
            112, is_train=True, mean=(0.0,) * 3, std=(1.0,) * 3, aug_cfg={"scale": (0.3, 1.0)}
        ),
        0.5,
    )
    image = Image.fromarray((marked(image_size, spot, 0.2) * 255).astype(np.uint8)).convert("RGB")
    torch.manual_seed(0)
    compared = 0
    for _ in range(30):
        pixels, placebo = transform(
            image, marked(image_size, spot, 0.2), marked(map_size, spot, 0.2)
        )
        view = pixels[0]
        borders = (view[0].max(), view[-1].max(), view[:, 0].max(), view[:, -1].max())
        if placebo is None or min(borders) > 0:
            continue
        distance = (centre(pixels[0]) - centre(placebo[0])).abs().max()
        assert distance < 2 * 112 / min(*map_size) + 112 / min(*image_size), distance
        compared += 1
    assert compared >= 5


def test_a_full_crop_at_equal_size_leaves_the_map_unchanged() -> None:
    transform = JointTransform(
        image_transform(8, is_train=True, aug_cfg={"scale": (1.0, 1.0)}), 0.1
    )
    values = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    transform.crop.crop.ratio = (1.0, 1.0)
    _, cropped = transform(Image.new("RGB", (8, 8)), values)
    assert np.allclose(cropped[0].numpy(), values / values.max(), atol=1e-6)


@pytest.mark.parametrize(
    "aug",
    [
        None,
        {
            "scale": (0.2, 1.0),
            "color_jitter": (0.3, 0.3, 0.2, 0.05),
            "color_jitter_prob": 0.8,
            "gray_scale_prob": 0.4,
        },
        {"use_timm": True, "scale": (0.2, 1.0), "re_prob": 0.5, "color_jitter": 0.3},
    ],
)
def test_the_image_is_that_of_open_clip_with_or_without_a_heatmap(aug: dict | None) -> None:
    stock = image_transform(48, is_train=True, aug_cfg=aug)
    transform = JointTransform(stock, 0.1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    for seed in range(4):
        results = []
        for heatmap in ("stock", None, np.ones((90, 70), np.float32)):
            torch.manual_seed(seed), random.seed(seed)
            results.append(
                stock(image) if isinstance(heatmap, str) else transform(image, heatmap)[0]
            )
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_a_crop_without_the_marked_region_is_not_annotated() -> None:
    heatmap = np.zeros((100, 100), np.float32)
    heatmap[:30, :30] = 1
    image = Image.new("RGB", (100, 100))
    torch.manual_seed(0)
    annotated = {}  # views that keep the heatmap, by crop threshold
    for threshold in (0.0, 0.3, 1.0):
        stock = image_transform(16, is_train=True, aug_cfg={"scale": (0.3, 0.3)})
        transform = JointTransform(stock, threshold)
        annotated[threshold] = sum(transform(image, heatmap)[1] is not None for _ in range(40))
    assert 40 > annotated[0.0] >= annotated[0.3] > annotated[1.0] == 0


def test_a_step_that_may_move_pixels_is_an_error() -> None:
    stock = image_transform(32, is_train=True)
    stock.transforms.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="step Identity"):
        JointTransform(stock, 0.1)
    with pytest.raises(ValueError, match="starts with Resize"):
        JointTransform(image_transform(32, is_train=False), 0.1)


def test_maps_of_8_bits_stay_so_and_are_off_by_half_a_level() -> None:
    """Which views are annotated does not change, nor do maps of other types."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    stock = image_transform(48, is_train=True, aug_cfg={"scale": (0.1, 1.0)})
    exact, rounded = JointTransform(stock, 0.3), JointTransform(stock, 0.3, eight_bits=True)
    levels = (marked((45, 35), (0.3, 0.3), 0.5) * 200).astype(np.uint8) + np.uint8(2)
    windows = [levels, np.zeros_like(levels), levels / np.float32(7)]
    kept = 0
    for seed in range(20):
        results = []
        for transform in (exact, rounded):
            torch.manual_seed(seed)
            results.append(transform.with_windows(image, levels, None, windows))
        (pixels, heatmap, maps), (same, eight, eight_maps) = results
        assert torch.equal(pixels, same)
        assert (heatmap is None) == (eight is None)
        if heatmap is None or eight is None:
            continue
        kept += 1
        for one, other in zip([heatmap, *maps[:2]], [eight, *eight_maps[:2]]):
            assert one.dtype == torch.float32 and other.dtype == torch.uint8
            assert (to_unit(other) - one).abs().max() <= 1 / 510 + 1e-6
        assert eight.max() == 255 and not eight_maps[1].any()
        assert torch.equal(maps[2], eight_maps[2])
        torch.manual_seed(seed)
        assert torch.equal(rounded(image, levels / levels.max(), None)[1], heatmap)
    assert 3 <= kept < 20


def jpeg(size: tuple[int, int], orientation: int = 1) -> bytes:
    """A bright square on smooth colours; in the upright image it is at (0.3, 0.6)."""
    spot = Image.fromarray((marked(size, (0.3, 0.6), 0.2) * 255).astype(np.uint8))
    back = {1: None, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    stored = spot.transpose(back) if back is not None else spot
    exif = Image.Exif()
    exif[274] = orientation
    stream = io.BytesIO()
    stored.convert("RGB").save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("aug", [{"scale": (0.4, 1.0)}, {"use_timm": True, "scale": (0.4, 1.0)}])
@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (601, 803)), (6, (600, 800)), (8, (600, 800))]
)
def test_a_draft_has_the_same_crop_of_fewer_pixels(
    orientation: int, size: tuple[int, int], aug: dict
) -> None:
    """Random draws, heatmap and, up to the decoder's own scaling, the view are the plain ones."""
    stock = image_transform(64, is_train=True, aug_cfg=aug)
    data, levels = jpeg(size, orientation), (marked((75, 100), (0.3, 0.6), 0.2) * 255)
    decoded = set()
    for seed in range(12):
        views = []
        for fast in (False, True):
            transform = JointTransform(stock, 0.0, fast_jpeg=fast)
            torch.manual_seed(seed), random.seed(seed)
            draft = transform.draft()
            picture = read_picture(data, "a", ReadOptions(), draft)
            assert picture.frame.shown_size == size
            crop = draft.crop if draft else None
            levels = levels.astype(np.uint8)
            image = picture.image.convert("RGB")
            views.append((*transform.with_windows(image, levels, None, (), crop), torch.rand(1)))
            decoded.add((fast, picture.image.size))
        (plain, heatmap, _, after), (view, same, _, after_too) = views
        assert torch.equal(heatmap, same) and after == after_too
        assert (plain - view).abs().mean() < 0.02
        assert view.shape == plain.shape
    assert {sides for fast, sides in decoded if not fast} == {size[::-1]}
    halves = {(-(-size[1] // factor), -(-size[0] // factor)) for factor in (2, 4, 8)}
    assert len({sides for fast, sides in decoded if fast} & halves) >= 2
    assert (True, size[::-1]) not in decoded


def test_a_crop_that_needs_all_pixels_is_bit_for_bit_the_plain_one() -> None:
    stock = image_transform(64, is_train=True, aug_cfg={"scale": (0.9, 1.0)})
    views = []
    for fast in (False, True):
        transform = JointTransform(stock, 0.0, fast_jpeg=fast)
        torch.manual_seed(0)
        draft = transform.draft()
        image = read_picture(jpeg((100, 120)), "a", ReadOptions(), draft).image
        views.append(transform.with_windows(image, None, None, (), draft and draft.crop)[0])
    assert torch.equal(*views)
    assert transform.draft() is not None and JointTransform(stock, 0.0).draft() is None


def test_a_turned_image_whose_sides_are_rounded_is_decoded_whole() -> None:
    transform = JointTransform(image_transform(16, is_train=True), 0.0, fast_jpeg=True)
    image = read_picture(jpeg((601, 801), 8), "a", ReadOptions(), transform.draft()).image
    assert image.size == (801, 601)


def test_other_formats_have_no_draft() -> None:
    """Their crop is drawn after decoding, as always."""
    transform = JointTransform(image_transform(16, is_train=True), 0.0, fast_jpeg=True)
    stream, draft = io.BytesIO(), transform.draft()
    Image.new("RGB", (400, 300)).save(stream, "PNG")
    assert read_picture(stream.getvalue(), "a", ReadOptions(), draft).image.size == (400, 300)
    assert draft is not None and draft.crop is None
