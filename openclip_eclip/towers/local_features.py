"""Regions of an image and words of a report out of the same encoder pass that gives the global
features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UserError
from .positions import Tokens, encode_tokens, full_precision

IMAGE_STAGES = 2  # the finer one of the last ones
TEXT_LAYERS = 4  # the last ones, summed (GLoRIA)
# of word pieces: continues a word (WordPiece), begins one (twice), ends one (CLIP's BPE)
MARKS = (
    "##",
    "▁",
    "Ġ",
    "</w>",
)


class Words(NamedTuple):
    """`values` (B, L, W), zero after the last word; `mask` (B, L) bool, true for words, which come
    first.
    """

    values: Tensor
    mask: Tensor


def encode_regions(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Unit image features (B, D), those of `model.encode_image`, and regions (B, P, C) from one
    pass over (B, 3, H, W).

    UserError: a tower that gives no map.
    """
    try:
        features, tokens = encode_tokens(model.visual, images, IMAGE_STAGES)
    except (AttributeError, NotImplementedError, UserError) as error:
        raise UserError(
            f"image tower {_name(model.visual)} has no spatial map ({error}); GLoRIA compares words"
            " with regions: take a ViT, ResNet, Swin or ConvNeXt tower."
        ) from error
    return F.normalize(features, dim=-1), regions_of(model.visual, tokens)


def regions_of(visual: nn.Module, tokens: Tokens) -> Tensor:
    """(B, P, C): of the tower's last two stages the finer one, as GLoRIA takes the last but one of
    a ResNet; of equal ones (a plain ViT) the last. Class tokens are no regions.
    """
    stages = tokens.stages[-IMAGE_STAGES:]
    if any(stage.ndim != 4 for stage in stages) or stages[-1].shape[-2:].numel() < 2:
        raise UserError(
            f"image tower {_name(visual)}: its last stages have the shapes"
            f" {[tuple(stage.shape[1:]) for stage in stages]}, which are no spatial maps of several"
            " regions; take a ViT, ResNet, Swin or ConvNeXt tower."
        )
    stage = (
        stages[0] if stages[0].shape[-2:].numel() > stages[-1].shape[-2:].numel() else stages[-1]
    )
    return stage.flatten(2).transpose(1, 2)


def region_width(model: nn.Module) -> int:
    """C of `encode_regions`, by encoding one empty image. UserError: no spatial map, or dropped
    patches that leave holes in it.
    """
    return on_empty_image(model.visual, lambda image: encode_regions(model, image)[1]).shape[-1]


def on_empty_image(visual: nn.Module, encode: Callable[[Tensor], Any]) -> Any:
    """`encode` of one empty image (1, 3, H, W), leaving `visual` as it was. UserError: a tower that
    drops patches.
    """
    dropping = [
        module
        for module in visual.modules()
        if type(module).__name__.startswith("PatchDropout") and module.prob > 0
    ]
    if dropping:
        raise UserError(
            f"image tower {_name(visual)} drops patches (--force-patch-dropout"
            f" {dropping[0].prob:g}): there is no whole map left to compare with; train without"
            " patch dropout."
        )
    size = visual.image_size
    # the type of images: that of a convolution, since --precision bf16 leaves other parameters in
    # fp32
    parameter = next(
        (one for one in visual.parameters() if one.ndim == 4), next(visual.parameters())
    )
    height, width = (size, size) if isinstance(size, int) else size
    training = [module for module in visual.modules() if module.training]  # frozen parts are not
    visual.eval()
    with torch.no_grad():
        found = encode(
            torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
        )
    for module in training:
        module.training = True
    return found


def encode_words(model: nn.Module, tokens: Tensor, pieces: WordPieces) -> tuple[Tensor, Words]:
    """Unit text features (B, D), those of `model.encode_text`, and words from one pass over
    `tokens` (B, L).

    A word is the sum of its pieces, and of its last four layers. Deviation for open_clip's own
    towers, which normalise before a layer, not after it as BERT: their layers go through the
    tower's last norm. UserError: an unknown text tower.
    """
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        attend = (tokens != text.config.pad_token_id).long()
        out = text.transformer(input_ids=tokens, attention_mask=attend, output_hidden_states=True)
        features, layers = text.proj(text.pooler(out, attend)), out.hidden_states[1:][-TEXT_LAYERS:]
    elif isinstance(text, (CLIP, TextTransformer)):
        count = min(TEXT_LAYERS, len(text.transformer.resblocks))
        asked = (
            {"text_indices": count, "normalize": False}
            if isinstance(text, CLIP)
            else {"indices": count, "output_fmt": "NLC"}
        )
        found = text.forward_intermediates(text=tokens, normalize_intermediates=True, **asked)
        features, layers = found["text_features"], found["text_intermediates"]
    else:
        raise UserError(
            f"text tower {_name(text)}: its words are not known; expected open_clip's own or a"
            " Hugging Face tower."
        )
    return F.normalize(features, dim=-1), pieces.join(
        sum(full_precision(layer) for layer in layers), tokens
    )


def word_width(model: nn.Module) -> int:
    """W of `encode_words`. UserError: an unknown text tower."""
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        return getattr(text.config, arch_dict[text.config.model_type]["config_names"]["width"])
    if isinstance(text, (CLIP, TextTransformer)):
        return text.transformer.width
    raise UserError(
        f"text tower {_name(text)}: its words are not known; expected open_clip's own or a Hugging"
        " Face tower."
    )


class WordPieces:
    """Which tokens of a vocabulary make one word.

    Words are the text up to its end token, without start, end and padding, and the token that
    stands for the whole text: [CLS] of BERT, as in GLoRIA, or else the end token, as CLIP's.
    """

    def __init__(
        self, begins: Tensor, ends: Tensor, special: Tensor, stop: int, sentence: int
    ) -> None:
        # (V,) bool: begins a word, ends one, is no text
        self.begins, self.ends, self.special = (
            begins,
            ends,
            special,
        )
        self.stop, self.sentence = stop, sentence  # ids

    @classmethod
    def of(cls, tokenizer: Any) -> WordPieces:
        """Of an open_clip tokenizer. UserError: a vocabulary whose pieces bear none of the known
        marks.
        """
        inner = getattr(tokenizer, "tokenizer", None)
        if inner is not None:  # Hugging Face's
            names = [str(name) for name in inner.convert_ids_to_tokens(list(range(len(inner))))]
            ids = {
                role: getattr(inner, f"{role}_token_id")
                for role in ("bos", "eos", "sep", "cls", "pad")
            }
        elif hasattr(tokenizer, "decoder"):
            names = [tokenizer.decoder[i] for i in range(len(tokenizer.decoder))]
            ids = {
                "bos": tokenizer.sot_token_id,
                "eos": tokenizer.eot_token_id,
                "sep": None,
                "cls": None,
                "pad": None,
            }
        else:
            raise UserError(
                f"tokenizer {type(tokenizer).__name__}: its vocabulary can not be read, so words"
                " can not be told from pieces."
            )

        def marked(mark: str) -> list[bool]:
            return [
                name.endswith(mark) if mark == "</w>" else name.startswith(mark) for name in names
            ]

        # vocabularies also hold a few pieces that look like another's marks
        mark = max(MARKS, key=lambda mark: sum(marked(mark)))
        if not any(marked(mark)):
            raise UserError(
                f"tokenizer {type(tokenizer).__name__}: no piece of its vocabulary bears one of the"
                f" marks {MARKS}, so words can not be told from pieces."
            )
        found = torch.tensor(marked(mark))
        begins = {"##": ~found, "</w>": torch.zeros_like(found)}.get(mark, found)
        special = torch.zeros(len(names), dtype=torch.bool)
        special[[i for i in ids.values() if i is not None]] = True
        stop = ids["sep"] if ids["sep"] is not None else ids["eos"]
        return cls(
            begins,
            found if mark == "</w>" else torch.zeros_like(found),
            special,
            stop,
            ids["cls"] if ids["cls"] is not None else stop,
        )

    def to(self, device: torch.device) -> WordPieces:
        return WordPieces(
            self.begins.to(device),
            self.ends.to(device),
            self.special.to(device),
            self.stop,
            self.sentence,
        )

    def number(self, tokens: Tensor) -> Tensor:
        """The word each token belongs to, (B, L) int64 from 0, or -1; `tokens` (B, L) int64."""
        stops = (tokens == self.stop).cumsum(1)
        before = stops == 0
        text = before & ~self.special[tokens]
        whole = (tokens == self.sentence) & (before | ((stops == 1) & (tokens == self.stop)))
        after_text = F.pad(text[:, :-1], (1, 0))
        cut = F.pad(self.ends[tokens][:, :-1], (1, 0))
        starts = whole | (text & (~after_text | cut | self.begins[tokens]))
        return (starts.cumsum(1) - 1).masked_fill(~(text | whole), -1)

    def join(self, values: Tensor, tokens: Tensor) -> Words:
        """Sum the `values` (B, L, W) of the pieces of each word."""
        word = self.number(tokens)
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= word.amax(1, keepdim=True)
        index = word.clamp(min=0)[..., None].expand_as(values)
        return Words(
            torch.zeros_like(values).scatter_add(1, index, values * (word >= 0)[..., None]), mask
        )


def _name(tower: nn.Module) -> str:
    return type(getattr(tower, "trunk", tower)).__name__
