"""Which sentences of a batch enter a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.map_tensors import join_maps
from ..data.sample import SampleBatch
from ..streams import SENTENCES

# Most sentences of a sample. A dictation has about as many; where few samples are annotated, the
# text tower's extra pass stays about as large as a batch.
MOST = 8


class Sentences(NamedTuple):
    """T sentences, each with the heatmap of the expert's gaze while saying it."""

    row: Tensor  # (T,) int64, the sample of each
    text: Tensor  # (T, L) int64
    heatmap: Tensor  # (T, 1, H, W), of the type of the batch's
    region: Tensor  # (T,) bool: the map is not all zero


def draw_sentences(samples: SampleBatch, seed: int, step: int, empty: bool = False) -> Sentences:
    """The sentences of a batch, at most `MOST` of each sample.

    `empty`: those without a region are among them, whose maps are all zero; else they are left out.
    The draw depends on (seed, step, sample) alone, not on the rank, the batch or any global
    generator.
    """
    rows = samples.sentence_row.numpy()
    region = samples.sentence_heatmap.flatten(1).any(dim=1).bool()  # of uint8 `any` is uint8
    usable = empty | region.numpy()
    chosen: list[int] = []
    for row in np.unique(rows[usable]):
        sentences = np.flatnonzero((rows == row) & usable)
        if len(sentences) > MOST:
            generator = SENTENCES.generator(seed, step, int(samples.sample_id[row]))
            sentences = np.sort(generator.choice(sentences, MOST, replace=False))
        chosen.extend(sentences.tolist())
    index = torch.tensor(chosen, dtype=torch.int64)
    return Sentences(
        samples.sentence_row[index],
        samples.sentence_text[index],
        samples.sentence_heatmap[index],
        region[index],
    )


def join_sentences(
    parts: Sequence[SampleBatch], seed: int, step: int, empty: bool = False
) -> Sentences:
    """`draw_sentences` of several batches; rows are numbered through all of them."""
    drawn, first = [], 0
    for samples in parts:
        sentences = draw_sentences(samples, seed, step, empty)
        drawn.append(sentences._replace(row=sentences.row + first))
        first += len(samples)
    # an empty batch of texts has another length, so it cannot be joined
    filled = [sentences for sentences in drawn if len(sentences.row)] or drawn[:1]
    rows, texts, maps, regions = zip(*filled)
    return Sentences(torch.cat(rows), torch.cat(texts), join_maps(maps), torch.cat(regions))
