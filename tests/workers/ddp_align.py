"""Alignment on two gloo ranks against one process over all samples.

test_align.py starts it twice; it prints JSON.
"""

from __future__ import annotations

import sys

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

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.objectives import Align, Dacl
from openclip_eclip.objectives.align import AlignConfig

# siglip, local, with gradient
MODES = (
    (False, False, False),
    (False, False, True),
    (False, True, True),
    (True, True, True),
    (False, True, False),
)
# annotated rows, samples of the separate stream, and oversampled samples, on rank 0 and rank 1
CASES = (
    (([], []), (0, 0), (0, 0)),
    (([], [0, 2]), (0, 0), (0, 0)),
    (([1], []), (0, 2), (0, 1)),
    (([0], [0, 1, 2]), (1, 0), (2, 2)),
)
WITH_SENTENCES = (  # and sentences by row
    (([], []), (0, 0), ({}, {0: 3, 2: 1})),
    (([0], [0, 1]), (0, 0), ({0: 4, 1: 1}, {})),
    (([1], []), (1, 2), ({3: 2}, {1: 2, 4: 3})),
)


# with a contrast of regions and phrases, and phrases without a region
WITH_REGIONS = {"empty": "uniform", "contrast": 0.3}


def annotate(batch: ExpertBatch, rank: int, rows: list[int], again: int) -> ExpertBatch:
    """The batch with the maps of all annotated samples, and with `again` oversampled samples.

    The gate selected those of `batch.mix_index`.
    """
    generator = torch.Generator().manual_seed(200 + rank)
    batch.annotated = torch.tensor(rows, dtype=torch.int64)
    batch.annotated_heatmap = torch.rand(
        len(rows), 1, 32, 32, generator=generator, dtype=torch.float64
    )
    batch.oversampled_image = torch.randn(
        again, 3, 32, 32, generator=generator, dtype=torch.float64
    )
    batch.oversampled_text = torch.randint(1, 999, (again, 16), generator=generator)
    batch.oversampled_heatmap = torch.rand(
        again, 1, 32, 32, generator=generator, dtype=torch.float64
    )
    return batch


def add_sentences(batch: ExpertBatch, counts: dict[int, int], rank: int) -> ExpertBatch:
    """The batch with this number of sentences for each row; later rows are of the stream."""
    generator, total = torch.Generator().manual_seed(300 + rank), sum(counts.values())
    batch.sentence_row = torch.tensor(
        [row for row, count in counts.items() for _ in range(count)], dtype=torch.int64
    )
    batch.sentence_text = torch.randint(1, 999, (total, 16), generator=generator)
    batch.sentence_heatmap = torch.rand(total, 1, 32, 32, generator=generator, dtype=torch.float64)
    batch.sentence_region = torch.ones(total, dtype=torch.bool)
    return batch


def share_phrases(batch: ExpertBatch) -> None:
    """Give the first phrase of every rank one text, and the last one no region."""
    batch.sentence_text[:1] = torch.arange(1, 17)
    batch.sentence_heatmap[-1:], batch.sentence_region[-1:] = 0, False


def compare(
    single: torch.nn.Module,
    wrapped: torch.nn.Module,
    plain: bool,
    rows: tuple,
    expert: tuple,
    mode: tuple,
    again: tuple = (0, 0),
    counts: tuple[dict, dict] = ({}, {}),
    settings: dict | None = None,
) -> dict:
    rank, world = dist.get_rank(), dist.get_world_size()
    # over at least 2.7 of both ranks' samples
    align = Align(
        AlignConfig(windows=True, min_share=0.45, **(settings or {})), stream_is_plain=plain
    )
    objectives = (align,) if plain else (align, Dacl())
    parts = []
    for r in range(world):
        batch, text = make_part(
            r, rows[r][:1] if single.heatmap_processor is not None else [], expert[r], False
        )
        batch.lam = torch.ones_like(batch.lam) if plain else batch.lam
        parts.append(
            (add_sentences(annotate(batch, r, list(rows[r]), again[r]), counts[r], r), text)
        )
        if settings:
            share_phrases(parts[-1][0])
    whole, text = join_parts(parts)
    whole.annotated = torch.cat([batch.annotated + SIZE * r for r, (batch, _) in enumerate(parts)])
    whole.annotated_heatmap = torch.cat([batch.annotated_heatmap for batch, _ in parts])
    for name in ("oversampled_image", "oversampled_text", "oversampled_heatmap"):
        setattr(whole, name, torch.cat([getattr(batch, name) for batch, _ in parts]))
    # in one process the batches come first, then the streams
    past = [[SIZE * (world - 1) + sum(expert[:r]), SIZE * r] for r in range(world)]
    whole.sentence_row = torch.cat(
        [
            b.sentence_row + torch.tensor(past[r])[(b.sentence_row < SIZE).long()]
            for r, (b, _) in enumerate(parts)
        ]
    )
    whole.sentence_text = torch.cat([batch.sentence_text for batch, _ in parts])
    for name in ("sentence_heatmap", "sentence_region"):
        setattr(whole, name, torch.cat([getattr(batch, name) for batch, _ in parts]))
    for r, batch in enumerate([*(batch for batch, _ in parts), whole]):
        batch.draws = {
            name: value
            for objective in objectives
            for name, value in objective.draw(0, 0, 0, batch.sample_id).items()
        }
        if not plain:  # partners of DACL stay on their rank
            batch.draws["dacl_partner"] = (
                torch.tensor([[1, 2], [2, 0], [0, 1]])
                if r < world
                else torch.tensor([[1, 2], [2, 0], [0, 1], [4, 5], [5, 3], [3, 4]])
            )
    siglip, local, grad = mode
    results, contrastive = [], grad or not local  # else open_clip's own gradient is not the whole
    for model, batch, words, loss_settings in (
        (wrapped, *parts[rank], (siglip, local, grad, "diagonal", rank, world)),
        (single, whole, text, (siglip, False, False, "diagonal", 0, 1)),
    ):
        inner = getattr(model, "module", model)
        inner.objectives = objectives
        loss = make_loss(*loss_settings)
        loss.configure(inner.eclip_config, objectives)
        with torch.no_grad():
            terms = loss(**model(batch, words), output_dict=True)
        results.append(
            (
                *gradients(model, loss, batch, words, contrastive),
                float(terms["align_loss"]),
                float(terms.get("align_contrast_loss", 0)),
            )
        )
    (value, ours, own, between), (expected_value, expected, alone, alone_between) = results
    mean = torch.tensor([value, own, between], dtype=torch.float64)
    dist.all_reduce(mean)
    factor = 1.0 if grad or siglip else 1.0 / world
    return {
        "loss": float(mean[0]) / world,
        "expected": expected_value,
        "align": float(mean[1]) / world,
        "expected_align": alone,
        "contrast": float(mean[2]) / world,
        "expected_contrast": alone_between,
        "gradient_error": relative_error(ours, expected, factor),
        "names": sorted(set(ours) ^ set(expected)),
        "rows": rows,
        "expert": expert,
        "mode": mode,
    }


def main(config: str, out: str) -> None:
    open_clip.add_model_config(config)
    dist.init_process_group("gloo")
    results = []
    for processor, plain in (
        (None, False),
        ({"width": 32, "heads": 4, "zero_init": False}, False),
        ({"kind": "mask"}, True),
    ):
        single, wrapped = models({"processor": processor})
        for rows, expert, again in CASES:
            results += [
                compare(single, wrapped, plain, rows, expert, mode, again)
                for mode in (MODES[:1] if plain else MODES)
            ]
        results += [
            compare(single, wrapped, plain, rows, expert, mode, counts=counts)
            for rows, expert, counts in WITH_SENTENCES
            for mode in (MODES[:1] if plain else MODES)
        ]
        if processor is None:
            results += [
                compare(single, wrapped, plain, rows, expert, mode, (0, 0), counts, WITH_REGIONS)
                for rows, expert, counts in (*WITH_SENTENCES, (([0], []), (0, 0), ({}, {})))
                for mode in MODES
            ]
    write_results(out, results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
