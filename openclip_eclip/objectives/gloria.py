"""GLoRIA: words of a report attend to regions of an image, beside a global contrastive loss.

Huang et al. 2021, "GLoRIA: A Multimodal Global-Local Representation Learning Framework for
Label-efficient Medical Image Recognition".
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..batching.expert_batch import ExpertBatch
from ..config import UserError, check_fields
from ..rank_counts import counts_of_ranks
from ..towers.host import HostModel
from ..towers.local_features import IMAGE_STAGES, WordPieces, encode_words, regions_of
from ..towers.positions import full_precision
from .base import EncodedPass, Gather, Objective

AGGREGATES = ("sum", "mean")
NEGATIVES = ("rank", "global")
# Size of a chunk (images x reports x words x regions): 16 MiB in fp32, and about ten such tensors
# are alive. A GPU needs larger chunks, or it waits for kernel launches.
CHUNK, CHUNK_GPU = 1 << 22, 1 << 24
TINY = 1e-8  # smallest product of norms, as in the authors' cosine


@dataclass(frozen=True)
class GloriaConfig:
    """The authors' temperatures, which are fixed, and the weights of the two losses."""

    attention: float = 4.0  # gamma_1
    word: float = 5.0  # gamma_2
    contrast: float = 10.0  # gamma_3
    local_weight: float = 1.0
    global_weight: float = 1.0
    # how exp(similarity) is joined over words: the sum favours long reports, the mean does not
    aggregate: str = "sum"
    # reports that the local loss compares an image with: this rank's, or all ranks' ("global")
    local_negatives: str = "rank"

    def __post_init__(self) -> None:
        checks = [
            (getattr(self, name) > 0, name, "a positive number")
            for name in ("attention", "word", "contrast")
        ]
        checks += [
            (getattr(self, name) >= 0, name, "0 or more")
            for name in ("local_weight", "global_weight")
        ]
        checks += [
            (self.aggregate in AGGREGATES, "aggregate", f"one of {AGGREGATES}"),
            (self.local_negatives in NEGATIVES, "local_negatives", f"one of {NEGATIVES}"),
        ]
        check_fields(self, "gloria", checks)


class RegionModel(Protocol):
    """A model built for GLoRIA (`EClipConfig.regions`)."""

    region_projection: nn.Linear  # of regions to the width of words


class Gloria(Objective):
    """global_weight * (CE(G) + CE(G^T)) instead of L_clip, plus local_weight * (CE(Z) + CE(Z^T)).

    G_ik = gamma_3 cos(v_i, t_k) is the model's contrastive loss under a fixed scale. So eCLIP's
    mixed pairs, and those of other objectives, take part in it. Mixed pairs of annotated samples
    also take part in the local loss, each with its own regions; there every other pair is a
    negative.
    """

    def __init__(self, config: GloriaConfig = GloriaConfig()) -> None:
        self.config = config
        self.pieces: WordPieces | None = None
        self.pieces_on: dict[torch.device, WordPieces] = {}
        # L_clip is the mean of both directions, GLoRIA takes their sum
        self.contrast_weight = 2 * config.global_weight

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        group.add_argument(
            "--gloria-aggregate",
            choices=AGGREGATES,
            help=(
                "how GLoRIA's similarities are joined over words; the sum favours long reports "
                "(default: sum, the paper's)"
            ),
        )
        group.add_argument(
            "--gloria-local-negatives",
            choices=NEGATIVES,
            help=(
                "reports that an image is compared with word by word: those of this rank, or of "
                "all ranks (default: rank)"
            ),
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Gloria:
        if args.siglip:
            raise UserError(
                "--siglip with --method gloria: GLoRIA's global loss is a softmax over pairs; drop"
                " one of them."
            )
        if args.eclip_own_pairs not in (None, "diagonal"):
            raise UserError(
                f"--eclip-own-pairs {args.eclip_own_pairs} with --method gloria: its local loss has"
                " one partner for each pair; drop one of them."
            )
        given = {name: getattr(args, f"gloria_{name}") for name in ("aggregate", "local_negatives")}
        return cls(
            GloriaConfig(**{name: value for name, value in given.items() if value is not None})
        )

    def use_tokenizer(self, tokenizer: Any) -> None:
        self.pieces, self.pieces_on = WordPieces.of(tokenizer), {}

    image_stages = IMAGE_STAGES

    def count(self, texts: Tensor) -> dict[str, Any]:
        """{gloria_words}: the words of the longest text."""
        assert self.pieces is not None, "`use_tokenizer` comes first"
        return {"gloria_words": max(1, int(self.pieces.number(texts).max()) + 1)}

    def encode_texts(self, model: HostModel, texts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.pieces is not None, "`use_tokenizer` comes first"
        if texts.device not in self.pieces_on:
            self.pieces_on[texts.device] = self.pieces.to(texts.device)
        features, words = encode_words(model, texts, self.pieces_on[texts.device])
        return features, {"words": words.values, "word_mask": words.mask}

    def read(self, model: HostModel, encoded: EncodedPass, batch: ExpertBatch) -> dict[str, Tensor]:
        projection = cast(RegionModel, model).region_projection
        return {"regions": projection(regions_of(model.visual, encoded.tokens))}

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        """Set regions (R, P, W), words (R, L, W), word_mask (R, L) and the fixed logit scale.

        Rows are the batch's images, then eCLIP's mixed pairs. word_count (1,), in the memory of the
        host, is the number of words of the longest text.
        """
        size = len(batch)
        mixed = "mixed_id" in out
        out["regions"] = out["regions"][: size + (len(batch.lam) if mixed else 0)]
        for name in ("words", "word_mask"):
            x = out[name]
            out[name] = torch.cat([x[:size], x[batch.mix_index], x[size:]]) if mixed else x
        count = batch.draws.get("gloria_words", out["words"].shape[1])
        out["word_count"] = torch.full((1,), count, device="cpu")
        # times zero, not dropped: DDP waits for the gradient of every parameter
        out["logit_scale"] = 0 * out["logit_scale"] + self.config.contrast

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """{gloria_local_loss}."""
        shared = self.config.local_negatives == "global" and dist.is_initialized()
        count = int(out["word_count"].max())  # of all micro-batches
        loss = (global_local_loss if shared else local_loss)(
            out["regions"], out["words"][:, :count], out["word_mask"][:, :count], self.config
        )
        return {"gloria_local_loss": self.config.local_weight * loss}


def local_loss(regions: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig) -> Tensor:
    """CE(Z) + CE(Z^T) with Z_ik = gamma_3 M(i, k); pair i is image i with report i.

    Shapes as in `local_similarity`.
    """
    scores = config.contrast * local_similarity(regions, words, mask, config)
    label = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, label) + F.cross_entropy(scores.T, label)


def global_local_loss(regions: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig) -> Tensor:
    """This rank's part of `local_loss` over the pairs of all ranks.

    Ranks may hold different numbers of pairs. The average over ranks is the loss of a single
    process, in value and gradient.
    """
    counts, longest = counts_of_ranks(len(regions)), max(counts_of_ranks(words.shape[1]))
    padding = (0, longest - words.shape[1])  # to the words of the longest text of all ranks
    all_regions = _gather(regions, counts)
    all_words = _gather(F.pad(words, (0, 0, *padding)), counts)
    all_mask = _gather(F.pad(mask, padding).to(words.dtype), counts) > 0
    first = sum(counts[: dist.get_rank()])
    label = torch.arange(first, first + len(regions), device=regions.device)
    to_reports = config.contrast * local_similarity(regions, all_words, all_mask, config)
    to_images = config.contrast * local_similarity(all_regions, words, mask, config).T
    loss = F.cross_entropy(to_reports, label) + F.cross_entropy(to_images, label)
    return loss * (len(regions) * len(counts) / sum(counts))


def _gather(x: Tensor, counts: list[int]) -> Tensor:
    """Rows of all ranks, with gradient.

    Ranks are padded to equal numbers, so every rank takes part forward and backward.
    """
    padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(counts) - len(x))).contiguous()
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts)])


def local_similarity(
    regions: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig, chunk: int | None = None
) -> Tensor:
    """M(i, k) = log sum_w exp(gamma_2 cos(c_w, t_w)) of image i and report k, (B, K).

    In fp32; fp64 stays. `regions` (B, P, D), `words` (K, L, D), `mask` (K, L) bool, true for words,
    at least one in each report. For each pair: e_rw = c_r . t_w, alpha = softmax of e over words,
    a = softmax of gamma_1 alpha over regions, c_w = sum_r a_wr c_r.

    Images and reports are processed in chunks of at most `chunk` numbers, or of a single pair, and
    recomputed in the backward pass; the default size depends on the device. c_w itself is never
    computed: c_w . t_w = sum_r a_wr e_rw, and |c_w|^2 = a^T (C C^T) a takes P x P numbers an image.
    """
    if regions.shape[-1] != words.shape[-1]:
        raise ValueError(
            f"regions of width {regions.shape[-1]}, words of width {words.shape[-1]}; expected one"
            " width."
        )
    chunk = chunk or (CHUNK_GPU if regions.is_cuda else CHUNK)
    pair = words.shape[1] * regions.shape[1]
    reports = max(1, min(len(words), chunk // pair))
    images = max(1, min(len(regions), chunk // (pair * reports)))
    with torch.autocast(regions.device.type, enabled=False):
        regions, words = full_precision(regions), full_precision(words)
        rows = []
        for part in regions.split(images):  # (b, P, D)
            gram = part @ part.transpose(1, 2)  # (b, P, P)
            rows.append(
                torch.cat(
                    [
                        checkpoint(
                            _similarity,
                            part,
                            gram,
                            some,
                            valid,
                            config,
                            use_reentrant=False,
                            preserve_rng_state=False,
                        )
                        for some, valid in zip(words.split(reports), mask.split(reports))
                    ],
                    dim=1,
                )
            )
        return torch.cat(rows)


def _similarity(
    regions: Tensor, gram: Tensor, words: Tensor, mask: Tensor, config: GloriaConfig
) -> Tensor:
    """One chunk of `local_similarity`, (b, k); `gram` (b, P, P)."""
    size, (reports, length, _) = len(regions), words.shape
    # (b, k, L, P)
    energy = (words.flatten(0, 1) @ regions.transpose(1, 2)).unflatten(1, (reports, length))
    alpha = energy.masked_fill(~mask[None, :, :, None], float("-inf")).softmax(dim=2)
    attention = (config.attention * alpha).softmax(dim=3)
    dot = (attention * energy).sum(-1)  # (b, k, L)
    flat = attention.flatten(1, 2)
    square = ((flat @ gram) * flat).sum(-1).view(size, reports, length)
    norm = square.clamp(min=TINY**2).sqrt() * words.square().sum(-1).clamp(min=TINY**2).sqrt()
    cosine = (dot / norm.clamp(min=TINY)).masked_fill(~mask, float("-inf"))
    similarity = (config.word * cosine).logsumexp(dim=2)
    return (
        similarity - mask.sum(1).to(similarity.dtype).log()
        if config.aggregate == "mean"
        else similarity
    )
