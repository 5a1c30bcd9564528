"""Alignment of the image tower's attention with the expert's, on every annotated sample.

Not in the paper. Close to it is Ma et al. 2024, "Eye-gaze Guided Multi-modal Alignment for Medical
Representation Learning", which aligns attention with gaze between patches and sentences. See
decisions 0030 and, for sentences, 0032.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..batching.expert_batch import ExpertBatch
from ..config import UserError
from ..towers.host import HostModel
from ..towers.local_features import on_empty_image
from ..towers.pool_attention import has_pool, pool_attention
from ..towers.positions import Tokens, encode_tokens, full_precision, project_tokens
from .align_settings import AlignConfig, add_align_flags
from .base import EncodedPass, Gather, Objective
from .regions import (
    cross_entropy,
    gathered_contrast,
    is_empty,
    mean_by_owner,
    phrases_of,
    region_features,
    region_target,
    text_ids,
    uniform_cross_entropy,
)

# names of `further_texts`
OVERSAMPLED, SENTENCES = "align_oversampled_text", "align_sentence_text"

logger = logging.getLogger(__name__)


class Align(Objective):
    """weight * mean over annotated samples of -sum_p target_p log attention_p.

    The mean is over the samples of all ranks, the sum over the positions p of the tower's grid.
    `attention` is that of the tower's learned pool. A tower without a pool has
    softmax(cos(t, position) / temperature) in the joint space; the sample's text feature t is
    detached. Images of the separate stream are aligned unmixed.

    Where less than `min_share` of the data is annotated, the sum over samples is divided by at
    least that share of the batch (decision 0035). Where less than half of `oversample` is
    annotated, annotated samples are added once more, up to about that share of a batch (decision
    0036).

    With `windows`, the term of a sample that carries sentences s is the mean over s of
    -sum_p target_sp log attention_sp. There attention_s is the similarity with the feature of
    sentence s for every tower, since a pool's attention depends on no sentence. A phrase without a
    region is left out, or its target is the same at all positions (`empty`).

    With `contrast`, a second term is added: each region's feature against the phrases of all
    regions of the batch, and each phrase against all regions, mean over phrases, then over samples.
    """

    def __init__(self, config: AlignConfig = AlignConfig(), stream_is_plain: bool = False) -> None:
        """`stream_is_plain`: mixed pairs of the separate stream hold the images themselves."""
        self.config, self.stream_is_plain = config, stream_is_plain
        self.min_share = config.min_share
        self.needs_heatmaps = config.active
        self.needs_windows = config.windows and config.active
        self.needs_empty_windows = self.needs_windows and config.empty == "uniform"
        self.image_stages = 0 if config.active else None
        self.oversample = config.oversample if config.active else 0.0

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        add_align_flags(group)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Align:
        if args.dacl_form == "release":
            raise UserError(
                "--dacl-form release with --method align: that form encodes mixed images only, and"
                " a heatmap belongs to one image; take another form."
            )
        settings = {
            name: getattr(args, f"align_{name}")
            for name in (
                *("weight", "min_share", "oversample", "windows"),
                *("temperature", "empty", "contrast"),
            )
        }
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(AlignConfig.from_dict(given), stream_is_plain=args.naive_form == "plain")

    def check_model(self, model: HostModel) -> None:
        if not self.config.active:
            return
        visual, normed, trained = model.visual, list[bool](), list[bool]()

        # `normed` records a call of batch norm behind the map, where single positions go through
        hooks = [
            module.register_forward_hook(lambda *_: normed.append(True))
            for module in visual.modules()
            if isinstance(module, _BatchNorm)
        ]

        @torch.enable_grad()
        def encode(image: Tensor) -> Tokens:
            features, tokens = encode_tokens(visual, image)
            normed.clear()
            unit = F.normalize(features, dim=-1).detach()
            attention = [log_attention(visual, tokens, lambda: unit, self.config)]
            if self.needs_windows:
                first = torch.zeros(1, dtype=torch.int64, device=image.device)
                temperature = self.config.temperature
                attention += [log_text_attention(visual, tokens, unit, first, temperature)]
            trained.extend(each.requires_grad for each in attention)
            return tokens

        tokens = on_empty_image(visual, encode)
        for hook in hooks:
            hook.remove()
        if not any(trained):
            raise UserError(
                "--lock-image with --method align: nothing by which the image tower attends is"
                " trained, so it cannot learn where to attend; take --freeze-image all, which"
                " trains its pool and projection, or unlock more with --lock-image-unlocked-groups."
            )
        name = type(getattr(visual, "trunk", visual)).__name__
        if normed:
            raise UserError(
                f"image tower {name} has batch norm behind its map: its statistics would be those"
                " of single positions; take another tower."
            )
        if tokens.grid.shape[1:3].numel() < 2:
            raise UserError(
                f"image tower {name}: its last map has a single position, so there is nothing to"
                " align; take larger images or smaller patches."
            )

    def use_annotated(self, share: float | None) -> None:
        self.min_share = (
            self.config.min_share if share is None or share < self.config.min_share else 0.0
        )
        if self.min_share and share and self.config.active:
            logger.info(
                "eclip: %.3g %% of the data is annotated: alignment is a mean over at least %.3g %%"
                " of each batch",
                100 * share,
                100 * self.min_share,
            )

    def images(self, batch: ExpertBatch, visual: nn.Module) -> dict[str, Tensor]:
        if not self.config.active:
            return {}
        return {"align_oversampled": batch.oversampled_image} | (
            {} if self.stream_is_plain else {"align_stream": batch.expert_image}
        )

    def further_texts(self, model: HostModel, batch: ExpertBatch) -> dict[str, Tensor]:
        texts: dict[str, Tensor] = {}
        if not self.config.active:
            return texts
        # a learned pool depends on no text
        if len(batch.oversampled_text) and not has_pool(model.visual):
            texts[OVERSAMPLED] = batch.oversampled_text
        if len(batch.sentence_row):
            texts[SENTENCES] = batch.sentence_text
        return texts

    def read(self, model: HostModel, encoded: EncodedPass, batch: ExpertBatch) -> dict[str, Tensor]:
        """align_error (A + D,), weighted: one value for each aligned image.

        The images that are compared by their report come first, then those with sentences. Four
        ways to count images meet here:
        - rows of the pass: all K images that the tower encoded, in the model's order;
        - candidates: the B images of the batch, then M2 of the separate stream, then R oversampled
          ones. The batch's texts and `sentence_row` count in this way;
        - A images with a whole report's heatmap, as candidates: `reported`;
        - D images with sentences, as candidates: `described`.
        """
        # rows and numbers of images are in the memory of the host until tensors are selected
        device = encoded.tokens.grid.device
        pass_row = self._pass_rows(encoded, batch)  # (B + M2 + R,), of each candidate
        reported, heatmap = _with_heatmap(batch)  # (A,), (A, 1, H, W)

        # an image with sentences counts once, by its sentences (decision 0032)
        has_sentences = len(batch.sentence_row) > 0
        if has_sentences:
            described, owner = batch.sentence_row.unique(return_inverse=True)  # (D,), (T,)
            by_report = (~torch.isin(reported, described)).nonzero()[:, 0]
            reported, heatmap = reported[by_report], heatmap[_moved(by_report, device)]

        # whole reports: where the tower attends, or the similarity with the report (decision 0030)
        attention = log_attention(
            model.visual,
            encoded.tokens.rows(_moved(pass_row[reported], device)),
            lambda: _report_features(encoded)[_moved(reported, device)],
            self.config,
        )  # (A, h, w)
        error = cross_entropy(heatmap, attention, self.config.power)  # (A,)

        # sentences: the similarity for every tower, since a pool's attention depends on no sentence
        entries = {}
        if has_sentences:
            rows, owner = _moved(pass_row[described], device), _moved(owner, device)
            positions = unit_positions(model.visual, encoded.tokens.rows(rows))
            text = encoded.detached[SENTENCES]
            each = self._sentence_errors(positions, text, owner, batch.sentence_heatmap)  # (T,)
            error = torch.cat([error, mean_by_owner(each, owner, len(described))])
            if self.config.contrast:
                entries = self._regions(positions, text, owner, batch)
        elif self.config.contrast:
            entries = _no_regions(encoded)
        return {"align_error": self.config.weight * error} | entries

    def _sentence_errors(
        self, positions: Tensor, text: Tensor, owner: Tensor, heatmap: Tensor
    ) -> Tensor:
        """One value for each sentence, (T,); positions (D, h, w, E), text (T, E)."""
        similarity = _log_similarity(positions, text, owner, self.config.temperature)  # (T, h, w)
        each = cross_entropy(heatmap, similarity, self.config.power)  # 0 for a map of zeros
        if self.config.empty == "uniform":
            each = each + is_empty(heatmap) * uniform_cross_entropy(similarity)
        return each

    def _regions(
        self, positions: Tensor, text: Tensor, owner: Tensor, batch: ExpertBatch
    ) -> dict[str, Tensor]:
        """Of each phrase with a region: both features, a number of its text, and its weight.

        The phrases of an image weigh one together, as in `mean_by_owner`.
        """
        grid = (positions.shape[1], positions.shape[2])
        found = _moved(batch.sentence_region.nonzero()[:, 0], positions.device)
        heatmap, owner = batch.sentence_heatmap[found].to(positions.dtype), owner[found]
        target = region_target(heatmap, grid, self.config.power)
        return {
            "align_region": region_features(positions, target, owner),
            "align_phrase": full_precision(text[found]),
            "align_phrase_id": text_ids(batch.sentence_text[found]),
            "align_phrase_weight": 1 / phrases_of(owner, len(positions))[owner].to(positions.dtype),
        }

    def _pass_rows(self, encoded: EncodedPass, batch: ExpertBatch) -> Tensor:
        """The row in the pass of each candidate, (B + M2 + R,) int64."""
        parts = [slice(0, len(batch))]
        if count := len(batch.expert_image):
            # plain: the last mixed pairs are the stream's images themselves, encoded once
            name = "mixed_features" if self.stream_is_plain else "align_stream"
            last = encoded.rows[name].stop
            parts.append(slice(last - count, last))
        parts.append(encoded.rows["align_oversampled"])
        return torch.cat([torch.arange(part.start, part.stop) for part in parts])

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        for name in ("align_oversampled", "align_stream"):
            out.pop(name, None)

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """{align_loss}, 0 without an annotated sample; with `contrast` also {align_contrast_loss}.

        Every rank takes part in the gather, forward and backward.
        """
        if "align_error" not in out:
            return {}
        errors = out["align_error"]  # (A + D,) of this rank
        # one row a rank, (W, 1): the sum of its errors, and their number
        sums, counts, rows = gather(errors.sum()[None, None], errors.new_full((1, 1), len(errors)))
        share = sums[rows].sum() * (len(sums) / len(sums[rows]))  # right under DDP's plain average
        smallest = max(1, self.min_share * len(out["sample_id"]) * len(sums))  # decision 0035
        losses = {"align_loss": share / counts.sum().clamp(min=smallest)}
        if self.config.contrast:
            contrast = gathered_contrast(
                out["align_region"],
                out["align_phrase"],
                out["align_phrase_id"],
                out["align_phrase_weight"],
                # CLIP's own, since features of the same space are compared as there; detached, so
                # that CLIP's loss alone trains it
                full_precision(out["logit_scale"].detach()),
                gather,
                smallest,
            )
            losses["align_contrast_loss"] = self.config.contrast * contrast
        return losses


def _moved(index: Tensor, device: torch.device) -> Tensor:
    return index.to(device, non_blocking=True)


def _with_heatmap(batch: ExpertBatch) -> tuple[Tensor, Tensor]:
    """The candidates with a heatmap, (A,) int64, and their heatmaps, (A, 1, H, W).

    They are the annotated images of the batch, all of the stream, and all oversampled ones.
    """
    size = len(batch)
    total = size + len(batch.expert_image) + len(batch.oversampled_image)
    candidates = torch.cat([batch.annotated, torch.arange(size, total)])
    of_stream = batch.heatmap[len(batch.mix_index) :]  # behind those of the batch's mixed pairs
    heatmap = torch.cat([batch.annotated_heatmap, of_stream])
    if len(batch.oversampled_image):  # an empty tensor of heatmaps has other sides
        heatmap = torch.cat([heatmap, batch.oversampled_heatmap])
    return candidates, heatmap


def _report_features(encoded: EncodedPass) -> Tensor:
    """Unit text features of the candidates' reports, (B + M2 + R, D), detached."""
    known = encoded.text.detach()  # of the batch and the stream: the pass has encoded them
    if OVERSAMPLED not in encoded.detached:
        return known
    return torch.cat([known, encoded.detached[OVERSAMPLED]])


def _no_regions(encoded: EncodedPass) -> dict[str, Tensor]:
    """The entries of `Align._regions` for a batch without a phrase.

    The regions are on the graph: the backward of the gather waits for every rank.
    """
    text = full_precision(encoded.text.detach()[:0])
    on_graph = full_precision(encoded.tokens.grid[:0]).sum()  # 0
    return {
        "align_region": text + on_graph,
        "align_phrase": text,
        "align_phrase_id": torch.zeros(0, dtype=torch.int64, device=text.device),
        "align_phrase_weight": text.sum(dim=1),
    }


def log_attention(
    visual: nn.Module, tokens: Tokens, text: Callable[[], Tensor], config: AlignConfig
) -> Tensor:
    """Log of the attention of `visual` over positions, (A, h, w), in fp32 or more.

    `text` returns (A, D) unit features; it is called only for a tower without an attention pool.
    """
    attention = pool_attention(visual, tokens)
    if attention is not None:
        return attention
    features = text()
    images = torch.arange(len(features), device=features.device)  # text i belongs to image i
    return log_text_attention(visual, tokens, features, images, config.temperature)


def log_text_attention(
    visual: nn.Module, tokens: Tokens, text: Tensor, image: Tensor, temperature: float
) -> Tensor:
    """Log softmax of cos(text, position) / temperature over positions, (T, h, w), fp32 or more.

    `text` (T, D): unit features; `image` (T,) int64: the row of `tokens` of each text's image. It
    works for any tower, also for one with an attention pool.
    """
    return _log_similarity(unit_positions(visual, tokens), text, image, temperature)


def unit_positions(visual: nn.Module, tokens: Tokens) -> Tensor:
    """The features by position in the joint space, (A, h, w, D) of unit length, fp32 or more."""
    return F.normalize(full_precision(project_tokens(visual, tokens)), dim=-1)


def _log_similarity(positions: Tensor, text: Tensor, image: Tensor, temperature: float) -> Tensor:
    with torch.autocast(text.device.type, enabled=False):
        similarity = (
            torch.einsum("thwd,td->thw", positions[image], full_precision(text)) / temperature
        )
    return similarity.flatten(1).log_softmax(dim=1).view_as(similarity)
