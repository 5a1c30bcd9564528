"""Algorithm 1 over open_clip's two model classes. Towers, keys and inference stay open_clip's."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from torch.nn import functional as F

from .batching.expert_batch import ExpertBatch
from .config import EClipConfig, UserError
from .mixup import mix_images
from .objectives import Objective
from .objectives.base import EncodedPass
from .priming import reconstruction_errors
from .processor import build_processor
from .towers.frozen import FrozenText
from .towers.host import HostModel
from .towers.local_features import region_width, word_width
from .towers.positions import encode_tokens

logger = logging.getLogger(__name__)

PROCESSOR_PREFIX = "heatmap_processor."
REGIONS_PREFIX = "region_projection."


class EClip(nn.Module):
    """Mixin before open_clip's CLIP or CustomTextCLIP: processor and forward of Algorithm 1.

    State-dict keys are open_clip's plus `heatmap_processor.*`. For a plain image tensor the model
    is plain CLIP.

    --torchcompile compiles towers and processor one by one, each for batches of any size. What is
    between them, where the numbers of images decide, stays Python.
    """

    # open_clip's class sets these, see towers/host.py
    visual: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    encode_image: Callable[..., Tensor]
    encode_text: Callable[..., Tensor]

    def __init__(self, *args: Any, eclip_cfg: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eclip_config = EClipConfig.from_dict(eclip_cfg)
        # a fork of the generator: the towers, and all later draws, equal those of plain open_clip
        # with the same seed
        with torch.random.fork_rng(devices=[]):
            self.heatmap_processor = (
                build_processor(self.eclip_config.processor)
                if self.eclip_config.processor
                else None
            )
            if self.eclip_config.regions:
                self.region_projection = nn.Linear(region_width(self), word_width(self), bias=False)
        self.objectives: tuple[Objective, ...] = ()  # further losses; set by the training
        # set by the training, for texts that are the same by their similarity
        self.frozen_text: FrozenText | None = None
        self.register_load_state_dict_pre_hook(_complete_plain_checkpoint)

    @torch.compiler.disable(recursive=False)
    def forward(self, image: Tensor | ExpertBatch | None = None, text: Tensor | None = None) -> Any:
        """One step of Algorithm 1 on an `ExpertBatch`; open_clip's forward on anything else.

        `text` (B, L) int64. Returns open_clip's dict plus `mixed_features`, `mixed_text_features`
        (M, D), `mixed_id` (M,), `sample_id` (B,) and, in the priming phase, `priming_error` (B,);
        with --same-text `text_key` (B,) and `mixed_key` (M,), or (B, D), (M, D).
        No entry but open_clip's is 0-d, since gradient accumulation concatenates all of them.
        Without a processor there are no mixed pairs and none of their keys. Objectives add images
        to the same pass, and keys to the output.

        Deviation: each text is encoded once (Alg. 1 l. 4 encodes t_i once and appends it again),
        and all images in one pass.
        """
        if not isinstance(image, ExpertBatch):
            return super().forward(image, text)
        assert text is not None, "an ExpertBatch comes with the texts of its images"
        batch = image
        pieces = {"image_features": batch.image}
        if self.heatmap_processor is not None:
            has_mixed = len(batch.lam) > 0
            pieces["mixed_features"] = self._mixed_images(batch) if has_mixed else batch.image[:0]
        for objective in self.objectives:
            pieces.update(objective.images(batch, self.visual))
        images = [piece for piece in pieces.values() if len(piece)]
        texts = torch.cat([text, batch.expert_text]) if len(batch.expert_text) else text

        together = torch.cat(images) if len(images) > 1 else images[0]
        sizes = {name: len(piece) for name, piece in pieces.items()}
        features, text_features, local = self._encode(together, texts, sizes, batch)
        out = self._output(features, text_features, local, sizes, batch)
        if batch.is_priming:  # l. 14-17
            assert self.heatmap_processor is not None, "`PlannedLoader` primes a processor only"
            out["priming_error"] = reconstruction_errors(self.heatmap_processor, batch.image)
        return out

    @torch.compiler.disable
    def _output(
        self,
        features: Tensor,
        text_features: Tensor,
        local: dict[str, Tensor],
        sizes: Mapping[str, int],
        batch: ExpertBatch,
    ) -> dict[str, Tensor]:
        """The output of `forward` without `priming_error`; arguments as `_encode` returns them."""
        size = len(batch)
        out = dict(zip(sizes, features.split(list(sizes.values()))))
        out |= {
            "text_features": text_features[:size],
            "logit_scale": self.logit_scale.exp(),
            "sample_id": batch.sample_id,
        }
        if self.heatmap_processor is not None:
            out["mixed_text_features"] = torch.cat(
                [text_features[:size][batch.mix_index], text_features[size:]]
            )
            out["mixed_id"] = batch.mixed_id
        key = local.pop("text_key", batch.text_key)
        if len(key):
            out["text_key"] = key[:size]
            if self.heatmap_processor is not None:
                out["mixed_key"] = torch.cat([key[:size][batch.mix_index], key[size:]])
        out |= local
        for objective in self.objectives:
            objective.complete(out, batch)
        if self.logit_bias is not None:
            # a copy: DDP takes a bare parameter in the output for an unused one
            out["logit_bias"] = self.logit_bias.clone()
        return out

    @torch.compiler.disable(recursive=False)
    def _encode(
        self, images: Tensor, texts: Tensor, sizes: Mapping[str, int], batch: ExpertBatch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """v (B + M + ..., D) and t (B + M2, D) in one pass, and the objectives' entries.

        Alg. 1, l. 4, 5, 12. `sizes`: the number of images under each name, in their order.
        """
        stages = [
            objective.image_stages
            for objective in self.objectives
            if objective.image_stages is not None
        ]
        if stages:
            features, tokens = encode_tokens(self.visual, images, max(stages))
            image_features = F.normalize(features, dim=-1)
        else:
            image_features = self.encode_image(images, normalize=True)
        # the first objective that encodes texts itself, else open_clip's pass
        encoded = (objective.encode_texts(self, texts) for objective in self.objectives)
        text_features, local = next((one for one in encoded if one is not None), None) or (
            self.encode_text(texts, normalize=True),
            {},
        )
        if self.frozen_text is not None:
            # now: objectives may encode other texts with the same tower
            local["text_key"] = self.frozen_text.last(text_features)
        if stages:
            further = self.further_texts(batch)
            detached = {name: encode_detached(self, each) for name, each in further.items()}
            ends = list(itertools.accumulate(sizes.values()))
            rows = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends)}
            local |= self._read(EncodedPass(tokens, rows, text_features, detached), batch)
        return image_features, text_features, local

    @torch.compiler.disable
    def further_texts(self, batch: ExpertBatch) -> dict[str, Tensor]:
        """Texts (T, L) of which the objectives read the features, without a gradient."""
        further: dict[str, Tensor] = {}
        for objective in self.objectives:
            further |= objective.further_texts(cast(HostModel, self), batch)
        return further

    @torch.compiler.disable
    def _read(self, encoded: EncodedPass, batch: ExpertBatch) -> dict[str, Tensor]:
        entries: dict[str, Tensor] = {}
        for objective in self.objectives:
            if objective.image_stages is not None:
                entries |= objective.read(self, encoded, batch)
        return entries

    def _mixed_images(self, batch: ExpertBatch) -> Tensor:
        """I^lam (M, 3, H, W), M > 0 (Alg. 1, l. 9-11)."""
        assert self.heatmap_processor is not None, "`forward` checks that there is one"
        original = torch.cat([batch.image[batch.mix_index], batch.expert_image])
        return mix_images(original, self.heatmap_processor(original, batch.heatmap), batch.lam)


def encode_detached(model: HostModel, texts: Tensor) -> Tensor:
    """Unit features (T, D) of `texts` (T, L), detached.

    Call it after the pass: autocast caches the weights that it casts here, without their graph.
    """
    with torch.no_grad():
        return model.encode_text(texts, normalize=True)


class EClipCLIP(EClip, CLIP):
    """eCLIP over `open_clip.model.CLIP`."""


class EClipCustomTextCLIP(EClip, CustomTextCLIP):
    """eCLIP over `open_clip.model.CustomTextCLIP`."""


def _complete_plain_checkpoint(
    model: EClip, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Keep the fresh processor for a checkpoint without any processor key: eCLIP^P (§4.1).

    See method.md §2. UserError for a checkpoint with other processor keys.
    """
    _complete_regions(model, state_dict, prefix + REGIONS_PREFIX)
    fresh = model.heatmap_processor.state_dict() if model.heatmap_processor is not None else {}
    expected = {f"{prefix}{PROCESSOR_PREFIX}{key}": value for key, value in fresh.items()}
    stored = [key for key in state_dict if key.startswith(prefix + PROCESSOR_PREFIX)]
    if expected and not stored:
        logger.info(
            "eclip: plain CLIP checkpoint, no %s* key in it: starting with a fresh heatmap"
            " processor (eCLIP^P)",
            PROCESSOR_PREFIX,
        )
        state_dict.update(expected)
        return
    wrong = sorted(set(expected).symmetric_difference(stored))
    if wrong:
        state = "missing" if wrong[0] in expected else "unexpected"
        raise UserError(
            f"checkpoint holds {len(stored)} {PROCESSOR_PREFIX}* keys, this model has"
            f" {len(expected)}; first {state}: {wrong[0]!r}. Use the --eclip-* processor settings"
            f" it was trained with, or remove all its {PROCESSOR_PREFIX}* keys to start with a"
            " fresh processor."
        )


def _complete_regions(model: EClip, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Fit the keys of GLoRIA's projection to the model.

    A GLoRIA model keeps its fresh projection for a checkpoint without one; another model drops it.
    """
    stored = [key for key in state_dict if key.startswith(prefix)]
    if not model.eclip_config.regions:
        for key in stored:
            del state_dict[key]
    elif not stored:
        logger.info(
            "eclip: no %s* key in the checkpoint: starting with a fresh projection of regions",
            REGIONS_PREFIX,
        )
        state_dict.update(
            {prefix + key: value for key, value in model.region_projection.state_dict().items()}
        )
