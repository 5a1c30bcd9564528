"""LoRA on the towers of open_clip, with the layers of peft (Hu et al. 2022, arXiv 2106.09685, §4).

A frozen weight W acts as W + B A, and only A and B are trained. peft's factor alpha / rank is left
at 1, so nothing but the weights is needed to merge them; another factor would be another learning
rate of B (§4.1). `checkpoint_files.merge_low_rank` merges.

Only runs with --lora-image or --lora-text import this file, since peft is an extra.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from open_clip.transformer import Attention
from peft.tuners.lora import Linear, LoraConfig
from peft.tuners.lora.layer import MultiheadAttention
from torch import Tensor, nn
from torch.func import functional_call

from ..config import UserError
from .frozen import freeze_before_positions, keep_in_evaluation, keep_projection
from .local_features import empty_image

logger = logging.getLogger(__name__)

NAME = "default"  # peft's name for the only adapter; `merge_low_rank` reads it


class FusedAttention(MultiheadAttention):
    """peft's layer for nn.MultiheadAttention, whose forward leaves the frozen weights alone.

    peft's own forward adds B A to the frozen weights and subtracts it again, which rounds them in
    every pass: by 1e-3 in bf16. It also takes open_clip's Attention, which has the same weights.
    """

    state_dict = nn.Module.state_dict
    named_modules = nn.Module.named_modules

    def __init__(self, base: Any, *args: Any, **kwargs: Any) -> None:
        weight = base.in_proj_weight
        base.output_size, base.input_size = weight.shape  # where peft looks in an unknown class
        super().__init__(base, *args, **kwargs)
        for part in (self.lora_A, self.lora_B):
            part.to(weight)  # peft does not find the device of an unknown class

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        base = cast(Any, self.base_layer)
        weights = {"in_proj_weight": base.in_proj_weight + _product(self)}
        if isinstance(base, nn.MultiheadAttention):  # it reads this weight, and calls no layer
            weights["out_proj.base_layer.weight"] = base.out_proj.weight + _product(base.out_proj)
        return functional_call(base, weights, (query, *args), kwargs)


def _product(layer: Any) -> Tensor:
    return layer.lora_B[NAME].weight @ layer.lora_A[NAME].weight


def add_low_rank(model: nn.Module, image_rank: int | None, text_rank: int | None) -> None:
    """Freeze the towers that have a rank, and give their frozen linear layers A and B.

    What `freeze_image_tower` and `freeze_text_tower` leave trainable stays so. The model computes
    what it did, since B starts at 0. UserError for a tower without a frozen linear layer.
    """
    if image_rank:
        visual = cast(nn.Module, model.visual)
        freeze_before_positions(visual)
        count = _add(visual, image_rank, lambda: visual(empty_image(visual)))
        _report("image", visual, image_rank, count)
    if text_rank:
        cast(Any, model).lock_text_tower(unlocked_layers=0, freeze_layer_norm=True)
        own = cast(Any, getattr(model, "text", model))  # CLIP has its text layers in itself
        if getattr(own, "text_projection", None) is not None:
            own.text_projection.requires_grad_(True)  # as that behind a tower of Hugging Face
        keep_projection(own)
        text = cast(nn.Module, model.transformer if own is model else own)
        device = next(text.parameters()).device
        tokens = torch.full((1, cast(int, model.context_length)), 2, device=device)
        count = _add(text, text_rank, lambda: cast(Any, model).encode_text(tokens))
        _report("text", text, text_rank, count)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    logger.info(
        "eclip: %.3g %% of the model's weights are trained: %d of %d",
        100 * trained / total,
        trained,
        total,
    )


def _report(tower: str, module: nn.Module, rank: int, count: int) -> None:
    if not count:
        raise UserError(
            f"--lora-{tower} {rank}: the {tower} tower {type(module).__name__} has no linear layers"
            f" to change before its pool; take --freeze-{tower} all, or train the whole tower."
        )
    logger.info("eclip: --lora-%s %d: LoRA on %d layers of the %s tower", tower, rank, count, tower)


def _add(tower: nn.Module, rank: int, run: Callable[[], object]) -> int:
    """The number of layers of `tower` that now have A and B; `run` passes an input through it."""
    config = LoraConfig(r=rank, lora_alpha=rank)
    names = _frozen_layers(tower, run)
    for name in names:
        layer = tower.get_submodule(name)
        kind = Linear if isinstance(layer, nn.Linear) else FusedAttention
        wrapped = kind(layer, NAME, config=config, r=rank, lora_alpha=rank)
        tower.set_submodule(name, wrapped.train(layer.training))
    for norm in tower.modules():
        # frozen weights were trained with these batch statistics
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            keep_in_evaluation(norm)
    return len(names)


def _frozen_layers(tower: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the frozen linear layers, and of fused attention, that `run` calls.

    A layer that is not called would train nothing: its module is unused, or the weight is read past
    it (out_proj of nn.MultiheadAttention, qkv of timm's BEiT). `FusedAttention` takes the last
    layer of an attention along.
    """
    called: list[str] = []
    fused = (nn.MultiheadAttention, Attention)
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in tower.named_modules()
        if isinstance(module, (nn.Linear, *fused))
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
    training = [module for module in tower.modules() if module.training]
    tower.eval()
    try:
        with torch.no_grad():
            run()
    finally:
        for module in training:
            module.training = True
        for handle in handles:
            handle.remove()
    inside = {f"{name}.out_proj" for name in called if isinstance(tower.get_submodule(name), fused)}
    return [name for name in dict.fromkeys(called) if name not in inside]
