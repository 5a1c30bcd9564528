"""Training must read a heatmap for exactly the samples for which the check found one."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping

import torch.distributed as dist

from openclip_eclip.config import DataError
from openclip_eclip.data.sample import SampleBatch

logger = logging.getLogger(__name__)


class Announced:
    """The annotated samples that the check found, and how many of them the first epoch had.

    It counts heatmaps that the reader delivered, whether or not a crop or the gate drops them
    later. `names`: sample_id -> file and row or key. `total`: all good rows of a table, of which an
    epoch drops only the last, partial batch; None for shards. There `PassGuard` counts, since an
    epoch need not be a whole pass of each worker.
    """

    def __init__(self, names: Mapping[int, str], total: int | None, source: str) -> None:
        self.names, self.total, self.source = names, total, source
        self.first = True  # whole epoch of this process
        self.begin_pass()

    def begin_pass(self) -> None:
        """Call it before an epoch, also before a resumed one, which is not a whole pass."""
        self.shown = 0
        self.seen: set[int] = set()

    def see(self, samples: SampleBatch) -> None:
        """DataError for a sample that is annotated and was not in the check, or the reverse."""
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
        """Call it after an epoch, on all ranks.

        DataError if no announced sample of a table came, although some of them must have come.
        """
        if not self.first or not self.names:
            return
        self.first = False
        local = (self.shown, len(self.seen))
        counts = [local] * args.world_size
        if args.world_size > 1:
            dist.all_gather_object(counts, local)
        shown, seen = sum(shown for shown, _ in counts), sum(seen for _, seen in counts)
        if self.total is not None and seen == 0 and len(self.names) > max(0, self.total - shown):
            raise DataError(
                f"{self.source}: the check announced {len(self.names)} annotated samples, and "
                f"none of the {shown} samples of the first epoch was annotated. If they were "
                "skipped as bad, the log names them."
            )
        if seen < len(self.names):
            left_out = max(0, (self.total or 0) - shown)
            logger.info(
                "eclip: the first epoch had %d of %d annotated samples; the others were not "
                "among its %d samples%s",
                seen,
                len(self.names),
                shown,
                f". Each epoch leaves out {left_out} others of {self.total}, which do not fill a"
                " batch; with a smaller --batch-size they are fewer"
                if left_out
                else "",
            )
