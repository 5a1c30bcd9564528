"""L_total over (V, T): open_clip's losses, mixed pairs and priming (Alg. 1, l. 13-19; Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss, gather_features
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EClipConfig
from .objectives import Objective
from .rank_counts import counts_of_ranks
from .same_text import SameText
from .towers.positions import full_precision


class Pairs(NamedTuple):
    """Rows to score against all columns.

    All ranks hold N pairs, this rank scores R rows: all N of them without --local-loss.
    """

    image: Tensor  # (R, D) rows
    text: Tensor  # (R, D)
    all_image: Tensor  # (N, D) columns
    all_text: Tensor  # (N, D)
    label: Tensor  # (R,) the column of each row's partner
    own: Tensor  # (R, N) bool: the column belongs to the row's sample, the partner included
    same: Tensor | None = None  # (R, N) bool: its text is the same, and of another sample


class RepeatedTexts:
    """Counts of repeated texts in the batches of all ranks, since the log last read them."""

    def __init__(self) -> None:
        self.batches = self.images = self.repeated = self.pairs = 0

    def add(self, images: int, repeated: int, pairs: int) -> None:
        """One batch: its images, those whose text another has too, and unordered pairs."""
        self.batches, self.images = self.batches + 1, self.images + images
        self.repeated, self.pairs = self.repeated + repeated, self.pairs + pairs

    def read(self) -> str:
        """The means since the last call, as part of a line of the log."""
        images, batches = max(self.images, 1), max(self.batches, 1)
        text = (
            f"in the mean batch of {images / batches:.5g} images,"
            f" {100 * self.repeated / images:.3g} % have a text that another one has too;"
            f" {self.pairs / batches:.3g} pairs of images"
        )
        self.batches = self.images = self.repeated = self.pairs = 0
        return text


class _MixedPairs(nn.Module):
    """The common part of both losses: joins pairs across ranks and weighs the terms of the loss."""

    # open_clip's class sets these; SigLipLoss has no `local_loss`
    rank: int
    world_size: int
    local_loss: bool

    mixed_pairs: int = 0  # on all ranks, at the last call; read by the log

    def configure(
        self,
        config: EClipConfig,
        objectives: Sequence[Objective] = (),
        same_text: SameText = SameText(),
    ) -> None:
        self.eclip_config, self.objectives, self.same_text = config, objectives, same_text
        self.repeats = RepeatedTexts()

    def forward(self, output_dict: bool = False, **out: Tensor) -> dict[str, Tensor] | Tensor:
        """The loss of the output of `EClip.forward`; of a plain CLIP's, it is open_clip's loss.

        `out`: image_features, text_features (B, D), mixed_features, mixed_text_features (M, D), all
        of unit length; logit_scale and, perhaps, logit_bias; sample_id (B,), mixed_id (M,) int64;
        text_key (B,) and mixed_key (M,) int64 or, for similarity, (B, D), (M, D), unit length;
        priming_error (B,); and the entries of the objectives.
        """
        host = {name: out[name] for name in ("logit_scale", "logit_bias") if name in out}
        image_features, text_features = out["image_features"], out["text_features"]
        counts = [0] * self.world_size
        if "mixed_features" in out:
            counts = self._count_mixed(out["mixed_features"])
        self.mixed_pairs = sum(counts)
        same = self._same_texts(out, counts) if self.same_text.active else None
        if self.mixed_pairs == 0 and same is None:  # bit-for-bit open_clip's step
            contrastive = super().forward(image_features, text_features, output_dict=False, **host)
        else:
            pairs = self._join(
                _with_mixed(out, "image_features", "mixed_features"),
                _with_mixed(out, "text_features", "mixed_text_features"),
                _with_mixed(out, "sample_id", "mixed_id"),
                counts,
            )
            contrastive = self.contrast(pairs._replace(same=same), **host)
        for objective in self.objectives:
            contrastive = (
                contrastive * objective.contrast_weight
                if objective.contrast_weight != 1
                else contrastive
            )
        weighed = {
            name: value if name in host else _scale_gradient(value, self.gradient_factor)
            for name, value in out.items()
        }
        losses = self._total(contrastive, weighed.get("priming_error"))
        for objective in self.objectives:
            losses |= objective.losses(weighed, self.gather)
        return losses if output_dict else cast(Tensor, sum(losses.values()))

    def contrast(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> Tensor:
        """The contrastive loss of this rank's rows, mixed pairs among them."""
        raise NotImplementedError

    @property
    def gradient_factor(self) -> float:
        """The factor that keeps every term's ratio to the contrastive loss (docs/decisions/0042).

        On W ranks, after DDP's average, open_clip's contrastive loss keeps this share of a single
        process's gradient. Without --gather-with-grad each rank has only its own features on the
        graph: 1 / W. With --local-loss too, its features are on the graph as rows and not as
        columns: half of what pulls a pair together, for any W. The gradient of `logit_scale` is
        whole.
        """
        # open_clip's SigLipLoss always has the gradient
        if self.world_size == 1 or getattr(self, "gather_with_grad", True):
            return 1.0
        return 0.5 if self.local_loss else 1 / self.world_size

    def gather(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, slice]:
        """Two tensors (B, ...) of this rank -> (N, ...) of all ranks, and the rows to score.

        The rows are all of them, or this rank's with --local-loss. A mean over them is correct
        under DDP's plain average, in value and gradient. The gather has the gradient of all ranks
        whatever --gather-with-grad says, since `gradient_factor` accounts for that flag.
        """
        if self.world_size == 1:
            return first, second, slice(None)
        size, local = len(first), getattr(self, "local_loss", True)
        first, second = gather_features(
            first, second, gather_with_grad=True, rank=self.rank, world_size=self.world_size
        )
        return (
            first,
            second,
            slice(self.rank * size, (self.rank + 1) * size) if local else slice(None),
        )

    def _count_mixed(self, mixed_features: Tensor) -> list[int]:
        """M on every rank. A rank without mixed pairs takes part too."""
        count = len(mixed_features)
        return [count] if self.world_size == 1 else counts_of_ranks(count)

    def _join(self, image: Tensor, text: Tensor, ids: Tensor, counts: list[int]) -> Pairs:
        """V = [v; v^lam] and T = [t; t] of all ranks (Alg. 1, "Append").

        `image`, `text` (B + M, D), `ids` (B + M,). Ranks hold different M: each fills B + max(M)
        slots, and padded rows are dropped after the gather. Padding keeps the slots on the graph,
        so a rank without mixed pairs takes part in the backward of the collective. Otherwise the
        other ranks would wait for ever.
        """
        rows = len(image)
        if self.world_size == 1:
            label = torch.arange(rows, device=image.device)
            return Pairs(image, text, image, text, label, ids[:, None] == ids[None])
        size = rows - counts[self.rank]
        slots = size + max(counts)
        # open_clip's SigLipLoss has neither flag: its rows are local, with gradient
        local = getattr(self, "local_loss", True)
        all_image, all_text = gather_features(
            _pad(image, slots),
            _pad(text, slots),
            local_loss=local,
            gather_with_grad=getattr(self, "gather_with_grad", True),
            rank=self.rank,
            world_size=self.world_size,
        )
        valid = _valid(size, counts, ids.device)
        all_image, all_text = all_image[valid], all_text[valid]
        all_ids = self._all_ranks(ids, counts)
        if not local:
            label = torch.arange(len(valid), device=ids.device)
            return Pairs(
                all_image, all_text, all_image, all_text, label, all_ids[:, None] == all_ids[None]
            )
        first = sum(size + m for m in counts[: self.rank])
        label = torch.arange(first, first + rows, device=ids.device)
        return Pairs(image, text, all_image, all_text, label, ids[:, None] == all_ids[None])

    def _all_ranks(self, x: Tensor, counts: list[int]) -> Tensor:
        """`x` (B + M, ...) of all ranks, (N, ...), without gradient and without padding."""
        if self.world_size == 1:
            return x
        size = len(x) - counts[self.rank]
        slots = size + max(counts)
        padded = [x.new_zeros(slots, *x.shape[1:]) for _ in counts]
        dist.all_gather(padded, _pad(x, slots))
        return torch.cat(padded)[_valid(size, counts, x.device)]

    def _same_texts(self, out: Mapping[str, Tensor], counts: list[int]) -> Tensor | None:
        """(R, N) bool, the columns whose text is the same and another sample's.

        None where no rank has one, and for the output of a plain model. Copies that mixed pairs
        make of a sample's own text are not among them: `own_pairs` says what they are. A sample
        that was drawn twice is another sample.

        The one place where the loss waits for a GPU: whether any text repeats decides what is
        computed.
        """
        if "text_key" not in out:
            return None
        size = len(out["text_key"])
        key = self._all_ranks(_with_mixed(out, "text_key", "mixed_key"), counts)
        ids = self._all_ranks(_with_mixed(out, "sample_id", "mixed_id"), counts)
        index = torch.arange(len(ids), device=ids.device)
        mixed = torch.cat([index[: size + m] >= size for m in counts])
        firsts = [sum(size + m for m in counts[:r]) for r in range(len(counts))]
        own = slice(firsts[self.rank], firsts[self.rank] + size + counts[self.rank])
        rows = own if getattr(self, "local_loss", True) else slice(None)
        copies = (ids[rows, None] == ids) & (mixed[rows, None] | mixed)
        same = self.same_text.matches(key[rows], key) & ~copies & (index[rows, None] != index)
        mine = same if rows == own else same[own]
        columns = torch.cat([index[f : f + size] for f in firsts])
        originals = mine[:size, columns]
        # of this rank's rows: all pairs, those of originals, originals with such a pair
        found = torch.stack([mine.sum(), originals.sum(), originals.any(dim=1).sum()])
        if self.world_size > 1:
            dist.all_reduce(found)
        total, pairs, repeated = found.tolist()
        self.repeats.add(size * self.world_size, repeated, pairs // 2)
        return same if total else None

    def _relations(self, pairs: Pairs) -> tuple[Tensor | None, Tensor | None]:
        """(columns that are left out, positives), (R, N) bool each, by own_pairs and same_text.

        None: no column, and the partner alone. A column that is both is left out.
        """
        own_pairs, same = self.eclip_config.own_pairs, pairs.same
        left_out = _other_copies(pairs) if own_pairs == "mask" else None
        positive = pairs.own if own_pairs == "multi" else None
        if same is not None and self.same_text.use == "ignore":
            left_out = same if left_out is None else left_out | same
        elif same is not None:
            positive = same | (~_not_label(pairs) if positive is None else positive)
        return left_out, positive

    def _row_weight(self, pairs: Pairs) -> float:
        """The factor that turns this rank's mean over its rows into its part of the total mean.

        Under DDP's plain average, ranks with more mixed pairs must weigh more. With all rows on
        every rank it is 1.
        """
        rows, columns = len(pairs.image), len(pairs.all_image)
        return 1.0 if rows == columns else rows * self.world_size / columns

    def _total(self, contrastive: Tensor, priming_error: Tensor | None) -> dict[str, Tensor]:
        """{contrastive_loss, priming_loss}, weighted, for open_clip's loop to sum (Alg. 1, l. 19).

        A method without mixed pairs has the first alone. (1 - w_p) applies during priming only, as
        the paper's prose says ("during this phase"), not its pseudocode. Without a primed sample
        L_priming is exactly 0.
        """
        if self.eclip_config.processor is None:
            return {"contrastive_loss": contrastive}
        weight = self.eclip_config.priming_weight
        if priming_error is None or weight == 0:
            return {"contrastive_loss": contrastive, "priming_loss": torch.zeros_like(contrastive)}
        return {
            "contrastive_loss": (1 - weight) * contrastive,
            "priming_loss": weight * full_precision(priming_error).mean(),
        }


class EClipLoss(_MixedPairs, ClipLoss):
    """Symmetric InfoNCE over (V, T) (Eq. 1) plus priming (Alg. 1, l. 13-19)."""

    def contrast(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> Tensor:
        """Mean of image->text and text->image cross-entropy over all pairs.

        `config.own_pairs` says what other copies of a row's text are:
        - diagonal: the literal Alg. 1, a copy is a negative;
        - multi: the target is a total probability of 1 for all copies;
        - mask: other copies are left out of the sum.
        A target shared evenly by the copies equals diagonal, since their texts are equal and each
        copy has a row (docs/decisions/0004).

        `same_text` says the same of other samples' pairs: negative, positive, ignore. With the
        positives P of a row, its partner among them, and the columns A that are not left out,
        -log(sum_P exp(logit) / sum_A exp(logit)): MIL-NCE (Miech et al. 2020, Eq. 1), and up to
        the constant log |P| Khosla et al. 2020, Eq. 3 (L_in).
        """
        left_out, positive = self._relations(pairs)
        directions = []
        for rows, columns in ((pairs.image, pairs.all_text), (pairs.text, pairs.all_image)):
            logits = _logits(rows, columns, logit_scale, logit_bias)
            if left_out is not None:
                logits = logits.masked_fill(left_out, float("-inf"))
            if positive is not None:
                own = logits.masked_fill(~positive, float("-inf"))
                directions.append((logits.logsumexp(dim=1) - own.logsumexp(dim=1)).mean())
            else:
                directions.append(F.cross_entropy(logits, pairs.label))
        return cast(Tensor, sum(directions)) / 2 * self._row_weight(pairs)


class EClipSigLipLoss(_MixedPairs, SigLipLoss):
    """open_clip's sigmoid loss (--siglip) over (V, T) plus priming. Not in the paper."""

    def contrast(
        self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> Tensor:
        """-sum over all pairs of log sigmoid(label * logit) / rows.

        `own_pairs` and `same_text` as in `EClipLoss.contrast`: the label is 1 for every positive.
        """
        left_out, positive = self._relations(pairs)
        logits = _logits(pairs.image, pairs.all_text, logit_scale, logit_bias)
        label = 2.0 * (~_not_label(pairs) if positive is None else positive) - 1
        terms = F.logsigmoid(logits * label.to(logits.dtype))
        if left_out is not None:
            terms = terms.masked_fill(left_out, 0.0)
        return -terms.sum() / len(pairs.image) * self._row_weight(pairs)


def _logits(rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(R, N) in fp32 or more, under autocast too.

    A sum of exponentials of bf16 logits would be wrong by whole percents.
    """
    with torch.autocast(rows.device.type, enabled=False):
        logits = full_precision(scale) * full_precision(rows) @ full_precision(columns).T
    return logits if bias is None else logits + full_precision(bias)


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """A tensor with the value of `x` and `factor` times its gradient."""
    if factor == 1 or not x.requires_grad:
        return x
    x = x.view_as(x)  # not the caller's tensor, which enters the contrastive loss
    x.register_hook(lambda gradient: factor * gradient)
    return x


def _not_label(pairs: Pairs) -> Tensor:
    """(R, N) bool, true except at each row's partner."""
    return torch.ones_like(pairs.own).scatter(1, pairs.label[:, None], False)


def _other_copies(pairs: Pairs) -> Tensor:
    """(R, N) bool, the columns that are other copies of a row's partner."""
    return pairs.own & _not_label(pairs)


def _with_mixed(out: Mapping[str, Tensor], name: str, mixed: str) -> Tensor:
    """The entry of the batch (B, ...), and behind it that of the mixed pairs (M, ...), if any."""
    return torch.cat([out[name], out[mixed]]) if mixed in out else out[name]


def _valid(size: int, counts: list[int], device: torch.device) -> Tensor:
    """(N,) int64: the slots of all ranks that are not padding (see `_MixedPairs._join`)."""
    slots = size + max(counts)
    return torch.cat(
        [torch.arange(size + m, device=device) + slots * r for r, m in enumerate(counts)]
    )


def _pad(x: Tensor, rows: int) -> Tensor:
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, rows - len(x)))
