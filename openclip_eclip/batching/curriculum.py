"""When annotated samples are mixed: p_curr as a function of the step, and the gate's draws.

Alg. 1, l. 6-9; §3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..config import CurriculumConfig
from ..streams import EXPERT_ORDER, GATE


class Curriculum:
    """p_curr over `total_steps` optimiser steps.

    Phases are half-open: `[cold | warm-up | cool-down | hold)`.
    """

    def __init__(self, total_steps: int, config: CurriculumConfig) -> None:
        if total_steps < 1:
            raise ValueError(
                f"curriculum over {total_steps} steps; expected at least 1: is the training set"
                " empty?"
            )
        self.config = config
        self.cold_end = round(config.cold * total_steps)
        self.warm_end = round((config.cold + config.warm) * total_steps)
        self.cool_end = round((config.cold + config.warm + config.cool) * total_steps)

    def probability(self, step: int) -> float:
        """p_curr at `step` (Alg. 1 l. 7; §3.2).

        It is `cold_probability` (0) in the cold start, then 0.05 -> 0.5 -> 0.1. The paper does not
        define the last 20 %; we keep the end value (method.md §2).
        """
        c = self.config
        if step < self.cold_end:
            return c.cold_probability
        if step < self.warm_end:
            return c.low + (c.high - c.low) * (step - self.cold_end) / (
                self.warm_end - self.cold_end
            )
        if step < self.cool_end:
            return c.high + (c.end - c.high) * (step - self.warm_end) / (
                self.cool_end - self.warm_end
            )
        return c.end

    def is_priming(self, step: int) -> bool:
        """Whether `step` is in the priming phase, which is the cold start (§3.2)."""
        return step < self.cold_end


class GateDraws(NamedTuple):
    """The gate's draws for N candidates: `accepted` (N,) bool, `lam` (N,) float32."""

    accepted: np.ndarray
    lam: np.ndarray


def draw_gate(
    seed: int,
    step: int,
    keys: Sequence[int],
    probability: float,
    alpha: float,
    fixed_lam: float | None = None,
) -> GateDraws:
    """Gate u < p_curr and lam ~ Beta(alpha, alpha), or `fixed_lam`, by sample (Alg. 1, l. 6-9).

    `keys` (N,) identify the candidates. The draws depend on (seed, step, key) alone: not on the
    rank, the worker, the order inside the batch or any global generator. So both passes of gradient
    accumulation, every rank and a resumed run see the same values. The authors' code draws one gate
    and one lam for a whole step; we follow Alg. 1.
    """
    accepted = np.empty(len(keys), dtype=bool)
    lam = np.empty(len(keys), dtype=np.float32)
    for i, key in enumerate(keys):
        generator = GATE.generator(seed, step, int(key))
        accepted[i] = generator.random() < probability
        lam[i] = generator.beta(alpha, alpha) if fixed_lam is None else fixed_lam
    return GateDraws(accepted, lam)


def expert_slots(seed: int, first: int, count: int, size: int) -> np.ndarray:
    """Which of `size` samples fill the slots `first .. first + count - 1`, (count,) int64.

    The separate stream is an endless sequence of seeded permutations, so each sample comes equally
    often. It is a function of the slot number: the same on resume, and for any number of ranks.
    """
    chosen = np.empty(count, dtype=np.int64)
    for i, slot in enumerate(range(first, first + count)):
        lap, position = divmod(slot, size)
        if i == 0 or position == 0:
            order = _order(seed, lap, size)
        chosen[i] = order[position]
    return chosen


# Many batches lie within one lap over a large set, and a batch may reach into the next lap; there
# are two streams at most
@lru_cache(maxsize=4)
def _order(seed: int, lap: int, size: int) -> np.ndarray:
    return EXPERT_ORDER.generator(seed, lap).permutation(size)
