"""A training run around open_clip's loop: its loader, log lines, figures and state for a resume."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip_train.data as upstream
import torch
import torch.distributed as dist
from open_clip_train.distributed import is_master
from torch.utils.data import DataLoader

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.batching.waiting import Waiting
from openclip_eclip.config import EClipConfig
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.sample import Samples
from openclip_eclip.machine import note_machine
from openclip_eclip.params import Method
from openclip_eclip.recipes import fill_schedule
from openclip_eclip.run_flags import kept_views

from .annotated_streams import expert_stream, oversampled_stream
from .announced import Announced
from .caption_length import announce_lengths
from .known_again import match_training_images
from .loaders import EpochInfo, PlainLoader
from .mid_epoch import Position, ResumableLoader, position_from, resumable
from .resume import random_state, set_random_state
from .run_log import RunLog
from .saving import MidEpochSaver
from .signals import Signals
from .train_data import TrainSource, expert_samples, train_source

logger = logging.getLogger(__name__)


class Session:
    """State of a run of `open_clip_train.main.main` with our patches."""

    def __init__(
        self, args: argparse.Namespace, config: EClipConfig, method: Method, signals: Signals
    ) -> None:
        self.args, self.config, self.method = args, config, method
        self.loader: PlannedLoader | None = None
        self.batches: ResumableLoader  # the wrapped loader, from `build_data` on
        self.waiting: Waiting  # of the loop for its batches, from `build_data` on
        self.announced: Announced | None = None  # result of the check; None for plain CLIP
        self.signals, self.saver = signals, MidEpochSaver(args, signals)
        self.check_weights: Callable[[], None] = lambda: None
        self.position: dict[str, Any] | None = None  # set while a position is saved
        self.total: int | None = None  # samples of --train-data, where they are known
        self.loss: Any = None
        self.model: Any = None
        self.checkpoint: Callable[[], dict[str, Any]]  # open_clip's, from `start_epoch` on
        self.log = RunLog(args, method)
        self.settings: dict[str, Any] = {}  # of this run, for its checkpoints
        self.restored: dict[str, Any] | None = None  # our part of the checkpoint to resume from
        self.all_states: list[dict[str, Any]] = []
        self.all_views: Counter[int] = Counter()
        self.views_before: Counter[int] = Counter()

    # ---- data

    def build_data(self, preprocess: Any, tokenizer: Any, epoch: int) -> upstream.DataInfo:
        """open_clip's DataInfo of --train-data; its loader yields `ExpertBatch` (CLIP: tensors)."""
        args = self.args
        if torch.device(args.device).type == "cpu" and args.precision.startswith("amp"):
            logger.warning(
                "eclip: --precision %s on a CPU can be many times slower than --precision fp32",
                args.precision,
            )
        transform = JointTransform(
            preprocess,
            self.config.crop_threshold,
            kept_views(args),
            eight_bits=torch.device(args.device).type == "cuda",
            fast_jpeg=args.fast_jpeg,
        )
        source = train_source(
            args,
            transform,
            tokenizer,
            epoch,
            heatmaps=self.method.heatmaps,
            windows=self.method.windows,
        )
        self.total = source.total
        announce_lengths(
            args,
            "--train-data",
            getattr(source.info.dataloader, "dataset", None),
            tokenizer,
            self.method.windows,
        )
        self.log.filled_flags(fill_schedule(args, source.info.dataloader.num_batches))
        self.batches = resumable(source.info.dataloader, source.info.shared_epoch)
        source.info.dataloader = self.batches
        if self.method.is_plain:
            plain = PlainLoader(self.batches, args.accum_freq, self.saver.after_step)
            self.waiting = plain.waiting
            return EpochInfo(plain, source.info.sampler, source.info.shared_epoch)
        self.loader = self._plan(source, transform, tokenizer)
        self.waiting = self.loader.waiting
        return EpochInfo(self.loader, source.info.sampler, source.info.shared_epoch)

    def _plan(
        self, source: TrainSource, transform: JointTransform, tokenizer: Any
    ) -> PlannedLoader:
        args, loader = self.args, source.info.dataloader
        steps = loader.num_batches // args.accum_freq
        curriculum = Curriculum(max(1, steps * args.epochs), self.config.curriculum)
        expert: DataLoader | None = None
        same_image: dict[int, int] = {}
        self.log.names = dict(source.names) if self.method.mixes else {}
        examples: Samples | None = source.samples
        with_windows = source.windows  # number of samples, None if unknown
        if args.expert_data:
            samples, names, added = expert_samples(args, transform, tokenizer, self.method.windows)
            with_windows = None if with_windows is None else with_windows + added
            announce_lengths(args, "--expert-data", samples, tokenizer, self.method.windows)
            expert = expert_stream(args, self.config, samples, loader.num_batches, curriculum)
            self.log.names.update(names)
            examples = samples
            if self.config.own_pairs != "diagonal":
                same_image = match_training_images(args, loader, samples)
        annotated = source.annotated or expert is not None
        if self.method.windows:
            self.log.windows(with_windows, source.header)
        count = len(source.names.keys() | self.log.names)
        for objective in self.method.objectives:
            objective.use_annotated(
                None if source.total is None else max(count, with_windows or 0) / source.total
            )
        if self.method.experts or self.method.heatmaps:
            self.log.annotations(curriculum, annotated, bool(with_windows), count, source.header)
        if annotated and self.config.processor is not None:
            self.log.take_examples(examples or ())
        self.announced = source.announced
        return PlannedLoader(
            loader,
            self.config,
            curriculum,
            seed=args.seed,
            accum_freq=args.accum_freq,
            annotated=annotated,
            mixes=self.method.mixes,
            expert=expert,
            oversample=oversampled_stream(args, self.config, source, self.method.objectives),
            objectives=self.method.objectives,
            after_step=self.after_step,
            announced=source.announced,
            same_image=same_image,
            same_text=self.method.same_text.active,
        )

    # ---- epochs and steps

    def start_epoch(
        self,
        model: Any,
        loss: Any,
        checkpoint: Callable[[], dict[str, Any]],
        writer: Any,
        epoch: int,
    ) -> None:
        """Call it before open_clip's epoch; after a resume it restores the random streams.

        `checkpoint` makes open_clip's checkpoint of the moment.
        """
        self.model, self.loss, self.log.writer, self.epoch = model, loss, writer, epoch
        self.checkpoint = checkpoint
        if is_master(self.args):
            note_machine(Path(self.args.logs, self.args.name), self.args.device)
        position = None
        restored, self.restored = self.restored, None
        if restored is not None:
            position = self._restore(restored)
        elif epoch == 0:
            self.log.draw(self.model, "start", 0)
        self.batches.begin_epoch(epoch, position)
        if self.announced is not None:
            self.announced.begin_pass()
        self.saver.begin_epoch(epoch, self.batches.num_batches, self.save_position)

    def end_epoch(self, is_evaluated: bool) -> None:
        """Call it after open_clip's epoch; rank 0 collects every rank's state for a checkpoint."""
        if self.announced is not None and self.batches.first_batch == 0:
            self.announced.end_pass(self.args)
        self.saver.end_epoch(is_evaluated)
        self._collect()
        steps = self.batches.num_batches // self.args.accum_freq
        self.log.end_epoch(self.all_views, self.loss)
        self.log.waiting(self.waiting, self.epoch, steps * (self.epoch + 1) - 1)

    def _collect(self, batch: int | None = None) -> None:
        """Collect the state of every rank on the first one, which writes the checkpoint.

        `batch`: finished batches, if the epoch is not done.
        """
        views = dict(self.loader.views) if self.loader else {}
        mine: dict[str, Any] = {"random": random_state(), "views": views}
        if batch is not None:
            mine["position"] = self.batches.checkpoint_state() | self._log_state()
        gathered = [mine] * self.args.world_size
        if self.args.world_size > 1:
            # not to all ranks: each would hold the views of all others
            into = gathered if self.args.rank == 0 else None
            dist.gather_object(mine, into, dst=0, group=self.saver.group)
        if self.args.rank != 0:
            return
        self.all_states = [rank["random"] for rank in gathered]
        self.all_views = Counter(self.views_before)
        for rank in gathered:
            self.all_views.update(rank["views"])
        if batch is not None:
            self.position = {
                "batch": batch,
                "made_of": self._made_of(),
                "ranks": [rank["position"] for rank in gathered],
            }

    def _log_state(self) -> dict[str, Any]:
        """Sums for the log lines, which are accumulated between steps."""
        loader = self.loader
        names = ("lam_sum", "lam_count", "skipped")
        return {name: getattr(loader, name) for name in names} if loader else {}

    def _made_of(self) -> dict[str, int]:
        """The settings that determine an epoch's batches; a position is valid only for them."""
        args = self.args
        return {
            "processes": args.world_size,
            "--workers": args.workers,
            "--batch-size": args.batch_size,
            "--accum-freq": args.accum_freq,
            "--seed": args.seed,
            "batches": self.batches.num_batches,
            "samples": self.batches.num_samples,
        }

    def save_position(self, batch: int, path: Path) -> None:
        """Write open_clip's checkpoint within its epoch, to be resumed before batch `batch`."""
        self.check_weights()
        self._collect(batch)
        master = is_master(self.args)
        if master or getattr(self.args, "fsdp", False):  # it gathers weights from all ranks
            checkpoint = self.checkpoint()
        if master:
            # a patched function, which adds `checkpoint_state`
            torch.save(checkpoint, path)
        self.position = None

    def checkpoint_state(self) -> dict[str, Any]:
        """Our part of the checkpoint, in tensors and numbers.

        Rank 0's random state is taken now, since rank 0 evaluates after the epoch.
        """
        state = {
            "random": [random_state(), *self.all_states[1:]],
            "views": dict(self.all_views),
            "settings": self.settings,
        }
        return state | ({"position": self.position} if self.position else {})

    def _restore(self, restored: Mapping[str, Any]) -> Position | None:
        """Restore the random streams and counts of the checkpoint.

        Returns the position at which its epoch is resumed, None at the start of an epoch.
        """
        states, position, rank = restored["random"], restored.get("position"), self.args.rank
        same_ranks = len(states) == self.args.world_size
        self.views_before = Counter(restored["views"])
        if position:
            return self._restore_position(position, states[rank] if same_ranks else None)
        if same_ranks:
            set_random_state(states[rank])
        else:
            logger.warning(
                "eclip: the checkpoint comes from %d processes, this run has %d: random streams"
                " start again",
                len(states),
                self.args.world_size,
            )
        return None

    def _restore_position(
        self, position: dict[str, Any], now: dict[str, Any] | None
    ) -> Position | None:
        """The position, None if its epoch must start again; `now`: this rank's random state."""
        batch, count, made_of = position["batch"], self.batches.num_batches, self._made_of()
        if batch == position["made_of"]["batches"]:  # only the evaluation is left, on any ranks
            logger.info("eclip: epoch %d is trained, and resumes after its last batch", self.epoch)
            now = now or random_state()
            return Position(count, now, now)
        changed = [
            f"{name} {value}, now {made_of[name]}"
            for name, value in position["made_of"].items()
            if value != made_of[name]
        ]
        if changed:
            logger.warning(
                "eclip: the checkpoint was saved after batch %d of epoch %d, but its "
                "batches cannot be repeated (%s): the epoch starts again from its first "
                "batch, with the weights of the checkpoint",
                batch,
                self.epoch,
                "; ".join(changed),
            )
            if now is not None:
                set_random_state(position["ranks"][self.args.rank]["start"])
            return None
        mine = position["ranks"][self.args.rank]
        for name in self._log_state():
            setattr(self.loader, name, mine[name])
        logger.info("eclip: epoch %d resumes after batch %d of %d", self.epoch, batch, count)
        assert now is not None, "`_made_of` has compared the number of ranks"
        return position_from(batch, now, mine)

    def after_step(self, step: int, batches: int) -> None:
        """Call it after optimiser step `step` of the run and `batches` batches of the epoch."""
        loader = self.loader
        assert loader is not None, "a `PlannedLoader` calls this"
        if self.method.experts:
            if step + 1 == loader.curriculum.cold_end:
                self.log.draw(self.model, "primed", step)
            if step + 1 == loader.steps_per_epoch * self.args.epochs:
                self.log.draw(self.model, "end", step)
        self.log.step(step, loader, self.loss, self.views_before)
        self.saver.after_step(step, batches)
