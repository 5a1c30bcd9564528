"""What an objective is: draws for the batch, images for the encoder pass, outputs, and weighted
terms of the loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..batching.expert_batch import ExpertBatch
from ..towers.host import HostModel
from ..towers.positions import Tokens

# (B, D) and (B, D) of this rank -> (N, D) and (N, D) of all ranks with this rank's rows on the
# graph, and the rows it scores
Gather = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, slice]]


class EncodedPass(NamedTuple):
    """What the towers saw in the one pass of a step."""

    tokens: Tokens  # of all K images
    rows: Mapping[str, slice]  # of which images, by the names of `Objective.images` and the host's
    text: Tensor  # (B + M2, D) unit features of the batch's texts, then of the separate stream's


class Objective:
    """A method that adds terms to the contrastive loss; it has no state, so a run can be resumed
    anywhere.

    Everything random is drawn in `draw`, by step and sample, and travels with the batch: both
    passes of gradient accumulation, every rank and a resumed run see the same values.
    """

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        """The objective's own flags; each is None unless given."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Objective:
        """UserError for bad settings."""
        return cls()

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Called once before training, with the model's tokenizer."""

    def use_annotated(self, share: float | None) -> None:
        """Called once before training, with the share of the training data that is annotated; None:
        not known before they are read.
        """

    def draw(self, seed: int, step: int, epoch: int, sample_id: Tensor) -> dict[str, Any]:
        """Random values of one batch under names of the objective's own; tensors move with it.
        `sample_id` (B,) int64.
        """
        return {}

    def images(self, batch: ExpertBatch, visual: nn.Module) -> dict[str, Tensor]:
        """Images (K, 3, H, W) to encode in the pass of the originals; the key names their features
        in the model's output.

        `image_features` as a key replaces the originals. `visual`: the image tower.
        """
        return {}

    contrast_weight = 1.0  # of the contrastive loss

    # share of a batch to fill up with annotated images where less than half of it is annotated in
    # the training data: `ExpertBatch.oversampled_*`
    oversample = 0.0
    needs_heatmaps = (
        False  # `ExpertBatch.annotated`: of every annotated sample, whatever eCLIP's gate decides
    )
    # `ExpertBatch.sentence_*`: the sentences of samples that carry windows, with a map each
    needs_windows = False
    image_stages: int | None = (
        # last stages of the image tower to hand to `read` with its tokens; None: no call of `read`
        None
    )

    def check_model(self, model: HostModel) -> None:
        """Called once before training. UserError: a model that can not be trained so."""

    def encode_texts(
        self, model: HostModel, texts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Unit features (T, D) in the place of `model.encode_text`, and more of the same pass for
        the output.
        """
        return None

    def read(self, model: HostModel, encoded: EncodedPass, batch: ExpertBatch) -> dict[str, Tensor]:
        """What the pass holds beside its features, for the output; `complete` may still
        change it.
        """
        return {}

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        """Change the model's output in place: no 0-d tensor, the same keys in every micro-batch."""

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """Weighted scalars for open_clip's loop to sum, by names that end in `_loss`; `out` is the
        model's output.
        """
        return {}


def add_mixed_pairs(
    out: dict[str, Tensor], image_features: Tensor, text_features: Tensor, ids: Tensor
) -> None:
    """Append pairs (K, D), (K, D) of the samples `ids` (K,) to those that eCLIP appends, if any."""
    for name, more in (
        ("mixed_features", image_features),
        ("mixed_text_features", text_features),
        ("mixed_id", ids),
    ):
        out[name] = torch.cat([out[name], more]) if name in out else more
