"""--fsdp: weights that are shared out among the ranks (FSDP2), and gathered where they are used.

Whatever uses weights is then a collective: all ranks must do it, equally often. Release 4 alone has
it.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import UserError
from openclip_eclip.rank_counts import counts_of_ranks


def check_sharding(args: argparse.Namespace, world_size: int) -> None:
    """UserError where --fsdp cannot work, or a flag that needs it has no effect."""
    if not args.fsdp:
        if args.fsdp_no_reshard_after_forward:
            raise UserError(
                "--fsdp-no-reshard-after-forward without --fsdp has no effect: give both, or drop"
                " it."
            )
        return
    if world_size == 1:
        raise UserError(
            "--fsdp with one process: there is nothing to share the weights out to; start several"
            " with torchrun, or drop it."
        )
    if args.cache_tokens:
        raise UserError(
            "--cache-tokens with --fsdp: a rank that finds its results would not compute with the"
            " others, which wait for it; drop one of them."
        )
    if args.precision in ("bf16", "fp16"):
        raise UserError(
            f"--precision {args.precision} with --fsdp: norms stay in fp32, and FSDP2 shares out"
            f" weights of one type; give amp_bf16 or pure_{args.precision}."
        )
    if args.keep_best == "grounding":
        raise UserError(
            "--keep-best grounding with --fsdp: the first rank alone measures it, and no rank has"
            " the whole model; take another measure, or drop --fsdp."
        )


def prepare_sharded(model: Any) -> None:
    """Make the passes of an expert `model`, wrapped by FSDP2, the same on all ranks."""
    # weights outside the blocks are read in all of a pass; an older torch always keeps them
    if hasattr(model, "set_reshard_after_forward"):
        model.set_reshard_after_forward(False, recurse=False)
    # no result is changed in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    _pass_alike(model)
    processor = getattr(model, "heatmap_processor", None)
    if processor is None or not any(weight.requires_grad for weight in processor.parameters()):
        return

    def take_part(_: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Give an idle processor gradients of zero where another rank uses it.

        All ranks must reduce the same gradients, in the same order: so it takes part in the images,
        and a frozen tower passes gradients on to it. Where no rank uses it there are none, as with
        DDP.
        """
        batch = given.get("image")
        if isinstance(batch, ExpertBatch):
            is_used = batch.is_priming or len(batch.lam) > 0
            if any(counts_of_ranks(int(is_used))) and not is_used:
                idle = sum(weight.sum() for weight in processor.parameters())
                given["image"] = dataclasses.replace(batch, image=batch.image + 0 * idle)
        return args, given

    model.register_forward_pre_hook(take_part, with_kwargs=True)  # FSDP's own hook comes first


def _pass_alike(model: Any) -> None:
    """Let every rank encode further texts as often as the rank that does it most often.

    Only some ranks of a step have texts of sentences, or of oversampled images.
    """
    own = model.further_texts

    def further_texts(batch: ExpertBatch) -> dict[str, Tensor]:
        texts = own(batch)
        for number in range(len(texts), max(counts_of_ranks(len(texts)))):
            shape = (1, model.context_length)
            texts[f"unread {number}"] = batch.sample_id.new_zeros(shape)
        return texts

    model.further_texts = further_texts


def complete_optimiser(checkpoint: dict[str, Any]) -> None:
    """Add zeros, with which an optimiser begins, for weights that no step has trained yet.

    Only FSDP2 asks for them. They are those of a processor before its first heatmap.
    """
    weights, optimiser = checkpoint["state_dict"], checkpoint["optimizer"]
    like: dict[str, Tensor] = next(iter(optimiser["state"].values()), {})
    for name in (name for group in optimiser["param_groups"] for name in group["params"]):
        if name not in optimiser["state"]:
            optimiser["state"][name] = {
                key: torch.zeros_like(weights[name] if value.ndim else value)
                for key, value in like.items()
            }
