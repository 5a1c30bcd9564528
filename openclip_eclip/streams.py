"""Every random stream of training, by name.

A stream is a function of the run's seed and a key, such as (step, sample), never of the rank, the
worker or a global generator: all ranks and a resumed run draw the same numbers. Phantoms have their
own streams (`phantom/`), evaluation has seeds of its own.

Streams of torch and open_clip are not here: the order of a table's rows, the seeds of torch's data
workers and the initial weights come from the global generators, which open_clip seeds by
--seed + rank.

A new purpose takes a spawn key that no other one has. Streams without a spawn key are older than
this file; some of them share numbers (`SHARED`), and keep them, since a run is to stay repeatable.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """Random numbers of one purpose.

    `key` names what they depend on beside the seed; of these, `spawned` stand behind the spawn key.
    numpy fills short keys with zeros: (seed, 5) and (seed, 5, 0) are one stream. A sample's id is
    never 0.
    """

    key: tuple[str, ...] = ()
    spawn: int | None = None
    spawned: tuple[str, ...] = ()
    # the first word seeds other generators (Python's, numpy's global one, torch's)
    seeds_others: bool = False

    def sequence(self, seed: int, *key: int) -> np.random.SeedSequence:
        """`key`: a number for each name of `key`, then for each of `spawned`."""
        own, spawned = key[: len(self.key)], key[len(self.key) :]
        if (len(own), len(spawned)) != (len(self.key), len(self.spawned)):
            raise ValueError(f"key {key}; expected numbers for {(*self.key, *self.spawned)}.")
        spawn = () if self.spawn is None else (self.spawn, *spawned)
        return np.random.SeedSequence([seed, *own], spawn_key=spawn)

    def generator(self, seed: int, *key: int) -> np.random.Generator:
        """numpy's generator of this stream."""
        return np.random.default_rng(self.sequence(seed, *key))

    def number(self, seed: int, *key: int) -> int:
        """The first word, below 2**32, for a stream that seeds other generators."""
        return int(self.sequence(seed, *key).generate_state(1)[0])


# ---- which pairs a step has

GATE = Stream(("step", "sample"))  # of mixed pairs: whether, and lam
# of the samples of --expert-data, and of those shown once more, which number their slots apart
EXPERT_ORDER = Stream(("lap",))
EXPERT_CROP = Stream(("slot",), seeds_others=True)
SENTENCES = Stream(("step", "sample"), spawn=1)  # which of many a step takes

# ---- placebo heatmaps

PLACEBO = Stream(("sample",))  # noise, and phases
DONORS = Stream(("samples of a class",))  # whose map each sample gets

# ---- objectives

DACL_PARTNERS = Stream(("step",), spawn=1)
DACL_KIND = Stream(("step",), spawn=2)
# lam, and numbers that seed torch's generators of binary masks
DACL_WEIGHTS = Stream(("step",), spawn=3, spawned=("sample",))
M3_MIX = Stream(("step",), spawn=4)

# ---- data workers and figures

# of shards: which are drawn with --dataset-resampled, the sample shuffle, the augmentation
WORKER = Stream(("rank", "worker"), seeds_others=True)
FIGURES = Stream(seeds_others=True)  # crops of the samples that are drawn
CAPTION_COUNTS = Stream(seeds_others=True)  # what a tokenizer draws while captions are counted

STREAMS = {name: value for name, value in list(globals().items()) if isinstance(value, Stream)}

# Pairs of purposes that share a stream where their keys are equal. Nothing is compared across such
# a pair: an order of samples and noise in a map, the crop of one sample and that of another.
SHARED = frozenset(
    frozenset(pair)
    for pair in (
        # (seed, n)
        ("EXPERT_ORDER", "PLACEBO"),
        ("EXPERT_ORDER", "DONORS"),
        ("PLACEBO", "DONORS"),
        # (seed), with or without zeros behind: slot 0, worker 0 of rank 0, figures, counts
        ("EXPERT_CROP", "WORKER"),
        ("EXPERT_CROP", "FIGURES"),
        ("EXPERT_CROP", "CAPTION_COUNTS"),
        ("WORKER", "FIGURES"),
        ("WORKER", "CAPTION_COUNTS"),
        ("FIGURES", "CAPTION_COUNTS"),
    )
)


def worker_seed(seed: int, rank: int, worker: int, epoch: int) -> int:
    """Of a data worker of shards in one epoch."""
    return WORKER.number(seed, rank, worker) + epoch


def shard_order(seed: int, epoch: int) -> random.Random:
    """open_clip's own generator of the order of shards, to know an epoch's before it comes."""
    return random.Random(seed + epoch)
