"""The attention of each kind of tower.

It is that of a learned pool, or the similarity of text and positions.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import TINY
from open_clip.model import _build_vision_tower
from reference import align as reference
from torch import Tensor, nn
from torch.nn import functional as F

from openclip_eclip.config import UserError
from openclip_eclip.objectives.align import Align, AlignConfig, cross_entropy, log_attention
from openclip_eclip.towers.pool_attention import pool_attention
from openclip_eclip.towers.positions import encode_positions, encode_tokens

TIMM = {"timm_model_pretrained": False, "timm_proj": "linear", "timm_pool": "avg"}
VIT = TINY["vision_cfg"]
SMALL_VIT = {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
TOWERS = {  # vision_cfg, grid
    "vit-class": (VIT, (2, 2)),
    "vit-average": ({**VIT, "pool_type": "avg", "image_size": [32, 64]}, (2, 4)),
    "resnet": ({**TIMM, "timm_model_name": "resnet10t", "image_size": 64}, (2, 2)),
    "convnext": ({**TIMM, "timm_model_name": "convnext_atto", "image_size": [64, 96]}, (2, 3)),
    "efficientnet": ({**TIMM, "timm_model_name": "efficientnet_lite0", "image_size": 64}, (2, 2)),
    "swin": (
        {**TIMM, "timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224},
        (7, 7),
    ),
    "timm-class": ({**SMALL_VIT, "timm_pool": "token"}, (14, 14)),
}
POOLS = {  # vision_cfg, grid, tokens before it, queries that the tower uses
    "vit-pool": (
        {**VIT, "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        (2, 2),
        1,
        slice(0, 1),
    ),
    "vit-pool-average": (
        {
            **VIT,
            "attentional_pool": True,
            "attn_pooler_queries": 3,
            "attn_pooler_heads": 2,
            "pool_type": "avg",
        },
        (2, 2),
        1,
        slice(1, 3),
    ),
    "modified-resnet": (
        {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        (2, 2),
        1,
        slice(0, 1),
    ),
    "siglip": ({**SMALL_VIT, "timm_pool": "map", "timm_proj": "none"}, (14, 14), 0, slice(0, 1)),
    "timm-absolute": (
        {
            **TIMM,
            "timm_model_name": "resnet10t",
            "timm_pool": "abs_attn",
            "timm_proj": "",
            "image_size": 96,
        },
        (3, 3),
        1,
        slice(0, 1),
    ),
    "timm-norm-before": (
        {
            **TIMM,
            "timm_model_name": "convnext_atto",
            "timm_pool": "abs_attn",
            "timm_proj": "",
            "image_size": 96,
        },
        (3, 3),
        1,
        slice(0, 1),
    ),
    "timm-rotary": (
        {
            **TIMM,
            "timm_model_name": "resnet10t",
            "timm_pool": "rot_attn",
            "timm_proj": "",
            "image_size": 96,
        },
        (3, 3),
        1,
        slice(0, 1),
    ),
}


def build(vision: dict) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    side = vision["image_size"]
    return _build_vision_tower(24, vision).train(), torch.randn(
        2, 3, *(side if isinstance(side, list) else (side, side))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_attention_without_a_pool_is_the_similarity_with_the_text(name: str) -> None:
    """The features of the pass are those of the tower, also in training.

    The loss matches numpy and its gradient reaches the tower.
    """
    vision, grid = TOWERS[name]
    tower, pixels = build(vision)
    text = F.normalize(torch.randn(2, 24), dim=-1).requires_grad_()
    state = {key: value.clone() for key, value in tower.state_dict().items()}
    torch.manual_seed(1)  # of stochastic depth
    features, tokens = encode_tokens(tower, pixels)
    log = log_attention(tower, tokens, lambda: text, AlignConfig())
    heatmap = torch.rand(2, 1, *(8 * side for side in grid))
    errors = cross_entropy(heatmap, log, 3.0)
    errors.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())
    tower.load_state_dict(state)
    torch.manual_seed(1)
    assert torch.equal(features, tower(pixels))
    tower.load_state_dict(state)
    torch.manual_seed(1)
    with torch.no_grad():
        positions = encode_positions(tower, pixels).numpy()
    assert positions.shape == (2, *grid, 24)
    for row in range(2):
        expected = reference.attention(positions[row], text[row].detach().numpy(), 0.1)
        assert np.abs(log[row].detach().exp().numpy() - expected).max() < 1e-4
        assert float(errors[row].detach()) == pytest.approx(
            reference.cross_entropy(heatmap[row, 0].numpy(), expected, 3.0), rel=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_pool_attention_matches_the_weights_inside_the_tower(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over heads, without other tokens, scaled to sum to one."""
    vision, grid, prefix, queries = POOLS[name]
    tower, pixels = build(vision)
    weights = []

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
        weights.append((query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1))
        return weights[-1] @ value

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attend)
        features, tokens = encode_tokens(tower, pixels)
    heads = weights[-1].detach().double().numpy()[:, :, queries]
    result = pool_attention(tower, tokens)
    used = heads.mean((1, 2))[:, prefix:]
    expected = (used / used.sum(1, keepdims=True)).reshape(2, *grid)
    assert np.abs(result.detach().exp().numpy() - expected).max() < 1e-5
    assert heads.shape[1] > 1
    # the same for every text
    assert torch.equal(
        result, log_attention(tower, tokens, lambda: torch.zeros(2, 24), AlignConfig())
    )
    result[:, 0, 0].sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in tower.parameters() if p.grad is not None) > 0
    assert expected.std() > 1e-6
    assert log_attention(
        tower,
        tokens.rows(torch.zeros(0, dtype=torch.int64)),
        lambda: torch.zeros(0, 24),
        AlignConfig(),
    ).shape == (0, *grid)


def test_pool_attention_leaves_class_tokens_out() -> None:
    """SigLIP's pool over a ViT that also has a class token.

    It is left out before the pool if the tower does so, else after it.
    """
    tower, pixels = build({**SMALL_VIT, "timm_pool": "map", "timm_proj": "none"})
    assert tower.trunk.num_prefix_tokens == 1 and not tower.trunk.pool_include_prefix
    _, tokens = encode_tokens(tower, pixels)
    without = pool_attention(tower, tokens)
    tower.trunk.pool_include_prefix = True
    whole = pool_attention(tower, tokens)
    assert whole.shape == (2, 14, 14)
    assert whole.detach().exp().sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    # heads that attend to the class token have less weight
    torch.testing.assert_close(whole, without, atol=1e-2, rtol=1e-2)
    assert not torch.equal(whole, without)


def test_attention_is_scored_in_full_precision() -> None:
    tower, pixels = build(VIT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, tokens = encode_tokens(tower, pixels)
        text = F.normalize(torch.randn(2, 24), dim=-1).bfloat16()
        log = log_attention(tower, tokens, lambda: text, AlignConfig())
    assert log.dtype == torch.float32
    assert log.exp().sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert cross_entropy(torch.rand(2, 1, 32, 32).bfloat16(), log, 3.0).dtype == torch.float32


def test_target_is_the_cubed_heatmap_on_the_grid() -> None:
    """A marked corner is the corner's cell.

    The smallest loss is the target's entropy, for attention equal to the target.
    """
    heatmap = torch.full((1, 1, 6, 9), 0.1)
    heatmap[..., :2, 6:] = 1.0
    cells = np.full((3, 3), 0.1)
    cells[0, 2] = 1.0
    target = torch.from_numpy(cells**3 / (cells**3).sum()).float()[None]
    assert float(cross_entropy(heatmap, target.log(), 3.0)) == pytest.approx(
        float(-(target * target.log()).sum()), rel=1e-5
    )
    assert float(cross_entropy(heatmap, target.log(), 3.0)) < float(
        cross_entropy(heatmap, target.mT.log(), 3.0)
    )
    assert float(cross_entropy(torch.ones(1, 1, 6, 9), target.log(), 3.0)) == pytest.approx(
        float(-target.log().mean()), rel=1e-5
    )


class OneModel(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


@pytest.mark.parametrize(
    "change,message",
    [
        ({"patch_size": 32}, "a single position"),
        ({"patch_dropout": 0.5}, "drops patches .*0.5"),
        (None, "Flat: its features by position are not known"),
    ],
)
def test_towers_without_a_map_are_errors(change: dict | None, message: str) -> None:
    class Flat(nn.Linear):
        image_size = 32

    tower = build({**VIT, **change})[0] if change else Flat(2, 2)
    with pytest.raises(UserError, match=message):
        Align().check_model(OneModel(tower))
    Align(AlignConfig(weight=0)).check_model(OneModel(tower))


def test_batch_norm_behind_the_map_is_an_error() -> None:
    """Single positions would pass through it as if they were images."""
    tower, _ = build(TOWERS["resnet"][0])
    state = {key: value.clone() for key, value in tower.state_dict().items()}
    Align().check_model(OneModel(tower))
    assert tower.training
    assert all(torch.equal(value, state[key]) for key, value in tower.state_dict().items())
    tower.head = nn.Sequential(nn.BatchNorm1d(512), *tower.head)
    with pytest.raises(UserError, match="ResNet has batch norm behind its map"):
        Align().check_model(OneModel(tower))
    assert not any(module._forward_hooks for module in tower.modules())


# tower, its groups that --lock-image leaves unlocked, --align-windows, can it learn; the same from
# open_clip's release 4 on, which locks timm's pool and leaves out the pool of its own ViT
LOCKS = {
    "all of a pool": ("vit-pool", 0, False, False, True),
    "values of a pool alone": ("vit-pool", 1, False, False, True),
    "similarity behind that pool": ("vit-pool", 1, True, True, True),
    "block before a pool": ("vit-pool", 2, False, True, True),
    "pool of timm": ("timm-absolute", 0, False, True, False),
    "similarity without a pool": ("vit-class", 1, False, True, True),
    "all without a pool": ("vit-class", 0, False, False, False),
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_locked_tower_aligns_where_something_that_attends_is_trained(name: str) -> None:
    tower, unlocked, windows, *can_learn = LOCKS[name]
    visual, _ = build((POOLS | TOWERS)[tower][0])
    visual.lock(unlocked_groups=unlocked)
    model = OneModel(visual)
    align = Align(AlignConfig(weight=1.0, windows=windows))
    if can_learn[hasattr(visual, "layer_groups")]:
        align.check_model(model)
    else:
        with pytest.raises(UserError, match="nothing by which the image tower attends is trained"):
            align.check_model(model)
