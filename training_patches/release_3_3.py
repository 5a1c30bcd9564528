"""The patches of open_clip_train 3.3: names in its modules are replaced during a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import open_clip_train.main as host
import open_clip_train.scheduler as host_scheduler
import timm.optim
import torch

from .fast import optimiser_options
from .layer_decay import assign_learning_rate, with_layer_decay
from .shared_patches import CpuDistributedDataParallel, SharedPatches, applied, has_idle_parameters

# tested signatures of the patched names; another signature means another open_clip
SIGNATURES = {
    "parse_args": "(args)",
    "create_loss": "(args)",
    "get_data": "(args, preprocess_fns, epoch=0, tokenizer=None)",
    "train_one_epoch": (
        "(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer=None)"
    ),
    "evaluate": "(model, data, epoch, args, tb_writer=None, tokenizer=None)",
    "get_latest_checkpoint": "(path: str, remote: bool)",
    "pt_load": "(file_path, map_location=None)",
}


class ExpertDistributedDataParallel(CpuDistributedDataParallel):
    """DDP for a model whose processor takes part only in some steps and ranks."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(
            module, device_ids, find_unused_parameters=has_idle_parameters(module), **kwargs
        )


class Patches(SharedPatches):
    """The replacements of all patched names."""

    RELEASE = "3.3"
    SIGNATURES = SIGNATURES

    def adamw(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        kwargs |= optimiser_options(self.session.args)
        optimizer = self.originals["optim"].AdamW(*args, **kwargs)
        return with_layer_decay(optimizer, self.session.args, self.built)

    def create_optimizer_v2(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = self.originals["create_optimizer_v2"](*args, **kwargs)
        return with_layer_decay(optimizer, self.session.args, self.built)

    def create_loss(self, args: argparse.Namespace) -> torch.nn.Module:
        self.before_loop()
        is_plain = self.session.method.is_plain
        return self.finite.watch(
            self.originals["create_loss"](args) if is_plain else self.expert_loss()
        )

    def train_one_epoch(
        self, model: Any, data: Any, loss: Any, epoch: int, *rest: Any, tb_writer: Any = None
    ) -> None:
        optimizer, scaler, scheduler, *others = rest
        whole = getattr(model, "_orig_mod", model)

        def checkpoint() -> dict[str, Any]:
            """What open_clip's loop saves, now."""
            state = {
                "epoch": epoch,
                "name": self.session.args.name,
                "state_dict": whole.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            return state if scaler is None else state | {"scaler": scaler.state_dict()}

        def train(scheduler: Any) -> None:
            self.originals["train_one_epoch"](
                model, data, loss, epoch, optimizer, scaler, scheduler, *others, tb_writer=tb_writer
            )

        self.session.start_epoch(
            getattr(whole, "module", whole), loss, checkpoint, tb_writer, epoch
        )
        self.run_epoch(data, epoch, optimizer, scheduler, train)


@contextmanager
def rebound() -> Iterator[Patches]:
    """Replace every patched name, and restore all of them at the end, also after an error."""
    patches = Patches()
    more = [
        (host, "optim", SimpleNamespace(AdamW=patches.adamw)),
        (timm.optim, "create_optimizer_v2", patches.create_optimizer_v2),
        (host_scheduler, "assign_learning_rate", assign_learning_rate),
        (torch.nn.parallel, "DistributedDataParallel", ExpertDistributedDataParallel),
    ]
    with applied(patches, more):
        yield patches
