"""Every random stream of training, by name.

A stream is a function of the run's seed and a key, such as (step, sample). It does not depend on
the rank, the worker or a global generator, so all ranks and a resumed run draw the same numbers.
Phantoms (`phantom/`) and evaluation have other streams.

Streams of torch and open_clip are not listed. The order of a table's rows, the seeds of torch's
data workers and the initial weights come from global generators, which open_clip seeds with
--seed + rank.

A new purpose takes a spawn key that no other purpose has. Streams without a spawn key are older
than this file. Some of them share numbers (`SHARED`), which do not change: a run must stay
repeatable.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """Random numbers of one purpose.

    `key` names what they depend on beside the seed; the names in `spawned` follow the spawn key.
    numpy fills short keys with zeros: (seed, 5) and (seed, 5, 0) are the same stream. A sample's id
    is never 0.
    """

    key: tuple[str, ...] = ()
    spawn: int | None = None
    spawned: tuple[str, ...] = ()
    # the first word seeds other generators (Python's, numpy's global one, torch's)
    seeds_others: bool = False

    def sequence(self, seed: int, *key: int) -> np.random.SeedSequence:
        """The seed sequence; `key`: a number for each name in `key`, then in `spawned`."""
        main, spawned = key[: len(self.key)], key[len(self.key) :]
        if (len(main), len(spawned)) != (len(self.key), len(self.spawned)):
            raise ValueError(f"key {key}; expected numbers for {(*self.key, *self.spawned)}.")
        spawn = () if self.spawn is None else (self.spawn, *spawned)
        return np.random.SeedSequence([seed, *main], spawn_key=spawn)

    def generator(self, seed: int, *key: int) -> np.random.Generator:
        """numpy's generator of this stream."""
        return np.random.default_rng(self.sequence(seed, *key))

    def number(self, seed: int, *key: int) -> int:
        """The first word, below 2**32, for a stream that seeds other generators."""
        return int(self.sequence(seed, *key).generate_state(1)[0])


# ---- the pairs of a step

GATE = Stream(("step", "sample"))  # of mixed pairs: whether a sample is mixed, and lam
# order of --expert-data, and of oversampled samples, whose slots are numbered separately
EXPERT_ORDER = Stream(("lap",))
EXPERT_CROP = Stream(("slot",), seeds_others=True)
SENTENCES = Stream(("step", "sample"), spawn=1)  # which of many sentences enter a step

# ---- placebo heatmaps

PLACEBO = Stream(("sample",))  # noise, and phases
DONORS = Stream(("samples of a class",))  # the sample whose map each sample gets

# ---- objectives

DACL_PARTNERS = Stream(("step",), spawn=1)
DACL_KIND = Stream(("step",), spawn=2)
# lam, and numbers that seed torch's generators of binary masks
DACL_WEIGHTS = Stream(("step",), spawn=3, spawned=("sample",))
M3_MIX = Stream(("step",), spawn=4)

# ---- data workers and figures

# of shards: the draw of shards with --dataset-resampled, the sample shuffle, the augmentation
WORKER = Stream(("rank", "worker"), seeds_others=True)
FIGURES = Stream(seeds_others=True)  # crops of the samples in figures
CAPTION_COUNTS = Stream(seeds_others=True)  # draws of a tokenizer while captions are counted

STREAMS = {name: value for name, value in list(globals().items()) if isinstance(value, Stream)}

# Pairs of purposes that share a stream where their keys are equal. It does no harm: no result
# compares the two, such as an order of samples with noise in a map.
SHARED = frozenset(
    frozenset(pair)
    for pair in (
        # (seed, n)
        ("EXPERT_ORDER", "PLACEBO"),
        ("EXPERT_ORDER", "DONORS"),
        ("PLACEBO", "DONORS"),
        # (seed), perhaps followed by zeros: slot 0, worker 0 of rank 0, figures, counts
        ("EXPERT_CROP", "WORKER"),
        ("EXPERT_CROP", "FIGURES"),
        ("EXPERT_CROP", "CAPTION_COUNTS"),
        ("WORKER", "FIGURES"),
        ("WORKER", "CAPTION_COUNTS"),
        ("FIGURES", "CAPTION_COUNTS"),
    )
)


def worker_seed(seed: int, rank: int, worker: int, epoch: int) -> int:
    """The seed of a data worker of shards in an epoch."""
    return WORKER.number(seed, rank, worker) + epoch


def shard_order(seed: int, epoch: int) -> random.Random:
    """open_clip's generator of the order of shards, to know an epoch's order in advance."""
    return random.Random(seed + epoch)
