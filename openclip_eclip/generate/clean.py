"""From what a language model said to the report in it."""

from __future__ import annotations

import re

SPECIAL = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?s>|<(?:unk|pad|bos|eos)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)
# of reasoning models; cut short, it never reached a report
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_ROLE = re.compile(
    rf"(?:{SPECIAL.pattern})\s*(?:assistant|model)\b\s*:?|assistant\s*:|{SPECIAL.pattern}",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"[#*_\s]*(?:radiology |chest radiograph |generated )?(?:findings|report)(?:"
    r" section)?(?:[*_\s]*:[*_]*|[*_]{2})",
    re.IGNORECASE,
)
_NEXT_TURN = re.compile(rf"{SPECIAL.pattern}|\n\s*(?:user|assistant|system)\s*:", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


def remove_special_tokens(text: str) -> str:
    """Text from elsewhere without what a chat template would read as the end of a turn, in one
    line.
    """
    return " ".join(SPECIAL.sub(" ", text).split())


def clean_text(raw: str) -> str:
    """The report in one line: no special tokens, role tags, "Findings:", surrounding quotes, nor a
    further turn of the chat.
    """
    text = _THOUGHT.sub(" ", raw).strip()
    while True:
        shorter = _unquote(text)
        for pattern in (_ROLE, _HEADING):
            found = pattern.match(shorter)
            shorter = shorter[found.end() :].strip() if found else shorter
        shorter = _NEXT_TURN.split(shorter, maxsplit=1)[0].strip()
        if shorter == text:
            return " ".join(text.split())
        text = shorter


def _unquote(text: str) -> str:
    """Without quotes around the whole, or an opening one whose closing was cut off."""
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    inner = text[1:-1] if len(text) > 1 and text.endswith(closing) else text[1:]
    whole = closing not in inner  # else there are several quotations: '"Clear" and "dry"'
    return inner.strip() if whole else text
