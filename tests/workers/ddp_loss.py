"""The loss in every case on two gloo ranks against one process over all samples.

test_distributed.py starts it twice; it prints JSON.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from typing import Any

import open_clip
import torch
import torch.distributed as dist

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import EClipConfig
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from training_patches.release_3_3 import ExpertDistributedDataParallel

SIZE = 3  # samples a rank
# rows on rank 0, on rank 1
ANNOTATED = (
    [[], []],
    [[], [0, 2]],
    [[1], []],
    [[0], [0, 1, 2]],
    [[0, 1, 2], [0, 1, 2]],
)
EXPERT = ((0, 0), (0, 2), (2, 1))  # samples of the separate stream


def make_part(
    rank: int, rows: list[int], expert: int, priming: bool
) -> tuple[ExpertBatch, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + rank)
    total = len(rows) + expert

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)

    ids = torch.arange(SIZE) + 10 * rank
    batch = ExpertBatch(
        images(SIZE),
        ids,
        torch.tensor(rows, dtype=torch.int64),
        torch.rand(total, 1, 32, 32, generator=generator, dtype=torch.float64),
        torch.rand(total, generator=generator),
        torch.cat([ids[rows], torch.arange(expert) + 1000 + 10 * rank]).long(),
        images(expert),
        torch.randint(1, 999, (expert, 16), generator=generator),
        priming,
    )
    return batch, torch.randint(1, 999, (SIZE, 16), generator=generator)


def join_parts(parts: list[tuple[ExpertBatch, torch.Tensor]]) -> tuple[ExpertBatch, torch.Tensor]:
    """The batch of one process: mixed pairs of the batch first, then those of the stream."""

    def cat(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(values)

    batches = [batch for batch, _ in parts]
    own = [len(batch.mix_index) for batch in batches]

    def mixed(name: str) -> torch.Tensor:
        return cat(
            [getattr(b, name)[:n] for b, n in zip(batches, own)]
            + [getattr(b, name)[n:] for b, n in zip(batches, own)]
        )

    return ExpertBatch(
        cat([b.image for b in batches]),
        cat([b.sample_id for b in batches]),
        cat([b.mix_index + SIZE * r for r, b in enumerate(batches)]),
        mixed("heatmap"),
        mixed("lam"),
        mixed("mixed_id"),
        cat([b.expert_image for b in batches]),
        cat([b.expert_text for b in batches]),
        batches[0].is_priming,
    ), cat([text for _, text in parts])


def make_loss(
    siglip: bool, local: bool, grad: bool, own_pairs: str, rank: int, world: int
) -> torch.nn.Module:
    loss = (
        EClipSigLipLoss(rank=rank, world_size=world)
        if siglip
        else EClipLoss(
            local_loss=local, gather_with_grad=grad, cache_labels=True, rank=rank, world_size=world
        )
    )
    loss.configure(EClipConfig(own_pairs=own_pairs))
    return loss


def gradients(
    model: torch.nn.Module,
    loss: torch.nn.Module,
    batch: ExpertBatch,
    text: torch.Tensor,
    contrastive: bool = True,
) -> tuple[float, dict]:
    """The loss and its gradients, with or without the contrastive term."""
    model.zero_grad()
    terms = loss(**model(batch, text), output_dict=True)
    total = sum(terms.values()) - (0 if contrastive else terms["contrastive_loss"])
    total.backward()
    named = getattr(model, "module", model).named_parameters()
    return float(total.detach()), {name: p.grad.clone() for name, p in named if p.grad is not None}


def models(
    eclip_cfg: dict[str, Any], init_logit_bias: float | None = -5.0
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The tiny model in fp64, and its copy under DDP on this rank."""
    torch.manual_seed(0)
    single = open_clip.create_model(
        "tiny", output_dict=True, init_logit_bias=init_logit_bias, eclip_cfg=eclip_cfg
    ).double()
    return single, ExpertDistributedDataParallel(
        copy.deepcopy(single), device_ids=[torch.device("cpu")]
    )


def relative_error(
    actual: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    factor: float,
    left_out: tuple[str, ...] = ("logit_scale", "logit_bias"),
) -> float:
    """|actual - factor * expected| / |factor * expected| over all gradients but `left_out`.

    Without --gather-with-grad open_clip's own gradient is 1 / W of the full one, but for the scale.
    """
    names = [name for name in expected if name not in left_out]
    error = sum(float((actual[name] - factor * expected[name]).square().sum()) for name in names)
    norm = sum(float(expected[name].square().sum()) for name in names)
    return error**0.5 / max(factor * norm**0.5, 1e-30)


def write_results(out: str, results: Any) -> None:
    """Rank 0 writes JSON."""
    if dist.get_rank() == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(results, file)


def main(config: str, out: str) -> None:
    open_clip.add_model_config(config)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    single, wrapped = models({"processor": {"width": 32, "heads": 4, "zero_init": False}})
    results = []
    cases = [
        (False, local, grad, pairs, rows, expert, False)
        for local, grad in itertools.product((False, True), repeat=2)
        for pairs in ("diagonal", "multi", "mask")
        for rows, expert in zip(ANNOTATED, itertools.cycle(EXPERT))
    ]
    cases += [
        (False, local, grad, "diagonal", rows, (0, 0), True)
        for local, grad in itertools.product((False, True), repeat=2)
        for rows in ANNOTATED[:3]
    ]
    cases += [
        (True, True, True, pairs, rows, expert, False)
        for pairs in ("diagonal", "multi", "mask")
        for rows, expert in zip(ANNOTATED, itertools.cycle(EXPERT))
    ]
    for siglip, local, grad, pairs, rows, expert, priming in cases:
        parts = [make_part(r, rows[r], expert[r], priming) for r in range(world)]
        value, actual = gradients(
            wrapped, make_loss(siglip, local, grad, pairs, rank, world), *parts[rank]
        )
        mean = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(mean)
        expected_value, expected = gradients(
            single, make_loss(siglip, False, False, pairs, 0, 1), *join_parts(parts)
        )
        factor = 1.0 if grad or siglip else 1.0 / world
        results.append(
            {
                "siglip": siglip,
                "local": local,
                "grad": grad,
                "own_pairs": pairs,
                "rows": rows,
                "expert": expert,
                "priming": priming,
                "loss": float(mean) / world,
                "expected": expected_value,
                "gradient_error": relative_error(actual, expected, factor),
                "names": sorted(set(actual) ^ set(expected)),
            }
        )
    from workers.ddp_terms import compare_all  # which takes the batches of this file

    terms = compare_all()
    write_results(out, {"cases": results, "terms": terms})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
