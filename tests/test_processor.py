"""The heatmap processor, its config and priming, against method.md §2.

Decision 0001 has the numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from openclip_eclip.config import AUTHORS_PROCESSOR, EClipConfig, ProcessorConfig
from openclip_eclip.priming import reconstruction_errors
from openclip_eclip.processor import CnnProcessor, HeatmapProcessor, MaskProcessor, build_processor

SMALL = ProcessorConfig(patch=4, width=16, heads=4, zero_init=False)
NO_RESIDUAL = dataclasses.replace(SMALL, residual="none")


def processor_of(config: ProcessorConfig, seed: int = 0) -> torch.nn.Module:
    """A processor in float64 with random parameters, so that each of them has an effect."""
    torch.manual_seed(seed)
    processor = build_processor(config).double()
    for parameter in processor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return processor


def pair(
    height: int, width: int, count: int = 2, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (N, 3, H, W) and heatmap (N, 1, H, W), float64."""
    draws = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 3, height, width, generator=draws, dtype=torch.float64),
        torch.rand(count, 1, height, width, generator=draws, dtype=torch.float64),
    )


def restated(processor: HeatmapProcessor, image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """The heatmap processor of method.md §2 in loops.

    One sample: image (3, H, W), heatmap (1, H, W).
    """
    c = processor.config
    weight = {name: value.detach().numpy() for name, value in processor.state_dict().items()}
    rows, columns = -(-image.shape[1] // c.patch), -(-image.shape[2] // c.patch)

    def tokens(picture: np.ndarray) -> np.ndarray:
        padded = np.zeros((3, rows * c.patch, columns * c.patch))
        padded[:, : picture.shape[1], : picture.shape[2]] = picture
        kernel, result = weight["patch_embed.weight"].reshape(c.width, -1), []
        for y in range(rows):
            for x in range(columns):
                cut = padded[:, y * c.patch : (y + 1) * c.patch, x * c.patch : (x + 1) * c.patch]
                token = kernel @ cut.reshape(-1) + weight["patch_embed.bias"]
                if c.positions == "sincos":
                    rates = [10000 ** (-k / (c.width // 4)) for k in range(c.width // 4)]
                    token = token + np.concatenate(
                        [
                            wave(np.multiply(place, rates))
                            for place in (y, x)
                            for wave in (np.sin, np.cos)
                        ]
                    )
                result.append(token)
        return np.array(result)

    masked = heatmap * image  # E * I, broadcast over channels
    asks, offers = tokens(masked), tokens(image)
    q = asks @ weight["query.weight"].T + weight["query.bias"]
    k, v = np.split(offers @ weight["key_value.weight"].T + weight["key_value.bias"], 2, axis=1)
    size = c.width // c.heads
    out = np.zeros((3, rows * c.patch, columns * c.patch))
    for s in range(rows * columns):
        heads = []
        for h in range(0, c.width, size):
            score = np.exp(k[:, h : h + size] @ q[s, h : h + size] / np.sqrt(size))
            heads.append(score / score.sum() @ v[:, h : h + size])
        token = weight["attend_out.weight"] @ np.concatenate(heads) + weight["attend_out.bias"]
        if c.extra_projection:
            token = weight["extra_out.weight"] @ token + weight["extra_out.bias"]
        y, x = s // columns * c.patch, s % columns * c.patch
        cut = (weight["unpatchify.weight"] @ token).reshape(3, c.patch, c.patch)
        out[:, y : y + c.patch, x : x + c.patch] = cut + weight["pixel_shift"][:, None, None]
    return (
        out[:, : image.shape[1], : image.shape[2]]
        + {"query": masked, "image": image, "none": 0.0}[c.residual]
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"residual": "image"},
        {"residual": "none", "extra_projection": True},
        {"residual": "none", "positions": "sincos"},
        {"heads": 1},
        {"patch": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("sides", [(12, 8), (11, 14)], ids=str)
def test_processor_matches_slow_numpy_version(change, sides):
    processor = processor_of(dataclasses.replace(SMALL, **change))
    image, heatmap = pair(*sides)
    expected = [restated(processor, i, e) for i, e in zip(image.numpy(), heatmap.numpy())]
    # positions are made in float32
    error = 1e-6 if processor.config.positions == "sincos" else 1e-10
    np.testing.assert_allclose(
        processor(image, heatmap).detach().numpy(), expected, rtol=0, atol=error
    )


def test_changing_a_heatmap_patch_changes_only_that_patch():
    # a query is its own patch of E*I; were E*I the keys and values too, every patch would change
    processor = processor_of(NO_RESIDUAL)
    image, heatmap = pair(12, 12)
    other = heatmap.clone()
    other[..., 4:8, 8:12] = 1 - other[..., 4:8, 8:12]
    changed = (processor(image, heatmap) - processor(image, other)).abs().amax(dim=(0, 1)) > 1e-9
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:8, 8:12] = True
    assert torch.equal(changed, expected)


def test_zero_heatmap_gives_equal_queries_and_still_uses_the_image():
    # E = 0: all queries are equal, keys and values come from I; with E*I as values I would be
    # invisible
    processor = processor_of(NO_RESIDUAL)
    image, heatmap = pair(8, 8)
    out = processor(image, torch.zeros_like(heatmap))
    torch.testing.assert_close(out[..., :4, :4], out[..., 4:, 4:])
    assert (out[0] - out[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        ProcessorConfig(),
        AUTHORS_PROCESSOR,
        ProcessorConfig(positions="sincos"),
        ProcessorConfig(kind="mask"),
        ProcessorConfig(kind="cnn"),
    ],
    ids=["default", "authors", "sincos", "mask", "cnn"],
)
@pytest.mark.parametrize(
    "sides",
    [*((s, s) for s in (224, 256, 336, 378, 384, 448, 70, 8)), (70, 128), (224, 100)],
    ids=str,
)
def test_output_has_the_size_of_the_input(config, sides):
    with torch.no_grad():
        out = build_processor(config)(torch.randn(1, 3, *sides), torch.rand(1, 1, *sides))
    assert out.shape == (1, 3, *sides) and out.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [{}, {"positions": "sincos"}, {"residual": "image"}, {"kind": "mask"}, {"kind": "cnn"}],
    ids=str,
)
def test_fresh_processor_is_exactly_the_identity_under_ones(change):
    image = torch.randn(2, 3, 40, 56)
    assert torch.equal(
        build_processor(ProcessorConfig(**change))(image, torch.ones(2, 1, 40, 56)), image
    )


def test_fresh_default_processor_is_the_mask_and_is_trainable():
    processor, (image, heatmap) = build_processor(ProcessorConfig()), pair(32, 32)
    image, heatmap = image.float(), heatmap.float()
    out = processor(image, heatmap)
    assert torch.equal(out, heatmap * image)
    out.square().sum().backward()
    assert processor.unpatchify.weight.grad.abs().max() > 0
    assert processor.pixel_shift.grad.abs().max() > 0


@pytest.mark.parametrize(
    "config",
    [AUTHORS_PROCESSOR, ProcessorConfig(zero_init=False), ProcessorConfig(kind="cnn")],
    ids=["authors", "default", "cnn"],
)
def test_every_parameter_gets_a_gradient(config):
    processor = processor_of(config)
    processor(*pair(32, 32)).square().sum().backward()
    assert [
        name
        for name, p in processor.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_authors_form_has_their_number_of_parameters():
    # reference.md §1(a); 196,864 patch embedding + 263,168 attention + 65,792 linear + 196,611
    # transposed convolution
    assert sum(p.numel() for p in build_processor(AUTHORS_PROCESSOR).parameters()) == 722_435


def test_default_processor_is_that_of_decision_0001():
    assert dataclasses.asdict(ProcessorConfig()) == {
        "kind": "mha",
        "patch": 16,
        "width": 256,
        "heads": 8,
        "residual": "query",
        "zero_init": True,
        "positions": "none",
        "extra_projection": False,
    }


def test_authors_form_is_reachable_from_a_model_json():
    eclip_cfg = json.loads(
        '{"processor": {"residual": "none", "zero_init": false, "extra_projection": true}}'
    )
    assert EClipConfig.from_dict(eclip_cfg).processor == AUTHORS_PROCESSOR


def test_cnn_sees_image_and_masked_image():
    processor = processor_of(ProcessorConfig(kind="cnn"))
    image, heatmap = pair(9, 7)
    seen = torch.cat([image, heatmap * image], dim=1)
    hidden = F.gelu(F.conv2d(seen, processor.encode.weight, processor.encode.bias, padding=1))
    change = F.conv2d(hidden, processor.decode.weight, processor.decode.bias, padding=1)
    torch.testing.assert_close(processor(image, heatmap), heatmap * image + change)


def test_all_processors_have_the_same_signature():
    kinds = {"mha": HeatmapProcessor, "mask": MaskProcessor, "cnn": CnnProcessor}
    for kind, cls in kinds.items():
        assert type(build_processor(ProcessorConfig(kind=kind))) is cls
        assert list(inspect.signature(cls.forward).parameters) == ["self", "image", "heatmap"]
    image, heatmap = pair(4, 6)
    assert torch.equal(MaskProcessor()(image, heatmap), image * heatmap)
    assert not list(MaskProcessor().parameters())


@pytest.mark.parametrize(
    "config",
    [dataclasses.replace(SMALL, positions="sincos"), ProcessorConfig(kind="cnn")],
    ids=["mha", "cnn"],
)
def test_pure_bf16_stays_bf16(config):
    image, heatmap = (x.bfloat16() for x in pair(16, 16))
    assert build_processor(config).bfloat16()(image, heatmap).dtype == torch.bfloat16


def test_reconstruction_error_is_the_mean_square_of_each_sample_under_ones():
    heatmaps = []

    def halve(image, heatmap):
        heatmaps.append(heatmap)
        return image / 2

    image, _ = pair(6, 4, count=3)
    errors = reconstruction_errors(halve, image)
    np.testing.assert_allclose(errors, [np.mean((x / 2) ** 2) for x in image.numpy()], rtol=1e-12)
    assert heatmaps[0].shape == (3, 1, 6, 4)
    assert heatmaps[0].dtype == image.dtype
    assert (heatmaps[0] == 1).all()


def photo_crops(index: int, count: int, side: int) -> torch.Tensor:
    """Random crops of scikit-learn's two photographs, (N, 3, side, side), mean 0, variance 1."""
    photo = torch.from_numpy(load_sample_images().images[index].copy()).permute(2, 0, 1).float()
    rng = np.random.default_rng(index)
    places = rng.integers(0, [photo.shape[1] - side, photo.shape[2] - side], (count, 2))
    crops = torch.stack([photo[:, y : y + side, x : x + side] for y, x in places])
    return (crops - crops.mean()) / crops.std()


def prime(processor: torch.nn.Module, images: torch.Tensor, steps: int) -> None:
    """Train with priming alone, at the paper's learning rate."""
    optimizer = torch.optim.AdamW(processor.parameters(), lr=2e-4, weight_decay=1e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        reconstruction_errors(
            processor, images[torch.randint(len(images), (32,), generator=draws)]
        ).mean().backward()
        optimizer.step()


def test_priming_has_no_gradient_for_the_fresh_default_processor():
    processor = build_processor(ProcessorConfig())
    before = copy.deepcopy(processor.unpatchify.weight.detach())
    prime(processor, photo_crops(0, 64, 32), 2)
    assert torch.equal(processor.unpatchify.weight, before) and not processor.pixel_shift.any()
    assert reconstruction_errors(processor, photo_crops(1, 64, 32)).max() == 0


@pytest.mark.slow
def test_priming_restores_a_disturbed_default_processor():
    # the requirement allows 300 steps; docs/results/processor.md has them, other forms and other
    # images
    torch.manual_seed(0)
    processor, held_out = build_processor(ProcessorConfig()), photo_crops(1, 64, 32)
    torch.nn.init.normal_(processor.unpatchify.weight, std=0.1)
    assert reconstruction_errors(processor, held_out).mean() > 0.05
    prime(processor, photo_crops(0, 512, 32), 100)
    assert reconstruction_errors(processor, held_out).mean() < 0.01


@pytest.mark.slow
def test_authors_form_after_200_priming_steps_is_worse_than_constant_patches():
    torch.manual_seed(0)
    processor, held_out = build_processor(AUTHORS_PROCESSOR), photo_crops(1, 64, 32)
    prime(processor, photo_crops(0, 512, 32), 200)
    constant = F.interpolate(F.avg_pool2d(held_out, 16), scale_factor=16)
    assert (
        (held_out - constant).square().mean()
        < 0.1
        < reconstruction_errors(processor, held_out).mean()
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("kind", "vit"),
        ("residual", "both"),
        ("positions", "learnt"),
        ("patch", 0),
        ("heads", 0),
        ("width", 250),
        ("width", 0),
        ("width", -8),
    ],
)
def test_error_names_the_impossible_value(key, value):
    with pytest.raises(ValueError, match=rf"processor\.(width|{key})={value!r}"):
        ProcessorConfig(**{key: value})


def test_sincos_positions_need_a_width_divisible_by_4():
    with pytest.raises(ValueError, match=r"processor\.width=18.*multiple of 4"):
        ProcessorConfig(width=18, heads=2, positions="sincos")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"alpa": 0.3}, r"eclip_cfg: unknown key 'alpa'.*alpha"),
        ({"processor": {"widht": 1}}, r"eclip_cfg\.processor: unknown key 'widht'.*width"),
        ({"curriculum": {"hot": 1}}, r"eclip_cfg\.curriculum: unknown key 'hot'.*cold"),
        ({"processor": "mha"}, r"eclip_cfg\.processor: 'mha'.*dict"),
        ({"processor": {"residual": "image", "kind": "x"}}, r"processor\.kind='x'"),
    ],
)
def test_from_dict_error_names_the_bad_key(values, message):
    with pytest.raises(ValueError, match=message):
        EClipConfig.from_dict(values)


def test_config_round_trips_through_json():
    config = EClipConfig(processor=AUTHORS_PROCESSOR, alpha=0.5)
    assert EClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert EClipConfig.from_dict({}) == EClipConfig()
