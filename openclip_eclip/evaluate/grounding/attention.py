"""Attention maps of a model for phrases of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...attention import methods
from ...attention.floors import floor_maps
from ...towers.pool_attention import has_pool
from ..inputs.encoder import Encoder, tokenize

FLOORS = methods.FLOORS  # need no model, and are always measured
METHODS = tuple(name for name in methods.METHODS if name not in FLOORS)


def default_methods(encoder: Encoder) -> tuple[str, ...]:
    """Its learned pool, which alignment trains, and what every tower offers without a gradient."""
    return ("pool", "similarity") if has_pool(encoder.model.visual) else ("similarity",)


class PhraseAttention:
    """The maps of a model for `texts`, which are encoded once, whatever repeats."""

    def __init__(self, encoder: Encoder, texts: Iterable[str], batch_size: int) -> None:
        self.encoder = encoder
        self._number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        tokens = tokenize(encoder, list(self._number))
        self._features = torch.cat(
            [encoder.encode_texts(part) for part in tokens.split(batch_size)]
        )

    def maps(
        self, method: str, pixels: Tensor, texts: Sequence[str], image: Sequence[int]
    ) -> Tensor:
        """Maps (T, h, w) float32 on the CPU, one for each of `texts`; any range of values.

        `method`: one of METHODS or FLOORS; `pixels` (B, 3, H, W) float32: different images;
        `image`: the row of `pixels` of each text. UserError: an image tower that does not have it.
        """
        encoder = self.encoder
        of_text = torch.tensor(image, device=encoder.device)
        if method in FLOORS:  # the same for all models of one image size
            return floor_maps(method, pixels, [text.encode() for text in texts], of_text)
        features = self._features[[self._number[text] for text in texts]].to(encoder.device)
        inputs = encoder.to_input(pixels)
        return methods.attention_maps(method, encoder.model, inputs, features, of_text).cpu()
