"""Every objective on two gloo ranks against one process over all samples, then whole runs.

test_method.py starts it twice.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import open_clip
import torch
import torch.distributed as dist
from workers.ddp_loss import (
    SIZE,
    gradients,
    join_parts,
    make_loss,
    make_part,
    models,
    relative_error,
    write_results,
)

from openclip_eclip import train
from openclip_eclip.objectives import Dacl, M3Mix, Objective
from openclip_eclip.objectives.dacl import DaclConfig
from openclip_eclip.objectives.m3_mix import M3MixConfig

# with all weights alike, every term of m3-mix counts in the gradient
M3 = M3MixConfig(weight_v=1.0, weight_l=1.0, weight_vl=1.0, weight_m2=1.0)
CASES = {
    "release": (Dacl(DaclConfig("release")),),
    "plus": (Dacl(DaclConfig("plus", alpha=0.3)),),
    "dacl+m3-mix": (Dacl(), M3Mix(M3)),
    "m3-mix": (M3Mix(M3),),
}
# siglip, local, with gradient
MODES = (
    (False, False, False),
    (False, False, True),
    (False, True, True),
    (True, True, True),
    (False, True, False),
)
BINARY_STEP = next(
    s
    for s in range(99)
    if Dacl(DaclConfig("plus")).draw(0, s, 0, torch.arange(2))["dacl_kind"] == "binary"
)


def join_draws(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """The draws of both ranks as those of one batch; partners are on the same rank."""
    joined: dict[str, Any] = {}
    for name, first in draws[0].items():
        values = [
            draw[name] + SIZE * rank if name == "dacl_partner" else draw[name]
            for rank, draw in enumerate(draws)
        ]
        joined[name] = (
            torch.cat(values)
            if isinstance(first, torch.Tensor)
            else np.concatenate(values)
            if isinstance(first, np.ndarray)
            else first
        )
    return joined


def compare(
    single: Any,
    wrapped: Any,
    objectives: tuple[Objective, ...],
    rows: list,
    siglip: bool,
    local: bool,
    grad: bool,
) -> dict:
    rank, world = dist.get_rank(), dist.get_world_size()
    parts, draws = [make_part(r, rows[r], 0, False) for r in range(world)], []
    for batch, _ in parts:
        for objective in objectives:
            batch.draws.update(objective.draw(0, BINARY_STEP, 1, batch.sample_id))
        draws.append(batch.draws)
    whole, text = join_parts(parts)
    whole.draws = join_draws(draws)
    results, contrastive = [], grad or not local  # else open_clip's own gradient is not the whole
    for model, batch, words, settings in (
        (wrapped, *parts[rank], (siglip, local, grad, "diagonal", rank, world)),
        (single, whole, text, (siglip, False, False, "diagonal", 0, 1)),
    ):
        inner = getattr(model, "module", model)
        inner.objectives = objectives
        loss = make_loss(*settings)
        loss.configure(inner.eclip_config, objectives)
        results.append(gradients(model, loss, batch, words, contrastive))
    (value, ours), (expected_value, expected) = results
    mean = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(mean)
    factor = 1.0 if grad or siglip else 1.0 / world
    return {
        "loss": float(mean) / world,
        "expected": expected_value,
        "gradient_error": relative_error(ours, expected, factor),
        "names": sorted(set(ours) ^ set(expected)),
        "local": local,
        "grad": grad,
        "siglip": siglip,
        "rows": rows,
    }


def main(config: str, out: str, runs: str) -> None:
    open_clip.add_model_config(config)
    dist.init_process_group("gloo")
    results = []
    for processor in (None, {"width": 32, "heads": 4, "zero_init": False}):
        single, wrapped = models({"processor": processor})
        rows = [[], [0, 2]] if processor else [[], []]  # annotated, on rank 0 and rank 1
        for name, objectives in CASES.items():
            for siglip, local, grad in MODES:
                results.append(
                    {
                        "name": name,
                        **compare(single, wrapped, objectives, rows, siglip, local, grad),
                    }
                )
    write_results(out, results)
    dist.init_process_group = lambda *_, **__: None  # is there already
    for flags in json.loads(runs):
        train.main(flags)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
