"""The gradient of each term of the loss on W ranks against one process.

ddp_loss.py runs it on each rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import open_clip
import torch
import torch.distributed as dist
from workers.ddp_loss import SIZE, join_parts, make_loss, make_part

from openclip_eclip.objectives import Align, Dacl, Gloria, M3Mix, Objective
from openclip_eclip.objectives.align import AlignConfig
from openclip_eclip.objectives.gloria import GloriaConfig, local_loss
from openclip_eclip.objectives.m3_mix import M3MixConfig

# --local-loss, --gather-with-grad
FLAGS = [(local, grad) for local in (False, True) for grad in (False, True)]
# annotated samples of each batch: unequal numbers, zero on a rank and on all
NONE, UNEVEN, EVEN = [[]] * 6, [[0, 2], [], [1], [], [0, 1, 2], [2]], [[1], [0], [2]]
PROCESSOR = {"width": 32, "heads": 4, "zero_init": False}
SCALES = ("logit_scale", "logit_bias")
Gradients = dict[str, dict[str, torch.Tensor]]  # term -> parameter -> gradient


def model_for(processor: Any, regions: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.create_model(
        "tiny",
        output_dict=True,
        init_logit_bias=-5.0,
        eclip_cfg={"processor": processor, "regions": regions},
    ).double()


def gloria(negatives: str) -> Gloria:
    objective = Gloria(GloriaConfig(local_negatives=negatives))
    objective.use_tokenizer(open_clip.get_tokenizer("tiny"))
    return objective


def make_parts(
    objectives: tuple[Objective, ...], rows: list, count: int, priming: bool
) -> tuple[list, tuple]:
    """`count` batches, and their union as one batch."""
    parts = [make_part(p, rows[p], 0, priming) for p in range(count)]
    whole, text = join_parts(parts)
    for batch in (whole, *(batch for batch, _ in parts)):
        batch.annotated, batch.annotated_heatmap = batch.mix_index, batch.heatmap
        for objective in objectives:
            batch.draws.update(objective.draw(0, 0, 0, batch.sample_id))
    if "dacl_partner" in whole.draws:  # partners stay in their batch
        whole.draws["dacl_partner"] = torch.cat(
            [batch.draws["dacl_partner"] + SIZE * p for p, (batch, _) in enumerate(parts)]
        )
    return parts, (whole, text)


def gradients_of(model: torch.nn.Module, terms: dict[str, torch.Tensor]) -> Gradients:
    """{term: {parameter: gradient}}, without the token embedding, which would take most time."""
    names, parameters = zip(*(pair for pair in model.named_parameters() if pair[1].numel() < 10**5))
    gradients = {}
    for term, value in terms.items():
        grads = (
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else [None] * len(names)
        )
        gradients[term] = {
            name: torch.zeros_like(p) if g is None else g
            for name, p, g in zip(names, parameters, grads)
        }
    return gradients


def accumulated(
    model: torch.nn.Module, loss: torch.nn.Module, parts: list
) -> tuple[dict[str, torch.Tensor], Gradients]:
    """The terms and their summed gradients with open_clip's --accum-freq.

    The features of all micro-batches are used, but only one at a time is in the graph.
    """
    with torch.no_grad():
        cached = [model(batch, text) for batch, text in parts]
    total: Gradients = {}
    for j, (batch, text) in enumerate(parts):
        out = model(batch, text)
        inputs = {
            key: (
                out[key]
                if key in SCALES
                else torch.cat([out[key] if i == j else part[key] for i, part in enumerate(cached)])
            )
            for key in out
        }
        terms = loss(**inputs, output_dict=True)
        for term, gradients in gradients_of(model, terms).items():
            for name, value in gradients.items():
                total.setdefault(term, {}).setdefault(name, torch.zeros_like(value)).add_(value)
    return terms, total


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if name not in SCALES])


def compare(
    name: str,
    model: torch.nn.Module,
    objectives: tuple[Objective, ...],
    rows: list,
    alone: tuple[Objective, ...] | None = None,
    siglip: bool = False,
    priming: bool = False,
    steps: int = 1,
) -> Iterator[dict]:
    """Compares the gradient of each term after DDP's average with that of one process.

    `alone` are the objectives of the one process, if they differ. `steps` is the number of
    micro-batches of each rank.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    parts, (whole, text) = make_parts(objectives, rows, world * steps, priming)
    model.objectives = alone or objectives
    single = make_loss(siglip, False, False, "diagonal", 0, 1)
    single.configure(model.eclip_config, model.objectives)
    out = model(whole, text)
    terms = single(**out, output_dict=True)
    # all pairs would have other negatives, so the reference is the mean of the ranks' losses
    if name == "gloria, rank":
        locals_ = [
            local_loss(
                *(own[key] for key in ("regions", "words", "word_mask")), objectives[0].config
            )
            for own in (model(*part) for part in parts)
        ]
        terms["gloria_local_loss"] = sum(locals_) / world
    values, expected = (
        {key: float(value.detach()) for key, value in terms.items()},
        gradients_of(model, terms),
    )
    # --local-loss without --gather-with-grad gives the gradient of pairs as rows, not as columns
    if not siglip:
        joined = single._join(
            *(
                torch.cat([out[a], out[b]]) if b in out else out[a]
                for a, b in (
                    ("image_features", "mixed_features"),
                    ("text_features", "mixed_text_features"),
                    ("sample_id", "mixed_id"),
                )
            ),
            [0],
        )
        as_rows = single.contrast(
            joined._replace(all_image=joined.all_image.detach(), all_text=joined.all_text.detach()),
            out["logit_scale"],
            out["logit_bias"],
        )
        as_rows = as_rows * (values["contrastive_loss"] / float(as_rows.detach()))
        expected["rows"] = gradients_of(model, {"rows": as_rows})["rows"]
    model.objectives = objectives
    for local, grad in [(True, True)] if siglip else FLAGS:
        loss = make_loss(siglip, local, grad, "diagonal", rank, world)
        loss.configure(model.eclip_config, objectives)
        terms, gradients = accumulated(model, loss, parts[rank * steps : (rank + 1) * steps])
        for term in gradients:
            mean = terms[term].detach().clone()
            for value in (mean, *gradients[term].values()):
                dist.all_reduce(value)
                value /= world
            rows_only = term == "contrastive_loss" and local and not grad
            ours, theirs = (
                flat(gradients[term]),
                (1.0 if rows_only else loss.gradient_factor)
                * flat(expected["rows" if rows_only else term]),
            )
            yield {
                "setup": name,
                "term": term,
                "local": local,
                "grad": grad,
                "steps": steps,
                "empty": not theirs.any(),
                "error": float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)),
                "value": float(mean),
                "expected": values[term],
                "scale": [float(gradients[term][key]) for key in SCALES],
                "expected_scale": [steps * float(expected[term][key]) for key in SCALES],
            }


def compare_all() -> list[dict]:
    plain, eclip, regions = (
        model_for(None, False),
        model_for(PROCESSOR, False),
        model_for(PROCESSOR, True),
    )
    m3 = M3Mix(M3MixConfig(weight_v=1.0, weight_l=1.0, weight_vl=1.0, weight_m2=1.0))
    several = (Dacl(), m3, Align(AlignConfig(weight=1.0, min_share=0.45)))
    results: list[dict] = []
    for steps in (1, 2):
        results += compare("priming", eclip, (), UNEVEN, priming=True, steps=steps)
        results += compare(
            "gloria", regions, (gloria("global"),), UNEVEN, (gloria("rank"),), steps=steps
        )
        results += compare("several", eclip, several, UNEVEN, steps=steps)
        results += compare("siglip", eclip, several, UNEVEN, siglip=True, steps=steps)
    results += compare("gloria, rank", regions, (gloria("rank"),), EVEN)
    results += compare("no annotation", plain, several, NONE)
    results += compare("priming alone", eclip, (), NONE, priming=True)
    return results
