"""GLoRIA with global negatives on two ranks against one process.

test_gloria_method.py starts it twice; it prints JSON.
"""

from __future__ import annotations

import itertools
import sys

import open_clip
import torch
import torch.distributed as dist
from workers.ddp_loss import (
    gradients,
    join_parts,
    make_loss,
    make_part,
    models,
    relative_error,
    write_results,
)

from openclip_eclip.objectives import Gloria
from openclip_eclip.objectives.gloria import GloriaConfig


def main(config: str, out: str) -> None:
    open_clip.add_model_config(config)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    results = []
    for processor in ({"width": 32, "heads": 4, "zero_init": False}, None):
        single, wrapped = models({"processor": processor, "regions": True}, init_logit_bias=None)
        for local, grad in itertools.product((False, True), repeat=2):
            for rows in (([], [0, 2]), ([1], [])) if processor else (([], []),):
                parts = [make_part(r, list(rows[r]), 0, False) for r in range(world)]
                measured = []
                for model, part, negatives, rank_and_world in (
                    (wrapped, parts[rank], "global", (rank, world)),
                    (single, join_parts(parts), "rank", (0, 1)),
                ):
                    objective = Gloria(GloriaConfig(local_negatives=negatives))
                    objective.use_tokenizer(open_clip.get_tokenizer("tiny"))
                    inner = getattr(model, "module", model)
                    inner.objectives = (objective,)
                    loss = make_loss(False, local, grad, "diagonal", *rank_and_world)
                    loss.configure(inner.eclip_config, inner.objectives)
                    measured.append(gradients(model, loss, *part))
                (value, ours), (expected_value, expected) = measured
                mean = torch.tensor(value, dtype=torch.float64)
                dist.all_reduce(mean)
                factor = 1.0 if grad else 1.0 / world  # open_clip's
                results.append(
                    {
                        "loss": float(mean) / world,
                        "expected": expected_value,
                        "gradient_error": relative_error(ours, expected, factor, left_out=()),
                        "names": sorted(set(ours) ^ set(expected)),
                        "local": local,
                        "grad": grad,
                        "rows": rows,
                    }
                )
    write_results(out, results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
