"""What an objective is: draws for a batch, images to encode, outputs, and weighted loss terms."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..batching.expert_batch import ExpertBatch
from ..towers.host import HostModel
from ..towers.positions import Tokens

# (B, D) and (B, D) of this rank -> (N, D) and (N, D) of all ranks, with this rank's rows on the
# graph, and the rows that this rank scores
Gather = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, slice]]


class EncodedPass(NamedTuple):
    """What the towers computed in the single pass of a step."""

    tokens: Tokens  # of all K images
    rows: Mapping[str, slice]  # rows of the images under each name of `Objective.images`
    text: Tensor  # (B + M2, D) unit features of the batch's texts, then of the separate stream's
    detached: Mapping[str, Tensor]  # (T, D) unit features of `Objective.further_texts`


class Objective:
    """A method that adds terms to the contrastive loss.

    It has no state, so a run can be resumed anywhere. Everything random is drawn in `draw`, by step
    and sample, and travels with the batch: both passes of gradient accumulation, every rank and a
    resumed run see the same values.
    """

    @staticmethod
    def add_flags(group: argparse._ActionsContainer) -> None:
        """Add the objective's flags; each is None unless given."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Objective:
        """The objective of the given flags. UserError for bad settings."""
        return cls()

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Called once before training, with the model's tokenizer."""

    def use_annotated(self, share: float | None) -> None:
        """Called once before training, with the annotated share of the training data.

        None: the share is not known before the data are read.
        """

    def draw(self, seed: int, step: int, epoch: int, sample_id: Tensor) -> dict[str, Any]:
        """Random values of one batch, under names of the objective's choice.

        `sample_id` (B,) int64. Tensors among the values are moved with the batch.
        """
        return {}

    def count(self, texts: Tensor) -> dict[str, Any]:
        """Facts about the texts of one batch (B + M2, L), as further entries of its draws.

        They are found in the memory of the host, so that no step waits for a GPU to know them.
        """
        return {}

    def images(self, batch: ExpertBatch, visual: nn.Module) -> dict[str, Tensor]:
        """Images (K, 3, H, W) to encode in the pass of the originals.

        The key names their features in the model's output; `image_features` replaces the originals.
        `visual`: the image tower.
        """
        return {}

    contrast_weight = 1.0  # of the contrastive loss

    # Share of a batch to fill with annotated images (`ExpertBatch.oversampled_*`), where less than
    # half of this share of the training data is annotated.
    oversample = 0.0
    # Fill `ExpertBatch.annotated` with every annotated sample, whatever eCLIP's gate decides.
    needs_heatmaps = False
    # Fill `ExpertBatch.sentence_*` with the sentences of samples that carry windows.
    needs_windows = False
    # Phrases without a region, whose map is all zero, are among these sentences.
    needs_empty_windows = False
    # Last stages of the image tower that `read` gets with the tokens; None: `read` is not called.
    image_stages: int | None = None

    def check_model(self, model: HostModel) -> None:
        """Called once before training. UserError for a model that this objective cannot train."""

    def encode_texts(
        self, model: HostModel, texts: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Unit features (T, D) that replace those of `model.encode_text`, and output entries.

        None: the objective needs no pass of its own over the texts.
        """
        return None

    def further_texts(self, model: HostModel, batch: ExpertBatch) -> dict[str, Tensor]:
        """Texts (T, L) that `read` gets the features of, without a gradient, by their names."""
        return {}

    def read(self, model: HostModel, encoded: EncodedPass, batch: ExpertBatch) -> dict[str, Tensor]:
        """Entries for the model's output, computed from the pass; `complete` may change them."""
        return {}

    def complete(self, out: dict[str, Tensor], batch: ExpertBatch) -> None:
        """Change the model's output in place.

        It must have no 0-d tensor and the same keys in every micro-batch.
        """

    def losses(self, out: Mapping[str, Tensor], gather: Gather) -> dict[str, Tensor]:
        """Weighted scalars for open_clip's loop to sum, under names that end in `_loss`.

        `out` is the model's output.
        """
        return {}


def add_mixed_pairs(out: dict[str, Tensor], image_features: Tensor) -> None:
    """Append one more pair (B, D) of each image of the batch to eCLIP's mixed pairs, if any."""
    added = {
        "mixed_features": image_features,
        "mixed_text_features": out["text_features"],
        "mixed_id": out["sample_id"],
    }
    if "text_key" in out:
        added["mixed_key"] = out["text_key"]
    for name, values in added.items():
        out[name] = torch.cat([out[name], values]) if name in out else values
