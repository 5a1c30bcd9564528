"""The seams into open_clip_train 3.3: names rebound in its modules while one run lasts."""
from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import open_clip
import open_clip_train.main as host
import torch
from open_clip_train.distributed import is_master, world_info_from_env
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import CONFIG, is_complete, newest_complete, plain_config
from ..config import UserError
from ..data.heatmap import DataError
from ..loss import EClipLoss, EClipSigLipLoss
from ..model import EClip
from ..params import build_method, eclip_config, eclip_parser, fill_alignment, fill_batch_size, method_names, refuse_unsupported, with_recipe
from .checkpoints import STATE_KEY, atomic_save
from .session import Session
from .train_data import is_table
from .val_data import val_source

logger = logging.getLogger(__name__)

# what each seam looked like when it was tested; another signature means another open_clip
SIGNATURES = {
    "parse_args": "(args)",
    "create_loss": "(args)",
    "get_data": "(args, preprocess_fns, epoch=0, tokenizer=None)",
    "train_one_epoch": "(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer=None)",
    "get_latest_checkpoint": "(path: str, remote: bool)",
    "pt_load": "(file_path, map_location=None)",
}


class ExpertDistributedDataParallel(DistributedDataParallel):
    """DDP for a model whose processor takes part only in some steps, on some ranks; and for CPU.

    Without `find_unused_parameters` the step after an unused processor stops with "Expected to have finished reduction".
    open_clip always passes `device_ids`, which torch refuses for CPU modules.
    """

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        super().__init__(module, device_ids=None if on_cpu else device_ids,
                         find_unused_parameters=isinstance(module, EClip) and module.heatmap_processor is not None, **kwargs)


class Seams:
    """Our side of every rebound name, sharing one `Session`."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.originals: dict[str, Callable] = {}

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:
        """open_clip's arguments and ours in one namespace, so that params.txt and wandb record both."""
        own, rest = eclip_parser().parse_known_args(list(argv))
        args = self.originals["parse_args"](with_recipe(own.recipe, rest))
        vars(args).update(vars(own))
        refuse_unsupported(args)
        fill_alignment(args)
        _, rank, world_size = world_info_from_env()
        fill_batch_size(args, world_size)
        if not any(flag.split("=")[0] == "--csv-separator" for flag in rest):
            args.csv_separator = None  # each table's own; open_clip's default is the tab
        # the first rank alone: it may have begun this very log before another one comes here
        if rank == 0 and args.name and args.resume != "latest" and Path(args.logs, args.name, "out.log").exists():
            raise UserError(f"experiment {Path(args.logs, args.name)} already exists: give another --name, "
                             "or --resume latest to continue it.")
        base = open_clip.factory.get_model_config(args.model)
        if base is None:
            raise UserError(f"--model {args.model}: not known to open_clip; expected one of open_clip.list_models(), with or without 'eclip-' "
                            "in front, or local-dir:FOLDER.")
        config = eclip_config(args, (base or {}).get("eclip_cfg") or {})
        args.method = "+".join(method_names(args))  # for params.txt
        self.session = Session(args, config, build_method(args))
        return args

    def create_model_and_transforms(self, *args: Any, **kwargs: Any) -> Any:
        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] == "torch":  # open_clip has just set every logger to INFO; torch's spill statistics at exit
                logging.getLogger(name).setLevel(logging.WARNING)
        # None, not absent, for the baseline: a preset's own would win otherwise
        method = self.session.method
        kwargs["eclip_cfg"] = None if method.is_plain else self.session.config.to_dict()
        built = self.originals["create_model_and_transforms"](*args, **kwargs)
        if not method.is_plain:
            for objective in method.objectives:
                objective.check_model(built[0])
            built[0].objectives = method.objectives
        run = Path(self.session.args.logs, self.session.args.name)
        if is_master(self.session.args) and run.is_dir():  # what --export and every later user of the weights must know
            config = plain_config(args[0], kwargs, built[0].visual.preprocess_cfg)
            (run / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return built

    def get_data(self, args: argparse.Namespace, preprocess_fns: Any, epoch: int = 0, tokenizer: Any = None) -> dict[str, Any]:
        data = {}
        for objective in self.session.method.objectives:
            objective.use_tokenizer(tokenizer)
        if args.train_data or args.dataset_type == "synthetic":
            data["train"] = self.session.build_data(preprocess_fns[0], tokenizer, epoch)
        rest = argparse.Namespace(**vars(args))
        rest.train_data = None
        if args.val_data and is_table(args.val_data, args.dataset_type):
            data["val"] = val_source(args, preprocess_fns[1], tokenizer)
            rest.val_data = None
        rest.dataset_type = "auto" if args.dataset_type == "synthetic" else args.dataset_type
        data.update(self.originals["get_data"](rest, preprocess_fns, epoch=epoch, tokenizer=tokenizer))
        return data

    def create_loss(self, args: argparse.Namespace) -> torch.nn.Module:
        """open_clip's loss with the same settings, extended by mixed pairs, priming and objectives."""
        if self.session.method.is_plain:
            return self.originals["create_loss"](args)
        where = {"rank": args.rank, "world_size": args.world_size, "cache_labels": True}
        if args.siglip:
            loss = EClipSigLipLoss(dist_impl=args.loss_dist_impl, **where)
        else:
            loss = EClipLoss(local_loss=args.local_loss, gather_with_grad=args.gather_with_grad, **where)
        loss.configure(self.session.config, self.session.method.objectives)
        return loss

    def train_one_epoch(self, model: Any, data: Any, loss: Any, epoch: int, *rest: Any, tb_writer: Any = None) -> None:
        self.session.start_epoch(model, loss, tb_writer, epoch)
        self.originals["train_one_epoch"](model, data, loss, epoch, *rest, tb_writer=tb_writer)
        self.session.end_epoch()

    def get_latest_checkpoint(self, path: str, remote: bool) -> str | None:
        if remote:
            return self.originals["get_latest_checkpoint"](path, remote)
        newest = newest_complete(Path(path))
        return str(newest) if newest else None

    def pt_load(self, file_path: str, map_location: Any = None) -> Any:
        """Load a checkpoint without unpickling code, and keep our part of it for the first epoch."""
        path = Path(file_path)
        if path.is_file() and not is_complete(path):
            older = newest_complete(path.parent)
            if older is None:
                raise DataError(f"checkpoint {path} is truncated and there is no complete one beside it; start anew with another --name.")
            logger.warning("eclip: checkpoint %s is truncated, resuming from %s", path, older)
            file_path = str(older)
        checkpoint = self.originals["pt_load"](file_path, map_location=map_location)
        if isinstance(checkpoint, dict) and "epoch" in checkpoint:
            self.session.restored = checkpoint.pop(STATE_KEY, None)
        return checkpoint

    def save(self, obj: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(path, (str, os.PathLike)):
            return self.originals["save"](obj, path, *args, **kwargs)
        if isinstance(obj, dict) and {"epoch", "state_dict", "optimizer"} <= set(obj):
            obj = {**obj, STATE_KEY: self.session.checkpoint_state()}
        return atomic_save(self.originals["save"], obj, path, *args, **kwargs)


@contextmanager
def rebound() -> Iterator[None]:
    """Rebind every seam, restore all of them at the end whatever happened."""
    for name, expected in SIGNATURES.items():
        found = str(inspect.signature(getattr(host, name)))
        if found != expected:
            raise RuntimeError(f"open_clip_train.main.{name}{found} is not the {name}{expected} that openclip_eclip was tested with.")
    seams = Seams()
    targets = [(host, name) for name in (*SIGNATURES, "create_model_and_transforms")]
    before = [(module, name, getattr(module, name)) for module, name in targets]
    before += [(torch, "save", torch.save), (torch.nn.parallel, "DistributedDataParallel", DistributedDataParallel)]
    seams.originals = {name: value for _, name, value in before}
    try:
        for module, name in targets:
            setattr(module, name, getattr(seams, name))
        torch.save = seams.save
        torch.nn.parallel.DistributedDataParallel = ExpertDistributedDataParallel
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
