"""Extracts the report from the answer of a language model."""

from __future__ import annotations

import re

SPECIAL = re.compile(
    r"<\|[^<>|]{1,40}\|>|</?s>|<(?:unk|pad|bos|eos)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)
# of reasoning models; an open <think> means that the answer was cut before any report
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
    """The text in one line, without the tokens that a chat template reads as the end of a turn."""
    return " ".join(SPECIAL.sub(" ", text).split())


def clean_text(raw: str) -> str:
    """The report in one line.

    Removes special tokens, role tags, a heading such as "Findings:", surrounding quotes, and all
    further turns of the chat.
    """
    text = _THOUGHT.sub(" ", raw).strip()
    while True:
        shorter = _unquote(text)
        for pattern in (_ROLE, _HEADING):
            match = pattern.match(shorter)
            shorter = shorter[match.end() :].strip() if match else shorter
        shorter = _NEXT_TURN.split(shorter, maxsplit=1)[0].strip()
        if shorter == text:
            return " ".join(text.split())
        text = shorter


def _unquote(text: str) -> str:
    """Removes quotes around the whole text, or an opening quote whose closing one was cut off."""
    closing = _QUOTES.get(text[:1])
    if closing is None:
        return text
    inner = text[1:-1] if len(text) > 1 and text.endswith(closing) else text[1:]
    whole = closing not in inner  # otherwise several quotations: '"Clear" and "dry"'
    return inner.strip() if whole else text
