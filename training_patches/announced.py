"""What the check announced must arrive: a heatmap exactly for the samples that it found one for."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping

import torch.distributed as dist

from openclip_eclip.config import DataError
from openclip_eclip.data.sample import SampleBatch

logger = logging.getLogger(__name__)


class Announced:
    """The annotated samples that the check found, and how many of them the first pass showed.

    Counted is what the reader delivered: a crop that loses a map, or a gate that rejects it,
    changes nothing. `names`: sample_id -> file and row or key of each; `total`: all good rows of a
    table, of which an epoch drops only the last, partial batch. None for shards: `PassGuard` counts
    there, since an epoch need not be a whole pass of each worker.
    """

    def __init__(self, names: Mapping[int, str], total: int | None, source: str) -> None:
        self.names, self.total, self.source = names, total, source
        self.first = True  # whole epoch of this process
        self.begin_pass()

    def begin_pass(self) -> None:
        """Before an epoch, also one that is continued: its part is no whole pass."""
        self.shown = 0
        self.seen: set[int] = set()

    def see(self, samples: SampleBatch) -> None:
        """DataError for a sample that is annotated otherwise than announced."""
        ids, delivered = samples.sample_id.tolist(), samples.delivered.tolist()
        for sample_id, has_map in zip(ids, delivered):
            if has_map != (sample_id in self.names):
                raise DataError(
                    f"{self.names[sample_id]}: the check found a heatmap, and training read none. "
                    "The data has changed meanwhile: start again."
                    if not has_map
                    else (
                        f"{self.source}: training read a heatmap of a sample for which the check "
                        "found none. The data has changed meanwhile: start again."
                    )
                )
        if self.first:
            self.shown += len(ids)
            self.seen.update(sample_id for sample_id, has_map in zip(ids, delivered) if has_map)

    def end_pass(self, args: argparse.Namespace) -> None:
        """After an epoch, on all ranks.

        DataError where too many announced samples of a table never came.
        """
        if not self.first or not self.names:
            return
        self.first = False
        own = (self.shown, len(self.seen))
        counts = [own] * args.world_size
        if args.world_size > 1:
            dist.all_gather_object(counts, own)
        shown, seen = sum(shown for shown, _ in counts), sum(seen for _, seen in counts)
        if self.total is not None and seen == 0 and len(self.names) > max(0, self.total - shown):
            raise DataError(
                f"{self.source}: the check announced {len(self.names)} annotated samples, and "
                f"none of the {shown} samples of the first epoch was one. If they were skipped as "
                "bad, the log names them."
            )
        if seen < len(self.names):
            logger.info(
                "eclip: the first epoch showed %d of %d annotated samples; the others were not "
                "among its %d samples",
                seen,
                len(self.names),
                shown,
            )
