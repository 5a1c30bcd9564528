"""Lower bounds of caption lengths in tokens, without a tokenizer: `data.check` knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..json_text import beginning

# Each match becomes one token or more in every tokenizer of open_clip
PIECE = re.compile(r"[^\W\d_]+|\d+|[^\w\s]+|_+")
ENDS = 2  # tokens for the beginning and the end
CONTEXTS = {77: "most models, ViT-B-16 among them", 256: "the recipes and eclip models"}
MANY = 0.02  # share of captions above which there is a warning


def fewest_tokens(text: str) -> int:
    """A lower bound of the tokens of `text`: its words, numbers and signs, and the two ends.

    The true number is higher: medical words become several tokens each.
    """
    return ENDS + sum(1 for _ in PIECE.finditer(text))


def all_the_same(captions: Sequence[str]) -> str | None:
    """A warning if every image has the same caption, else None."""
    if len(captions) < 2 or any(caption != captions[0] for caption in captions):
        return None
    text = captions[0].strip()
    shown = beginning(text, 40)
    return (
        f"all {len(captions)} captions are {shown!r}: they do not distinguish the images, so "
        "nothing can be learned from them; is this the intended column?"
    )


def describe_lengths(
    what: str, lengths: Sequence[int], contexts: Sequence[int]
) -> tuple[str, list[str]]:
    """Describe the lengths of all captions or sentences.

    Returns a line with the number that is certainly cut at each context length, and warnings.
    """
    over = {context: sum(length > context for length in lengths) for context in contexts}
    cuts = "".join(
        f"; at least {count} exceed a context length of {context}"
        for context, count in over.items()
        if count
    )
    line = f"{what}: {len(lengths)}, the longest has at least {max(lengths)} tokens{cuts}"
    warnings = []
    for context, count in over.items():
        if count > MANY * len(lengths):
            used = f" ({CONTEXTS[context]})" if context in CONTEXTS else ""
            warnings.append(
                f"at least {count} of {len(lengths)} {what} ({count / len(lengths):.1%}) lose "
                f"their end at a context length of {context}{used}; train with a larger "
                "--force-context-length, or shorten them"
            )
    return line, warnings
