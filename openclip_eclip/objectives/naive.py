"""The naive baseline (Table 1): annotated samples join every batch, without mixup or curriculum.

See §4.1.
"""

from __future__ import annotations

import dataclasses

from ..config import CurriculumConfig, EClipConfig, ProcessorConfig

FORMS = ("processor", "multiply", "plain")


def naive_config(config: EClipConfig, form: str) -> EClipConfig:
    """eCLIP's settings turned into the naive ones: p_curr = 1 at every step, one fixed lam.

    - processor: the pair is (I^E, t) with lam = 0; priming runs in the cold start, as in the
      authors' code.
    - multiply: the same with I^E = E * I, which needs no priming.
    - plain: the heatmap is ignored and lam = 1, so the samples of the annotated stream are ordinary
      CLIP pairs.
    The paper's description, one sentence, fits all three.
    """
    always = CurriculumConfig(
        cold=config.curriculum.cold, warm=0, cool=0, low=1, high=1, end=1, cold_probability=1
    )
    naive = dataclasses.replace(config, curriculum=always, lam=1.0 if form == "plain" else 0.0)
    if form == "processor":
        return naive
    return dataclasses.replace(naive, processor=ProcessorConfig(kind="mask"), priming_weight=0.0)
