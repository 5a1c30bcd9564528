"""Before training: how many captions and sentences are too long for the text tower.

It also warns where all captions are the same.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from open_clip_train.distributed import is_master
from torch import Tensor

from openclip_eclip.config import DataError
from openclip_eclip.data.caption_words import MANY, all_the_same
from openclip_eclip.data.sample import seeded_randomness
from openclip_eclip.data.sentence_windows import TEXT_MEMBER, decode_sentences, file_windows
from openclip_eclip.data.shards.tar_source import TarEntry, TarSamples, entries_before_damage
from openclip_eclip.data.tables.csv_source import CsvSamples
from openclip_eclip.streams import CAPTION_COUNTS

from .shard_flags import shard_files

logger = logging.getLogger(__name__)

SAMPLE = 2000  # most captions to read, evenly spaced: the share is then known to 1 %
SHARDS = 4  # most shards to read captions from
BATCH = 256  # texts to tokenize at a time


def announce_lengths(
    args: argparse.Namespace, flag: str, source: Any, tokenizer: Callable, windows: bool
) -> None:
    """Log, on the first rank, how many captions are cut; a warning where they are many.

    `source`: `CsvSamples` or `TarSamples`; for anything else the shards of `flag` are read.
    `windows`: sentences are counted too. Nothing is drawn from the random streams.
    """
    if not is_master(args) or args.dataset_type == "synthetic":
        return
    texts_of = _texts(args, flag, source, windows)
    if texts_of is None:
        logger.info(
            "eclip: %s is not on this machine: captions that are too long are not counted", flag
        )
        return
    # the check of a table has already warned of it
    same = None if isinstance(source, CsvSamples) else all_the_same(texts_of[0][0])
    if same:
        logger.warning("eclip: %s: %s", flag, same)
    with seeded_randomness(CAPTION_COUNTS.sequence(args.seed)), _one_thread():
        for what, (texts, total) in zip(("captions", "sentences"), texts_of):
            if texts:
                _announce(
                    flag,
                    what,
                    count_cut(tokenizer, texts),
                    len(texts),
                    total,
                    tokenizer([""]).shape[1],
                )


def count_cut(tokenizer: Callable[..., Tensor], texts: Sequence[str]) -> int:
    """The number of `texts` that do not fit into the context: a longer context changes them."""
    context = tokenizer([""]).shape[1]
    padding = tokenizer([""], context_length=context + 1)[0, -1]
    # a token has at least one byte, so a short ASCII text always fits
    long = [text for text in texts if not (text.isascii() and len(text) <= context - 2)]
    cut = 0
    for first in range(0, len(long), BATCH):
        part = long[first : first + BATCH]
        roomy = tokenizer(part, context_length=context + 1)
        changed = (tokenizer(part) != roomy[:, :context]).any(dim=1)
        cut += int((changed | (roomy[:, context] != padding)).sum())
    return cut


def _announce(flag: str, what: str, cut: int, count: int, total: int, context: int) -> None:
    share = f"{cut} of {count}" if count == total else f"{cut} of {count} checked, out of {total}"
    log = logger.warning if cut > MANY * count else logger.info
    end = (
        ": the rest of them is cut off and not trained on; give a larger --force-context-length "
        "or shorten them"
        if cut
        else ""
    )
    log(
        "eclip: %s: %s %s (%.3g %%) are longer than the context length of %d tokens%s",
        flag,
        share,
        what,
        100 * cut / count,
        context,
        end,
    )


def _texts(
    args: argparse.Namespace, flag: str, source: Any, windows: bool
) -> list[tuple[list[str], int]] | None:
    """[(captions, their total), (sentences, their total)], evenly spaced; None: remote data."""
    if isinstance(source, CsvSamples):
        table = source.table
        named = [path for path in table.windows if path] if windows else []
        spoken = [
            _sentences(file_windows(path, source.options)[0], path.name) for path in _spaced(named)
        ]
        return [(_spaced(table.captions), len(table)), _scaled(spoken, len(named))]
    if isinstance(source, TarSamples):
        return _of_entries(source.entries, len(source.entries), windows)
    path = getattr(args, flag.removeprefix("--").replace("-", "_"))
    shards = shard_files(path) if path else None
    if not shards:
        return None
    chosen = _spaced(shards, SHARDS)
    entries = [entry for shard in chosen for entry in entries_before_damage(shard)]
    return _of_entries(entries, round(len(entries) * len(shards) / len(chosen)), windows)


def _of_entries(
    entries: Sequence[TarEntry], total: int, windows: bool
) -> list[tuple[list[str], int]]:
    readable = [entry for entry in entries if "txt" in entry.members]
    with_text = [entry for entry in readable if TEXT_MEMBER in entry.members] if windows else []
    texts = [
        entry.read("txt")["txt"].decode("utf-8", errors="replace") for entry in _spaced(readable)
    ]
    spoken = [
        _sentences(entry.read(TEXT_MEMBER)[TEXT_MEMBER], entry.key) for entry in _spaced(with_text)
    ]
    return [(texts, total), _scaled(spoken, round(len(with_text) * total / max(len(readable), 1)))]


def _sentences(text: bytes, name: str) -> list[str]:
    """The sentences, or [] where they cannot be read: the check has named such samples."""
    try:
        return decode_sentences(text, name)[0]
    except DataError:
        return []


def _scaled(spoken: list[list[str]], samples: int) -> tuple[list[str], int]:
    flat = [sentence for sentences in spoken for sentence in sentences]
    return flat, round(len(flat) * samples / max(len(spoken), 1))


def _spaced(items: Sequence[Any], most: int | None = None) -> list[Any]:
    most = most or SAMPLE
    return (
        [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tokenize without threads: Hugging Face's tokenizers warn in each worker forked after them."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
