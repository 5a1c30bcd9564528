"""--fsdp: weights that are shared out among the ranks (FSDP2), and gathered where they are used.

Whatever uses weights is then a collective: all ranks must do it, equally often. Release 4 alone has
it.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import UserError
from openclip_eclip.rank_counts import counts_of_ranks

# flags that do not work with --fsdp, and why
CONFLICTS = {
    "cache_tokens": "a rank that finds its results would not compute with the others",
    "fsdp_offload_cpu": "it needs a GPU, and was never run",
}


def check_sharding(args: argparse.Namespace, world_size: int) -> None:
    """UserError for flags of open_clip that begin with --fsdp where they cannot work."""
    if not args.fsdp:
        if args.fsdp_offload_cpu or args.fsdp_no_reshard_after_forward:
            name = "offload-cpu" if args.fsdp_offload_cpu else "no-reshard-after-forward"
            raise UserError(f"--fsdp-{name} without --fsdp has no effect: drop it.")
        return
    if world_size == 1:
        raise UserError(
            "--fsdp with one process: there is nothing to share the weights out to; start several"
            " with torchrun, or drop it."
        )
    for name, reason in CONFLICTS.items():
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} with --fsdp: {reason}; drop one of them.")
    if args.keep_best == "grounding":
        raise UserError(
            "--keep-best grounding with --fsdp: the first rank alone measures it, and no rank has"
            " the whole model; take another measure, or drop --fsdp."
        )


def prepare_sharded(model: Any) -> None:
    """Make the passes of an expert `model`, wrapped by FSDP2, the same on all ranks."""
    image_tower = set(model.visual.modules())
    for part in model.modules():
        # Outside the blocks, weights are read in all of a pass. The texts of sentences and of
        # oversampled images pass a second time, on ranks that have some: nothing may be gathered.
        if isinstance(part, FSDPModule) and part not in image_tower:
            part.set_reshard_after_forward(False, recurse=False)
    processor = getattr(model, "heatmap_processor", None)
    if processor is None or not any(weight.requires_grad for weight in processor.parameters()):
        return

    def take_part(_: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Give an idle processor gradients of zero where another rank uses it.

        All ranks must reduce the same gradients, in the same order: so it takes part in the images,
        and a frozen tower passes gradients on to it. Where no rank uses it there are none, as with
        DDP.
        """
        batch = given["image"]
        if isinstance(batch, ExpertBatch):
            is_used = batch.is_priming or len(batch.lam) > 0
            if any(counts_of_ranks(int(is_used))) and not is_used:
                idle = sum(weight.sum() for weight in processor.parameters())
                given["image"] = dataclasses.replace(batch, image=batch.image + 0 * idle)
        return args, given

    model.register_forward_pre_hook(take_part, with_kwargs=True)  # FSDP's own hook comes first
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
