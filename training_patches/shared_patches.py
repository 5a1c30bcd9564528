"""The patches that every release of open_clip_train needs; a file release_*.py has its others."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import open_clip
import open_clip_train.main as host
import open_clip_train.train as host_loop
import torch
from open_clip_train.distributed import is_master, world_info_from_env
from torch.nn.parallel import DistributedDataParallel

from openclip_eclip.checkpoint import CONFIG, plain_config
from openclip_eclip.checkpoint_files import (
    BEST,
    STATE_KEY,
    newest_complete,
    progress_in_name,
    require_finite,
    without_prefixes,
)
from openclip_eclip.config import UserError
from openclip_eclip.flag_checks import check_learning, current_spelling
from openclip_eclip.flag_conflicts import reject_unsupported
from openclip_eclip.loss import EClipLoss, EClipSigLipLoss
from openclip_eclip.model import EClip
from openclip_eclip.model_errors import one_sentence
from openclip_eclip.params import (
    build_method,
    eclip_config,
    eclip_parser,
    method_names,
    parse_host,
    with_runs_dir,
)
from openclip_eclip.recipes import fill_batch_size, fill_recipe, with_recipe
from openclip_eclip.token_cache import TokenCache, cache_frozen_parts
from openclip_eclip.towers.frozen import FrozenText

from .before_training import before_first_step, check_names, check_optimiser
from .fast import choose_fast, prepare_towers
from .finite_loss import FiniteLoss
from .resume import atomic_save
from .run_folder import claim, keep_tokenizer, lock
from .run_settings import check_resumed_params, load_to_resume, run_settings
from .saving import TimeIsUp
from .session import Session
from .signals import Signals
from .trained_parts import choose_trained_parts
from .val_data import val_source
from .validation import Validation

logger = logging.getLogger(__name__)

Replacement = tuple[ModuleType, str, Any]  # module, name in it, what takes its place


class CpuDistributedDataParallel(DistributedDataParallel):
    """DDP on CPU too: open_clip always passes `device_ids`, which torch rejects for CPU modules."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        super().__init__(module, device_ids=None if on_cpu else device_ids, **kwargs)


def has_idle_parameters(module: torch.nn.Module) -> bool:
    """Whether some steps and ranks leave a part of this model out: its heatmap processor.

    DDP must know it: the step after an unused part stops with "Expected to have finished
    reduction".
    """
    return isinstance(module, EClip) and module.heatmap_processor is not None


class SharedPatches:
    """The replacements of the names that all releases have; they share a `Session`."""

    RELEASE: str  # of open_clip_train, for checkpoints
    SIGNATURES: Mapping[str, str]  # tested ones of names in open_clip_train.main

    def __init__(self) -> None:
        self.session: Session  # from `parse_args` on
        self.finite: FiniteLoss  # from `parse_args` on
        self.validation: Validation  # from `parse_args` on
        self.built: torch.nn.Module  # the model, from `create_model_and_transforms` on
        self.caches: list[TokenCache] = []
        self.signals = Signals()
        self.originals: dict[str, Any] = {}
        self.lock: IO[str] | None = None
        self.is_cut = False  # whether --minutes ended the run within an epoch
        self.resumed: dict[str, Any] | None = None  # settings of the run that wrote the checkpoint
        self.resume_latest = self.most_recent = self.named = False  # as the flags were given

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:
        """open_clip's arguments and ours in one namespace, so params.txt and wandb record both."""
        _, rank, world_size = world_info_from_env()
        argv, notices = current_spelling(argv)
        if rank == 0:  # open_clip sets up its log later
            sys.stderr.writelines(f"{notice}\n" for notice in notices)
        ours, rest = eclip_parser().parse_known_args(argv)
        host_argv = with_recipe(ours.recipe, with_runs_dir(ours.runs_dir, rest))
        args = parse_host(self.originals["parse_args"], host_argv)
        # a later release has some of our flags itself, under other names too
        for name, value in vars(ours).items():
            if value is not None or not hasattr(args, name):
                setattr(args, name, value)
        names = method_names(args)
        fill_recipe(args, names)
        choose_fast(args, rest)
        check_names(args)
        reject_unsupported(args, names)
        self.check_release(args)
        check_optimiser(args)
        fill_batch_size(args, world_size)
        if not any(flag.split("=")[0] == "--csv-separator" for flag in rest):
            args.csv_separator = None  # detected for each table; open_clip's default is the tab
        with one_sentence(args.model, None):
            base = open_clip.factory.get_model_config(args.model)
        config = eclip_config(args, (base or {}).get("eclip_cfg") or {}, names)
        args.method = "+".join(names)  # for params.txt
        check_learning(args, world_size)
        check_resumed_params(args)
        self.session = Session(args, config, build_method(args, names), self.signals)
        self.finite = FiniteLoss(args)
        self.validation = Validation(args, self.session.saver)
        self.finite.on_loss = self.validation.curve.see
        # on the first rank only: it may have begun this log before another rank checks it
        if rank == 0 and args.name:
            self.lock = claim(args)
        self.named = bool(args.name)
        self.resume_latest, self.most_recent = args.resume == "latest", args.save_most_recent
        if self.resume_latest and args.remote_sync is None:
            # with it open_clip would consider epoch_latest.pt alone; restored after its search
            args.save_most_recent = False
        return args

    def check_release(self, args: argparse.Namespace) -> None:
        """UserError for a flag of this release that does not work with ours."""

    def create_model_and_transforms(self, *args: Any, **kwargs: Any) -> Any:
        for name in list(logging.root.manager.loggerDict):
            # open_clip has set every logger to INFO; torch's would log statistics at exit
            if name.split(".")[0] == "torch":
                logging.getLogger(name).setLevel(logging.WARNING)
        # None, not absent, for the baseline: otherwise a preset's eclip_cfg would apply
        method = self.session.method
        kwargs["eclip_cfg"] = None if method.is_plain else self.session.config.to_dict()
        if self.session.args.image_head != "keep":
            kwargs["image_head"] = self.session.args.image_head
        self.session.args.save_most_recent = self.most_recent
        with one_sentence(args[0], args[1]):
            built = self.originals["create_model_and_transforms"](*args, **kwargs)
        self.built = built[0]
        require_finite(built[0].state_dict(), args[1] or args[0], self.buffers())
        choose_trained_parts(built[0], self.session.args)
        prepare_towers(self.session.args, built[0])
        if not method.is_plain:
            for objective in method.objectives:
                objective.check_model(built[0])
            built[0].objectives = method.objectives
            if method.same_text.similarity is not None:
                built[0].frozen_text = FrozenText(built[0])
        run = Path(self.session.args.logs, self.session.args.name)
        # the config that the export and every later user of the weights need
        if is_master(self.session.args) and run.is_dir():
            config = plain_config(args[0], kwargs, built[0].visual.preprocess_cfg)
            (run / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if not self.named:  # open_clip has made a name by now
                self.lock = lock(run)
        return built

    def get_data(
        self, args: argparse.Namespace, preprocess_fns: Any, epoch: int = 0, tokenizer: Any = None
    ) -> dict[str, Any]:
        data: dict[str, Any] = {}
        keep_tokenizer(args, tokenizer)
        for objective in self.session.method.objectives:
            objective.use_tokenizer(tokenizer)
        if args.train_data or args.dataset_type == "synthetic":
            data["train"] = self.session.build_data(preprocess_fns[0], tokenizer, epoch)
        rest = argparse.Namespace(**vars(args))
        rest.train_data = None
        if args.val_data:
            data["val"] = val_source(args, preprocess_fns[1], tokenizer)
            self.validation.build(
                self.built, preprocess_fns[1], tokenizer, self.session.method.windows
            )
            rest.val_data = None
        rest.dataset_type = "auto" if args.dataset_type == "synthetic" else args.dataset_type
        data.update(
            self.originals["get_data"](rest, preprocess_fns, epoch=epoch, tokenizer=tokenizer)
        )
        settings = run_settings(args, self.session.config, data)
        self.session.settings = settings | {"open_clip_train": self.RELEASE}
        before_first_step(
            args, data, epoch, self.resumed, self.session.settings, self.resume_latest
        )
        return data

    def before_loop(self) -> None:
        """Call it when the towers are locked and the data known, before the first epoch."""
        self.caches = cache_frozen_parts(self.built, self.session.args, self.session.total)
        self.validation.before_training()

    def expert_loss(self) -> torch.nn.Module:
        """open_clip's loss with the same settings, extended by mixed pairs, priming, objectives."""
        args, method = self.session.args, self.session.method
        where = {"rank": args.rank, "world_size": args.world_size, "cache_labels": True}
        if args.siglip:
            loss = EClipSigLipLoss(dist_impl=args.loss_dist_impl, **where)
        else:
            loss = EClipLoss(
                local_loss=args.local_loss, gather_with_grad=args.gather_with_grad, **where
            )
        loss.configure(self.session.config, method.objectives, method.same_text)
        return loss

    def run_epoch(
        self,
        data: Mapping[str, Any],
        epoch: int,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        train: Callable[[Any], None],
    ) -> None:
        """`train(scheduler)` is open_clip's epoch. Call `session.start_epoch` before it."""
        self.session.check_weights = self.check_weights
        loader = data["train"].dataloader
        scheduler = self.finite.start_epoch(
            epoch, optimizer, scheduler, loader.num_batches, getattr(loader, "first_batch", 0)
        )
        try:
            train(scheduler)
            self.check_weights()
        except TimeIsUp:
            self.is_cut, self.session.args.save_logs = True, False  # open_clip saves no epoch
        finally:
            self.validation.end_training(self.steps_per_epoch(data))
        for cache in self.caches:
            cache.end_epoch()
        if self.is_cut:
            return
        self.session.end_epoch(is_evaluated=will_evaluate(self.session.args, data, epoch + 1))

    def check_weights(self) -> None:
        """UserError for weights that are not finite; on all ranks, before one of them saves."""
        self.finite.check_weights(self.built.state_dict(), self.buffers())

    def evaluate(
        self, model: Any, data: Any, epoch: int, args: Any, tb_writer: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        if self.is_cut:
            return {}
        with self.session.saver.evaluation():
            evaluate = self.originals["evaluate"]
            result = evaluate(model, data, epoch, args, tb_writer=tb_writer, **kwargs)
            if "train" in data:
                steps = epoch * self.steps_per_epoch(data)
                self.validation.after(result, steps, epoch, tb_writer)
            return result

    def steps_per_epoch(self, data: Mapping[str, Any]) -> int:
        return data["train"].dataloader.num_batches // self.session.args.accum_freq

    def range(self, *bounds: int) -> Iterator[int]:
        """`range` for open_clip's loop over epochs, which ends where training stops early."""
        self.validation.begin(self.session.restored)
        for epoch in range(*bounds):
            if self.validation.why_over():
                break
            yield epoch
        reason = self.validation.why_over()
        if reason and is_master(self.session.args):
            logger.info("eclip: training ends: %s", reason)

    def buffers(self) -> frozenset[str]:
        """Names of the model's buffers."""
        return frozenset(name for name, _ in self.built.named_buffers())

    def get_latest_checkpoint(self, path: str, remote: bool) -> str | None:
        if remote:
            return self.originals["get_latest_checkpoint"](path, remote)
        newest = newest_complete(Path(path))
        others = [found for found in Path(path).glob("epoch_*.pt") if found.name != BEST]
        if newest is None and others:
            raise UserError(
                f"--resume latest: no complete checkpoint is left in {path}; move the damaged ones"
                " away to start again, or give another --name."
            )
        return str(newest) if newest else None

    def pt_load(self, file_path: str, map_location: Any = None) -> Any:
        """Load a checkpoint without unpickling code; our part of it is kept for the first epoch."""
        checkpoint = load_to_resume(
            file_path,
            self.session.args,
            self.built,
            map_location,
            checked=self.resume_latest,
            release=self.RELEASE,
        )
        if isinstance(checkpoint, dict) and "epoch" in checkpoint:
            self.session.restored = checkpoint.pop(STATE_KEY, None)
            self.resumed = (self.session.restored or {}).get("settings")
        return checkpoint

    def save(self, obj: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(path, (str, os.PathLike)):
            return self.originals["save"](obj, path, *args, **kwargs)
        is_checkpoint = isinstance(obj, dict) and {"epoch", "state_dict", "optimizer"} <= set(obj)
        if is_checkpoint:
            self.finite.check_weights(without_prefixes(obj["state_dict"]), self.buffers())
            state = self.session.checkpoint_state() | self.validation.checkpoint_state()
            obj = {**obj, STATE_KEY: state}
        atomic_save(self.originals["save"], obj, path, *args, **kwargs)
        if is_checkpoint and progress_in_name(Path(path)) == (obj["epoch"], 0):
            self.session.saver.epoch_saved(obj["epoch"])


def will_evaluate(args: argparse.Namespace, data: Mapping[str, Any], completed: int) -> bool:
    """Whether open_clip evaluates anything after `completed` epochs."""
    frequencies = {
        "val": args.val_frequency,
        "imagenet-val": args.zeroshot_frequency,
        "imagenet-v2": args.zeroshot_frequency,
    }
    return any(
        name in data and every and (completed % every == 0 or completed == args.epochs)
        for name, every in frequencies.items()
    )


def enumerate_batches(batches: Iterable, start: int = 0) -> Iterator[tuple[int, Any]]:
    """`enumerate` for open_clip's loops: it starts at the first batch of a resumed epoch."""
    return enumerate(batches, getattr(batches, "first_batch", start))


@contextmanager
def applied(patches: SharedPatches, more: Sequence[Replacement]) -> Iterator[None]:
    """Replace every patched name, and restore all of them at the end, also after an error.

    `more`: those of one release, beside the methods of `patches` that SIGNATURES names.
    """
    for name, expected in patches.SIGNATURES.items():
        signature = str(inspect.signature(getattr(host, name)))
        if signature != expected:
            raise RuntimeError(
                f"open_clip_train.main.{name}{signature} is not the {name}{expected} that"
                " openclip_eclip was tested with."
            )
    replacements: list[Replacement] = [
        *(
            (host, name, getattr(patches, name))
            for name in (*patches.SIGNATURES, "create_model_and_transforms")
        ),
        (torch, "save", patches.save),
        *more,
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    patches.originals = {name: value for _, name, value in before}
    with patches.signals.handled():
        try:
            for module, name, replacement in replacements:
                setattr(module, name, replacement)
            host_loop.enumerate = enumerate_batches
            host.range = patches.range
            yield
        except RuntimeError as error:  # after a signal a data worker or another rank may end first
            if patches.signals.stop:
                patches.signals.stop_now(f"({error})")
            raise
        finally:
            if patches.lock is not None:
                patches.lock.close()
            vars(host_loop).pop("enumerate", None)
            vars(host).pop("range", None)
            for module, name, value in before:
                setattr(module, name, value)
