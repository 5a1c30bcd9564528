"""GLoRIA: words of a report attend to regions of an image (Huang et al. 2021, "GLoRIA: A Multimodal Global-Local
Representation Learning Framework for Label-efficient Medical Image Recognition"), beside a global contrastive loss.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..config import UserError

AGGREGATES = ("sum", "mean")
NEGATIVES = ("rank", "global")
CHUNK = 1 << 22  # numbers (images x reports x words x regions) at a time, 16 MiB in fp32; about ten such tensors are alive
TINY = 1e-8  # of a product of norms, as in the authors' cosine


@dataclass(frozen=True)
class GloriaConfig:
    """The authors' temperatures, fixed (no learnt logit scale), and weights of the two losses."""

    attention: float = 4.0  # gamma_1
    word: float = 5.0  # gamma_2
    contrast: float = 10.0  # gamma_3
    local_weight: float = 1.0
    global_weight: float = 1.0
    aggregate: str = "sum"  # of exp(similarity) over words: the sum favours long reports, the mean does not
    local_negatives: str = "rank"  # reports an image is compared with in the local loss: this rank's, or all ranks'

    def __post_init__(self) -> None:
        checks = [(getattr(self, name) > 0, name, "a positive number") for name in ("attention", "word", "contrast")]
        checks += [(getattr(self, name) >= 0, name, "0 or more") for name in ("local_weight", "global_weight")]
        checks += [(self.aggregate in AGGREGATES, "aggregate", f"one of {AGGREGATES}"),
                   (self.local_negatives in NEGATIVES, "local_negatives", f"one of {NEGATIVES}")]
        for ok, name, expected in checks:
            if not ok:
                raise UserError(f"gloria: {name}={getattr(self, name)!r}; expected {expected}.")


def global_loss(image: Tensor, text: Tensor, all_image: Tensor, all_text: Tensor, label: Tensor, config: GloriaConfig) -> Tensor:
    """CE(G) + CE(G^T), G_ik = gamma_3 cos(v_i, t_k); the sum of both directions, not their mean.

    Unit features: rows (R, D), columns (N, D); `label` (R,) the column of each row's partner.
    """
    image, text, all_image, all_text = (_wide(x) for x in (image, text, all_image, all_text))
    return (F.cross_entropy(config.contrast * image @ all_text.T, label)
            + F.cross_entropy(config.contrast * text @ all_image.T, label))


def local_loss(regions: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig) -> Tensor:
    """CE(Z) + CE(Z^T), Z_ik = gamma_3 M(i, k); pair i is image i with report i. Shapes as in `local_similarity`."""
    scores = config.contrast * local_similarity(regions, words, mask, config)
    label = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, label) + F.cross_entropy(scores.T, label)


def local_similarity(regions: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig, chunk: int = CHUNK) -> Tensor:
    """M(i, k) of every image i and report k, (B, K) in fp32 (fp64 stays): log sum_w exp(gamma_2 cos(c_w, t_w)).

    `regions` (B, P, D), `words` (K, L, D), `mask` (K, L) bool, true for words, at least one a report. For each pair:
    e_rw = c_r . t_w, alpha = softmax of e over words, a = softmax of gamma_1 alpha over regions, c_w = sum_r a_wr c_r.
    Chunks of images and reports hold at most `chunk` numbers (one pair, if a pair is more) and are recomputed in the backward
    pass. c_w itself is never made: c_w . t_w = sum_r a_wr e_rw, and |c_w|^2 = a^T (C C^T) a takes P x P numbers an image.
    """
    if regions.shape[-1] != words.shape[-1]:
        raise ValueError(f"regions of width {regions.shape[-1]}, words of width {words.shape[-1]}; expected one width.")
    length = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 1
    words, mask = words[:, :length], mask[:, :length]
    pair = length * regions.shape[1]
    reports = max(1, min(len(words), chunk // pair))
    images = max(1, min(len(regions), chunk // (pair * reports)))
    with torch.autocast(regions.device.type, enabled=False):
        regions, words = _wide(regions), _wide(words)
        rows = []
        for own in regions.split(images):
            gram = own @ own.transpose(1, 2)
            rows.append(torch.cat([
                checkpoint(_similarity, own, gram, some, valid, config, use_reentrant=False, preserve_rng_state=False)
                for some, valid in zip(words.split(reports), mask.split(reports))], dim=1))
        return torch.cat(rows)


def _similarity(regions: Tensor, gram: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig) -> Tensor:
    """One chunk of `local_similarity`, (b, k); `gram` (b, P, P)."""
    size, (reports, length, _) = len(regions), words.shape
    energy = (words.flatten(0, 1) @ regions.transpose(1, 2)).unflatten(1, (reports, length))  # (b, k, L, P)
    alpha = energy.masked_fill(~mask[None, :, :, None], float("-inf")).softmax(dim=2)
    attention = (config.attention * alpha).softmax(dim=3)
    dot = (attention * energy).sum(-1)  # (b, k, L)
    flat = attention.flatten(1, 2)
    square = ((flat @ gram) * flat).sum(-1).view(size, reports, length)
    norm = square.clamp(min=TINY ** 2).sqrt() * words.square().sum(-1).clamp(min=TINY ** 2).sqrt()
    cosine = (dot / norm.clamp(min=TINY)).masked_fill(~mask, float("-inf"))
    similarity = (config.word * cosine).logsumexp(dim=2)
    return similarity - mask.sum(1).to(similarity.dtype).log() if config.aggregate == "mean" else similarity


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
