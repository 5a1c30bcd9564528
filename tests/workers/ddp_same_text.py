"""Repeated texts on two gloo ranks against one process over all samples.

test_same_text_ranks.py starts it; it prints JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import open_clip
import torch
import torch.distributed as dist
from torch.nn import functional as F
from workers.ddp_loss import (
    SIZE,
    gradients,
    join_parts,
    make_part,
    models,
    relative_error,
    write_results,
)

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import EClipConfig
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.same_text import SameText

Part = tuple[ExpertBatch, torch.Tensor]
FLAGS = [(local, grad) for local in (False, True) for grad in (False, True)]
# which text each sample of a rank has, and those of the separate stream
TEXTS = {
    "across ranks": ([0, 1, 2], [0, 3, 0], [3, 4]),
    "on one rank": ([0, 1, 2], [3, 4, 4], [5, 6]),
    "with the stream": ([0, 1, 2], [3, 4, 5], [1, 6]),
    "none": ([0, 1, 2], [3, 4, 5], [6, 7]),
}
# annotated rows on each rank, samples of the stream on each rank
MIXED = {"no mixed pair": (([], []), (0, 0)), "mixed pairs": (([0, 2], [1]), (0, 2))}


def make_parts(texts: str, mixed: str, similarity: float | None) -> list[Part]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, 999, (8, 16), generator=generator)
    keys = torch.arange(8)
    if similarity is not None:
        # in three dimensions some are alike, and those of one text are equal
        keys = F.normalize(torch.randn(8, 3, generator=generator), dim=1)
    *own, stream = TEXTS[texts]
    rows, expert = MIXED[mixed]
    parts = []
    for rank, numbers in enumerate(own):
        batch, _ = make_part(rank, rows[rank], expert[rank], False)
        numbers = [*numbers, *stream[: expert[rank]]]
        batch.expert_text = tokens[numbers[SIZE:]]
        batch.text_key = keys[numbers]
        parts.append((batch, tokens[numbers[:SIZE]]))
    return parts


def join(parts: list[Part]) -> Part:
    batch, text = join_parts(parts)
    keys = [b.text_key[:SIZE] for b, _ in parts] + [b.text_key[SIZE:] for b, _ in parts]
    batch.text_key = torch.cat(keys)
    return batch, text


def make_loss(
    case: dict[str, Any], rank: int, world: int, use: str | None = None
) -> EClipLoss | EClipSigLipLoss:
    where = {"rank": rank, "world_size": world}
    loss: EClipLoss | EClipSigLipLoss
    if case["siglip"]:
        loss = EClipSigLipLoss(dist_impl=case["siglip"], **where)
    else:
        local, grad = case["local"], case["grad"]
        loss = EClipLoss(local_loss=local, gather_with_grad=grad, cache_labels=True, **where)
    settings = SameText(use or case["use"], case["similarity"])
    loss.configure(EClipConfig(own_pairs=case["own_pairs"], priming_weight=0.0), (), settings)
    return loss


def cases() -> Iterator[dict[str, Any]]:
    clip = [{"siglip": "", "local": local, "grad": grad} for local, grad in FLAGS]
    siglip = [
        {"siglip": form, "local": True, "grad": True}
        for form in ("bidir", "shift", "reduce", "gather")
    ]
    for flags in (*clip, *siglip):
        for use in ("positive", "ignore"):
            for texts in TEXTS:
                for mixed in MIXED:
                    own_pairs = {"positive": "mask", "ignore": "multi"}[use]
                    if mixed == "no mixed pair" or texts == "with the stream":
                        own_pairs = "diagonal"
                    yield {
                        **flags,
                        **{"use": use, "texts": texts, "mixed": mixed, "own_pairs": own_pairs},
                        "similarity": 0.8 if (texts, mixed) == ("none", "mixed pairs") else None,
                    }


def main(config: str, out: str) -> None:
    open_clip.add_model_config(config)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    single, wrapped = models({"processor": {"width": 32, "heads": 4, "zero_init": False}})
    results = []
    for case in cases():
        parts = make_parts(case["texts"], case["mixed"], case["similarity"])
        loss, whole = make_loss(case, rank, world), make_loss(case, 0, 1)
        value, actual = gradients(wrapped, loss, *parts[rank])
        stock, other = gradients(wrapped, make_loss(case, rank, world, "negative"), *parts[rank])
        expected_value, expected = gradients(single, whole, *join(parts))
        mean = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(mean)
        case["is_stock"] = value == stock and all(
            torch.equal(gradient, other[name]) for name, gradient in actual.items()
        )
        case["loss"], case["expected"] = float(mean) / world, expected_value
        factor = 1.0 if case["grad"] else 1.0 / world
        case["gradient_error"] = relative_error(actual, expected, factor)
        case["found"] = [loss.repeats.images, loss.repeats.repeated, loss.repeats.pairs]
        case["expected_found"] = [
            whole.repeats.images,
            whole.repeats.repeated,
            whole.repeats.pairs,
        ]
        results.append(case)
    write_results(out, results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
