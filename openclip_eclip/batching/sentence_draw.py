"""Which sentences of a batch a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# of a sample: a dictation has about as many, and the text tower's extra pass stays near one batch
# where few are annotated
MOST = 8
_STREAM = 1  # of random numbers, apart from the gate's


def draw_sentences(fields: dict[str, Any], seed: int, step: int) -> dict[str, Tensor]:
    """The entries sentence_* of a `collate`d batch, of no sample more than `MOST`.

    The draw depends on (seed, step, sample) alone, as the gate's: not on the rank, the batch or any
    global generator.
    """
    rows, kept = fields["sentence_row"].numpy(), []
    for row in np.unique(rows):
        own = np.flatnonzero(rows == row)
        if len(own) > MOST:
            sequence = np.random.SeedSequence(
                [seed, step, int(fields["sample_id"][row])], spawn_key=(_STREAM,)
            )
            own = np.sort(np.random.default_rng(sequence).choice(own, MOST, replace=False))
        kept.extend(own.tolist())
    return {
        name: fields[name][torch.tensor(kept, dtype=torch.int64)]
        for name in ("sentence_row", "sentence_text", "sentence_heatmap")
    }


def join_sentences(parts: Sequence[dict[str, Any]], seed: int, step: int) -> dict[str, Tensor]:
    """`draw_sentences` of batches that stand one behind the other: rows go on counting."""
    drawn, first = [], 0
    for fields in parts:
        drawn.append(draw_sentences(fields, seed, step))
        drawn[-1]["sentence_row"] += first
        first += len(fields["sample_id"])
    # an empty one has no width of its own
    told = [one for one in drawn if len(one["sentence_row"])] or drawn[:1]
    return {name: torch.cat([one[name] for one in told]) for name in drawn[0]}
