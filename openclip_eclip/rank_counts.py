"""Numbers that differ between ranks, exchanged by their processes: no GPU is waited for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist


def counts_of_ranks(count: int) -> list[int]:
    """`count` of every rank. All ranks must call it; processes wait for each other alone."""
    mine = torch.tensor([count])
    counts = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, mine, group=_on_the_host(dist.group.WORLD))
    return torch.cat(counts).tolist()


@lru_cache(maxsize=1)
def _on_the_host(world: Any) -> Any:
    """A group of all ranks whose messages are in the memory of the host."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")
