"""Which sentences of a batch a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.sample import SampleBatch
from ..streams import SENTENCES

# of a sample: a dictation has about as many, and the text tower's extra pass stays near one batch
# where few are annotated
MOST = 8


class Sentences(NamedTuple):
    """T sentences, each with the map of where the expert looked while saying it."""

    row: Tensor  # (T,) int64, the sample of each
    text: Tensor  # (T, L) int64
    heatmap: Tensor  # (T, 1, H, W)


def draw_sentences(samples: SampleBatch, seed: int, step: int) -> Sentences:
    """The sentences of a batch, of no sample more than `MOST`.

    The draw depends on (seed, step, sample) alone, as the gate's: not on the rank, the batch or any
    global generator.
    """
    rows = samples.sentence_row.numpy()
    kept: list[int] = []
    for row in np.unique(rows):
        own = np.flatnonzero(rows == row)
        if len(own) > MOST:
            generator = SENTENCES.generator(seed, step, int(samples.sample_id[row]))
            own = np.sort(generator.choice(own, MOST, replace=False))
        kept.extend(own.tolist())
    index = torch.tensor(kept, dtype=torch.int64)
    return Sentences(
        samples.sentence_row[index], samples.sentence_text[index], samples.sentence_heatmap[index]
    )


def join_sentences(parts: Sequence[SampleBatch], seed: int, step: int) -> Sentences:
    """`draw_sentences` of batches that stand one behind the other: rows go on counting."""
    drawn, first = [], 0
    for samples in parts:
        found = draw_sentences(samples, seed, step)
        drawn.append(found._replace(row=found.row + first))
        first += len(samples)
    # an empty one has no sides of its own to join
    filled = [sentences for sentences in drawn if len(sentences.row)] or drawn[:1]
    return Sentences(*(torch.cat(values) for values in zip(*filled)))
