"""The patches of open_clip_train's release 4, whose loop trains a task: a model and its loss."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import open_clip_train.file_utils as host_files
import torch
from open_clip.task import CLIPTask, save_checkpoint
from open_clip_train.distributed import world_info_from_env

from openclip_eclip.checkpoint_files import read_checkpoint
from openclip_eclip.config import UserError, flag_of
from openclip_eclip.register import is_contrastive

from .fast import optimiser_options
from .layer_decay import with_layer_decay
from .sharded import check_sharding, complete_optimiser, prepare_sharded
from .shared_patches import CpuDistributedDataParallel, SharedPatches, applied, has_idle_parameters

# tested signatures of the patched names; another signature means another open_clip
SIGNATURES = {
    "parse_args": "(args)",
    "create_task": "(args, model, dist_model=None, naflex_data_config=None)",
    "get_data": "(args, preprocess_fns, epoch=0, tokenizer=None, naflex_data_config=None)",
    "create_optimizer": (
        "(model: torch.nn.modules.module.Module, cfg: open_clip_train.optim.OptimizerCfg, "
        "device: Optional[torch.device] = None, tensorize: bool = False)"
        " -> torch.optim.optimizer.Optimizer"
    ),
    "train_one_epoch": ("(state: open_clip_train.train.TrainState, data, args, tb_writer=None)"),
    "evaluate": "(task, data, epoch, args, tb_writer=None, tokenizer=None)",
    "get_latest_checkpoint": "(path: str, remote: bool)",
}
COMPILED = ("torchcompile_strategy", "model")
# flags of this release that do not work with our reading and our losses, and what to do instead
UNSUPPORTED = {
    "fsdp_checkpoint": "checkpoints are whole files; drop it",
    "fsdp_offload_cpu": "it needs a GPU, and was never run with heatmaps; drop it",
    "use_naflex": "heatmaps need images of one size; drop it",
    "force_naflex_vision": "heatmaps need images of one size; drop it",
    "length_bucketing": "samples come in the order of their shards; drop it",
    "image_key": "name the members of shards as docs/data/annotations.md says",
    "text_key": "name the members of shards as docs/data/annotations.md says",
    "json_text_key": "name the members of shards as docs/data/annotations.md says",
    "max_image_pixels": "give --max-pixels, our reader's limit, instead",
    "torchcompile_strategy": "our losses are not compiled; take model, or drop it",
    "audio_zeroshot_dataset": "a model of images has no audio",
    "pretrained_audio": "a model of images has no audio",
}


class ExpertTask(CLIPTask):
    """open_clip's task with our loss, on batches whose image may be an `ExpertBatch`.

    A batch has the keys image and text, as open_clip's own: heatmaps and draws are members of the
    image. All terms of the loss end in `_loss`, and the task sums them.
    """

    def prepare_batch(
        self, batch: dict, device: torch.device, input_dtype: torch.dtype | None = None
    ) -> dict:
        """Images and heatmaps take `input_dtype`, whatever ids and draws beside them are."""
        image = batch["image"].to(device=device, dtype=input_dtype, non_blocking=True)
        return {"image": image, "text": batch["text"].to(device=device, non_blocking=True)}

    def ddp_extra_kwargs(self) -> dict:
        is_needed = has_idle_parameters(self.get_trainable_module())
        return {"find_unused_parameters": True} if is_needed else {}

    def prepare_fsdp(self, *args: Any, **kwargs: Any) -> ExpertTask:
        super().prepare_fsdp(*args, **kwargs)
        prepare_sharded(self.get_trainable_module())
        return self


class DictBatches:
    """The batches of `loader`, (image, text), as the dicts that a task takes.

    It has the other attributes of `loader` too.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    @property
    def epoch(self) -> int:
        return self.loader.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.loader.epoch = value

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for image, text in self.loader:
            yield {"image": image, "text": text}


class Patches(SharedPatches):
    """The replacements of all patched names."""

    RELEASE = "4"
    SIGNATURES = SIGNATURES

    def check_release(self, args: argparse.Namespace) -> None:
        """Also sets what --torchcompile compiles: the model alone, as in release 3.3."""
        config = open_clip.get_model_config(args.model) if ":" not in args.model else None
        if (config and not is_contrastive(config)) or args.dataset_type.endswith("-audio"):
            raise UserError(
                f"--model {args.model} with --dataset-type {args.dataset_type}: expected a"
                " contrastive model of images and texts, and data of them."
            )
        plain = self.originals["parse_args"]([])
        for name, advice in UNSUPPORTED.items():
            given = vars(args).get(name)
            if given != vars(plain).get(name) and (name, given) != COMPILED:
                raise UserError(
                    f"{flag_of(name)} does not work with openclip_eclip.train: {advice}."
                )
        check_sharding(args, world_info_from_env()[2])
        if args.resume and Path(args.resume).is_dir():  # this loop would take it for sharded files
            read_checkpoint(Path(args.resume))
        setattr(args, *COMPILED)
        # this loop would delete the last epoch, which it has just saved
        if not args.save_frequency:
            args.delete_previous_checkpoint = False

    def pt_load(self, file_path: str, map_location: Any = None) -> Any:
        checkpoint = super().pt_load(file_path, map_location)
        if self.session.args.fsdp and "optimizer" in checkpoint:
            complete_optimiser(checkpoint)
        return checkpoint

    def create_task(self, args: argparse.Namespace, model: torch.nn.Module, **rest: Any) -> Any:
        if self.session.method.is_plain:
            task = self.originals["create_task"](args, model, **rest)
        else:
            task = ExpertTask(model, loss=self.expert_loss())
        self.finite.watch(task.loss)
        return task

    def create_optimizer(
        self, model: torch.nn.Module, cfg: Any, **rest: Any
    ) -> torch.optim.Optimizer:
        """Learning rates by layer are ours in every release, in place of open_clip's."""
        flat = dataclasses.replace(cfg, image_layer_decay=None, text_layer_decay=None)
        if cfg.opt == "adamw":
            flat.opt_kwargs = optimiser_options(self.session.args) | cfg.opt_kwargs
        optimizer = self.originals["create_optimizer"](model, flat, **rest)
        return with_layer_decay(optimizer, self.session.args, self.built)

    def get_data(self, *args: Any, naflex_data_config: Any = None, **kwargs: Any) -> dict[str, Any]:
        data = super().get_data(*args, **kwargs)
        for name in data.keys() & {"train", "val"}:
            data[name].dataloader = DictBatches(data[name].dataloader)
        return data

    def train_one_epoch(self, state: Any, data: Any, args: Any, tb_writer: Any = None) -> None:
        scheduler, task = state.scheduler, state.task

        def checkpoint() -> dict[str, Any]:
            """What open_clip's loop saves, now."""
            return save_checkpoint(
                task,
                state.optimizer,
                epoch=state.epoch,
                scaler=state.scaler,
                name=args.name,
                global_step=state.global_step,
                samples_seen=state.samples_seen,
            )

        def train(scheduler: Any) -> None:
            state.scheduler = scheduler
            self.originals["train_one_epoch"](state, data, args, tb_writer=tb_writer)

        model = task.get_trainable_module()
        self.session.start_epoch(model, task.loss, checkpoint, tb_writer, state.epoch)
        try:
            self.run_epoch(data, state.epoch, state.optimizer, scheduler, train)
        finally:
            state.scheduler = scheduler

    def range(self, *bounds: int) -> Iterator[int]:
        self.before_loop()
        yield from super().range(*bounds)


@contextmanager
def rebound() -> Iterator[Patches]:
    """Replace every patched name, and restore all of them at the end, also after an error."""
    patches = Patches()
    more = [
        (host_files, "pt_load", patches.pt_load),
        (torch.nn.parallel, "DistributedDataParallel", CpuDistributedDataParallel),
    ]
    with applied(patches, more):
        yield patches
