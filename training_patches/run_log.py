"""The output of a run beside open_clip's: log lines, figures of the processor, annotated views."""

from __future__ import annotations

import argparse
import csv
import logging
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip import get_input_dtype
from open_clip_train.distributed import is_master
from torch.func import functional_call

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.batching.waiting import Waiting, advice
from openclip_eclip.checkpoint_files import whole
from openclip_eclip.config import DataError
from openclip_eclip.data.figures import processor_figure
from openclip_eclip.data.map_tensors import to_unit
from openclip_eclip.data.sample import seeded_randomness
from openclip_eclip.data.tables.near_names import did_you_mean
from openclip_eclip.mixup import mix_images
from openclip_eclip.params import Method
from openclip_eclip.streams import FIGURES

logger = logging.getLogger(__name__)


class RunLog:
    """The log of a run, written on its first rank."""

    def __init__(self, args: argparse.Namespace, method: Method) -> None:
        self.args, self.method = args, method
        self.writer: Any = None  # tensorboard's
        # images (N, 3, H, W) and heatmaps (N, 1, H, W) of the first annotated samples
        self.examples: tuple[torch.Tensor, torch.Tensor] | None = None
        self.names: dict[int, str] = {}  # sample_id -> name of an annotated sample

    def take_examples(self, samples: Any) -> None:
        """Keep the first of `samples` for the figures at the start, after priming and at the end.

        A sample whose crop lost its heatmap is left out.
        """
        if not is_master(self.args):
            return
        with seeded_randomness(FIGURES.sequence(self.args.seed)):
            first = [samples[i] for i in range(min(4, len(samples)))]
        annotated = [sample for sample in first if sample.heatmap is not None]
        if annotated:
            images = torch.stack([sample.image for sample in annotated])
            maps = to_unit(torch.stack([sample.heatmap for sample in annotated]))
            self.examples = images, maps

    def step(
        self, step: int, loader: PlannedLoader, loss: Any, views_before: Mapping[int, int]
    ) -> None:
        """Log a line at the steps at which open_clip logs its line."""
        args, steps = self.args, loader.steps_per_epoch
        if not is_master(args) or not self.method.experts:
            return
        count = step % steps + 1
        if (count - 1) % args.log_every_n_steps and count != steps:
            return
        seen = [loader.views[key] + views_before[key] for key in self.names]
        values: dict[str, float] = {
            "expert_probability": loader.curriculum.probability(step),
            "mixed_pairs": loss.mixed_pairs,
        }
        line = "eclip: expert probability {expert_probability:.3f}, mixed pairs {mixed_pairs}"
        if loader.lam_count:
            values["mean_lambda"] = loader.lam_sum / loader.lam_count
            line += ", mean lambda {mean_lambda:.3f}"
        loader.lam_sum, loader.lam_count = 0.0, 0
        if seen:
            values.update(
                views_min=min(seen), views_median=statistics.median(seen), views_max=max(seen)
            )
            line += (
                ", views of an annotated image on this rank"
                " {views_min}/{views_median:g}/{views_max} (min/median/max)"
            )
        logger.info(line.format(**values))
        self._draw_values(values, step)

    def _draw_values(self, values: Mapping[str, float], step: int) -> None:
        """Add values to tensorboard and wandb."""
        named = {f"train/{name}": value for name, value in values.items()}
        if self.writer is not None:
            for name, value in named.items():
                self.writer.add_scalar(name, value, step)
        if self.args.wandb:
            import wandb

            wandb.log(named, step=step)

    def waiting(self, waiting: Waiting, epoch: int, step: int) -> None:
        """Log how long an epoch waited for data, and what helps if a GPU did.

        On a CPU, workers would take the cores that train.
        """
        args = self.args
        if not is_master(args) or not waiting.total:
            return
        helps = ""
        if torch.device(args.device).type != "cpu":
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))
            known = hasattr(os, "sched_getaffinity")  # on Linux: the cores this job may use
            cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
            helps = advice(waiting, args.workers, max(1, cores // ranks), args.fast_jpeg)
        logger.info(
            "eclip: epoch %d waited for data %.3g %% of the time (%.1f of %.1f s)%s",
            epoch,
            100 * waiting.share,
            waiting.seconds,
            waiting.total,
            f": {helps}" if helps else "",
        )
        self._draw_values({"waiting_share": waiting.share}, step)

    def draw(self, model: Any, when: str, step: int) -> None:
        """Draw I, E, I^E and I^lam (lam = 0.5) of the first annotated samples.

        The figure is a PNG in the run folder, and in tensorboard.
        """
        processor: Any = getattr(model, "heatmap_processor", None)
        stored = {} if processor is None else processor.state_dict()
        weights = {name: whole(value) for name, value in stored.items()}  # on all ranks
        if self.examples is None or not is_master(self.args) or not self.args.save_logs:
            return
        dtype = get_input_dtype(self.args.precision)
        image, heatmap = (x.to(self.args.device) for x in self.examples)
        with torch.no_grad():
            pair = (image.to(dtype), heatmap.to(dtype))
            expert_image = functional_call(processor, weights, pair).float()
            mixed = mix_images(image, expert_image, image.new_full((len(image),), 0.5))
        pictures = [x.permute(0, 2, 3, 1).cpu().numpy() for x in (image, expert_image, mixed)]
        original, processed, blended = pictures
        title = f"heatmap processor, {when} (step {step})"
        figure = processor_figure(
            original, heatmap[:, 0].cpu().numpy(), processed, blended, title=title
        )
        folder = Path(self.args.logs, self.args.name, "figures")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"processor_{when}.png", dpi=100)
        if self.writer is not None:
            self.writer.add_figure("eclip/processor", figure, step)

    def end_epoch(self, views: Counter[int], loss: Any) -> None:
        """Write the views of annotated images, and log the repeated texts; both of all ranks."""
        if not is_master(self.args):
            return
        if self.names:
            self._write_views(views)
        if self.method.same_text.active:
            logger.info("eclip: --same-text %s: %s", self.method.same_text.use, loss.repeats.read())

    def _write_views(self, views: Counter[int]) -> None:
        """Write annotated_views.csv: how often each annotated image was in a mixed pair."""
        path = Path(self.args.logs, self.args.name, "annotated_views.csv")
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["sample", "mixed_views"])
            table.writerows([name, views[key]] for key, name in self.names.items())

    def filled_flags(self, filled: Mapping[str, Any]) -> None:
        """Log the flags that a recipe has computed from the data, and add them to params.txt."""
        if not filled:
            return
        text = ", ".join(f"{name} {value}" for name, value in filled.items())
        logger.info("eclip: recipe %s: %s", self.args.recipe, text)
        params = Path(self.args.logs, self.args.name, "params.txt")
        if is_master(self.args) and params.is_file():
            lines = params.read_text().splitlines()
            lines = [line for line in lines if line.split(":")[0] not in filled]
            lines += [f"{name}: {value}" for name, value in filled.items()]
            params.write_text("\n".join(sorted(lines)) + "\n")

    def windows(self, count: int | None, header: list[str]) -> None:
        """Log the number of samples with sentence windows. DataError if there is none.

        `header`: columns of the table of training data.
        """
        if count == 0:
            raise DataError(
                f"--align-windows: no sample of {self.args.train_data or 'the synthetic data'}"
                " carries sentence windows; expected a column 'windows' of .windows.json files, or"
                " members windows.json and windows.npz, as `prepare ... --windows sentence` writes"
                f" them.{'' if 'windows' in header else did_you_mean('windows', header)} Drop the"
                " flag to align whole reports."
            )
        logger.info(
            "eclip: %s samples with sentence windows",
            "an unknown number of" if count is None else count,
        )

    def annotations(
        self, curriculum: Curriculum, annotated: bool, windows: bool, count: int, header: list[str]
    ) -> None:
        """Log how many samples are annotated, and when they are mixed.

        DataError: none is, but a column of the table has nearly the name of that of heatmaps.
        """
        if not annotated and not (windows and self.method.windows):
            column = self.args.csv_heatmap_key or "heatmap"
            near = "" if column in header else did_you_mean(column, header)
            if near:
                raise DataError(
                    f"{self.args.train_data}: no heatmap, and no column {column!r}.{near} Name the"
                    " column with --csv-heatmap-key, or train with --method clip."
                )
            logger.warning(
                "eclip: no heatmap in the data: %s",
                "no pair is added" if self.method.experts else "nothing is aligned",
            )
        if self.args.eclip_placebo:
            logger.warning(
                "eclip: --eclip-placebo %s: every heatmap is a placebo",
                self.args.eclip_placebo,
            )
        if not self.method.experts:
            logger.info("eclip: %d annotated samples", count)
            return
        logger.info(
            "eclip: %d annotated samples; cold start (priming) before step %d, warm-up before %d,"
            " cool-down before %d, then p = %g",
            count,
            curriculum.cold_end,
            curriculum.warm_end,
            curriculum.cool_end,
            curriculum.config.end,
        )
