"""Regions of an image and words of a report, from the pass that gives the global features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UserError
from .host import HostModel, ImageTower
from .positions import Tokens, encode_tokens, full_precision

IMAGE_STAGES = 2  # the finer of the last two stages holds the regions
TEXT_LAYERS = 4  # the sum of the last four layers holds the words (GLoRIA)
# Marks of word pieces. "##" continues a word (WordPiece), "▁" and "Ġ" begin a word, "</w>" ends a
# word (CLIP's BPE).
MARKS = ("##", "▁", "Ġ", "</w>")


class Words(NamedTuple):
    """Words of B texts, before any padding.

    `values` (B, L, W), zero after the last word; `mask` (B, L) bool, true for words.
    """

    values: Tensor
    mask: Tensor


def encode_regions(model: HostModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Unit image features (B, D) and regions (B, P, C), from one pass over (B, 3, H, W).

    The features are those of `model.encode_image`. UserError for a tower without a spatial map.
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
    """(B, P, C): the finer of the tower's last two stages, without class tokens.

    GLoRIA takes the last but one of a ResNet. Where both are equal (a plain ViT), the last one is
    taken.
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


def region_width(model: HostModel) -> int:
    """C of `encode_regions`, by encoding an empty image.

    UserError for a tower without a spatial map, or one that drops patches.
    """
    return on_empty_image(model.visual, lambda image: encode_regions(model, image)[1]).shape[-1]


def on_empty_image(visual: nn.Module, encode: Callable[[Tensor], Any]) -> Any:
    """`encode` of an empty image (1, 3, H, W); `visual` is left unchanged.

    UserError for a tower that drops patches.
    """
    # open_clip and timm both have a class of that name
    shares = [
        cast(float, module.prob)
        for module in visual.modules()
        if type(module).__name__.startswith("PatchDropout")
    ]
    dropped = [share for share in shares if share > 0]
    if dropped:
        raise UserError(
            f"image tower {_name(visual)} drops patches (--force-patch-dropout"
            f" {dropped[0]:g}): no whole map is left to compare with; train without"
            " patch dropout."
        )
    training = [module for module in visual.modules() if module.training]  # not the frozen parts
    visual.eval()
    image = empty_image(visual)
    with torch.no_grad():
        result = encode(image)
    for module in training:
        module.training = True
    return result


def empty_image(visual: nn.Module) -> Tensor:
    """An image (1, 3, H, W) of zeros, as the tower takes it."""
    size = cast(ImageTower, visual).image_size
    # images have the type of a convolution's weight, since --precision bf16 leaves other parameters
    # in fp32
    parameter = next((p for p in visual.parameters() if p.ndim == 4), next(visual.parameters()))
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)


def encode_words(model: HostModel, tokens: Tensor, pieces: WordPieces) -> tuple[Tensor, Words]:
    """Unit text features (B, D) and words, from one pass over `tokens` (B, L) int64.

    The features are those of `model.encode_text`. A word is the sum of its pieces, and of its last
    four layers. Deviation for open_clip's own towers: they normalise before a layer and not after
    it, as BERT does, so their layers go through the tower's last norm. UserError for an unknown
    text tower.
    """
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        attention_mask = (tokens != text.config.pad_token_id).long()
        out = text.transformer(
            input_ids=tokens, attention_mask=attention_mask, output_hidden_states=True
        )
        features = text.proj(text.pooler(out, attention_mask))
        layers = out.hidden_states[1:][-TEXT_LAYERS:]
    elif isinstance(text, (CLIP, TextTransformer)):
        count = min(TEXT_LAYERS, len(text.transformer.resblocks))
        options = (
            {"text_indices": count, "normalize": False}
            if isinstance(text, CLIP)
            else {"indices": count, "output_fmt": "NLC"}
        )
        out = text.forward_intermediates(text=tokens, normalize_intermediates=True, **options)
        features, layers = out["text_features"], out["text_intermediates"]
    else:
        raise UserError(
            f"text tower {_name(text)}: its encoding of words is unknown; expected open_clip's own"
            " or a Hugging Face tower."
        )
    total = cast(Tensor, sum(full_precision(layer) for layer in layers))  # (B, L, W)
    return F.normalize(features, dim=-1), pieces.join(total, tokens)


def word_width(model: HostModel) -> int:
    """W of `encode_words`. UserError for an unknown text tower."""
    text = getattr(model, "text", model)
    if isinstance(text, HFTextEncoder):
        return getattr(text.config, arch_dict[text.config.model_type]["config_names"]["width"])
    if isinstance(text, (CLIP, TextTransformer)):
        return text.transformer.width
    raise UserError(
        f"text tower {_name(text)}: its encoding of words is unknown; expected open_clip's own or a"
        " Hugging Face tower."
    )


class WordPieces:
    """Which tokens of a vocabulary form a word.

    Words are the text up to its end token, without start, end and padding, and the token of the
    whole text. That is [CLS] of BERT, as in GLoRIA, or else the end token, as in CLIP.
    """

    def __init__(
        self, begins: Tensor, ends: Tensor, special: Tensor, stop: int, sentence: int
    ) -> None:
        # (V,) bool each: the token begins a word, ends a word, is not text
        self.begins, self.ends, self.special = begins, ends, special
        self.stop, self.sentence = stop, sentence  # ids of the end token, and of the whole text

    @classmethod
    def of(cls, tokenizer: Any) -> WordPieces:
        """The word pieces of an open_clip tokenizer.

        UserError for a vocabulary without any of the known marks.
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
                f"tokenizer {type(tokenizer).__name__}: its vocabulary cannot be read, so words"
                " cannot be distinguished from pieces."
            )

        def marked(mark: str) -> list[bool]:
            return [
                name.endswith(mark) if mark == "</w>" else name.startswith(mark) for name in names
            ]

        # the most frequent mark: a vocabulary also holds a few pieces that resemble other marks
        mark = max(MARKS, key=lambda mark: sum(marked(mark)))
        if not any(marked(mark)):
            raise UserError(
                f"tokenizer {type(tokenizer).__name__}: no piece of its vocabulary has one of the"
                f" marks {MARKS}, so words cannot be distinguished from pieces."
            )
        has_mark = torch.tensor(marked(mark))  # (V,)
        begins = {"##": ~has_mark, "</w>": torch.zeros_like(has_mark)}.get(mark, has_mark)
        special = torch.zeros(len(names), dtype=torch.bool)
        special[[i for i in ids.values() if i is not None]] = True
        stop = ids["sep"] if ids["sep"] is not None else ids["eos"]
        return cls(
            begins,
            has_mark if mark == "</w>" else torch.zeros_like(has_mark),
            special,
            stop,
            ids["cls"] if ids["cls"] is not None else stop,
        )

    def to(self, device: torch.device) -> WordPieces:
        return WordPieces(
            self.begins.to(device, non_blocking=True),
            self.ends.to(device, non_blocking=True),
            self.special.to(device, non_blocking=True),
            self.stop,
            self.sentence,
        )

    def number(self, tokens: Tensor) -> Tensor:
        """The word of each token, (B, L) int64 from 0, -1 for none; `tokens` (B, L) int64."""
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


def _name(tower: object) -> str:
    return type(getattr(tower, "trunk", tower)).__name__
