"""--keep-best grounding: where the trained attention lies on annotated rows of --val-data."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from open_clip import get_input_dtype
from open_clip_train.distributed import is_master
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from openclip_eclip.attention.methods import attention_maps, trained_method
from openclip_eclip.config import DataError, UserError
from openclip_eclip.data.enlarge import enlarge
from openclip_eclip.data.heatmap import unit_map
from openclip_eclip.data.images.options import read_options
from openclip_eclip.data.joint_transform import Crop, JointTransform
from openclip_eclip.data.sample import Samples, collate
from openclip_eclip.data.shards.index import CheckOptions
from openclip_eclip.data.shards.tar_source import TarSamples
from openclip_eclip.data.tables.csv_source import CsvSamples
from openclip_eclip.evaluate.inputs.heatmaps import crop_map, geometric_steps
from openclip_eclip.metrics.saliency import nss
from openclip_eclip.towers.host import HostModel

from .shard_flags import local_shards
from .signals import ignore_in_worker
from .train_data import good_rows, is_table, shard_reports

logger = logging.getLogger(__name__)


class ValidationView(JointTransform):
    """The transform of validation for an image and its maps, which draws nothing."""

    def __init__(self, transform: Any) -> None:
        self.whole, self.steps, self.crops = transform, geometric_steps(transform), None

    def with_windows(
        self,
        image: Image.Image,
        heatmap: np.ndarray | None,
        placebo: np.ndarray | None,
        windows: Sequence[np.ndarray] | np.ndarray,
        crop: Crop | None = None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """The image (3, H, W), and each map (1, H, W); a map is None if the crop lost it."""
        cropped = None if heatmap is None else self._crop_centre(unit_map(heatmap), image)
        return self.whole(image), cropped, [self._crop_centre(window, image) for window in windows]

    def _crop_centre(self, values: np.ndarray, image: Image.Image) -> Tensor | None:
        cropped = torch.from_numpy(crop_map(values, image.size, self.steps))[None]
        return cropped if cropped.any() else None


class Grounding:
    """Mean NSS of a model's attention on the maps of `samples`.

    The attention is that which --method align trains: of the image tower's learned pool, else the
    similarity of each position to the text. `windows`: each sentence on its own map, else the
    caption on the map of the image.
    """

    def __init__(
        self, args: argparse.Namespace, model: nn.Module, samples: Samples, windows: bool
    ) -> None:
        self.args, self.model, self.windows = args, model, windows
        self.method = trained_method(cast(HostModel, model))
        self.loader = DataLoader(
            cast(Any, samples),
            args.batch_size,
            collate_fn=collate,
            num_workers=args.workers,
            worker_init_fn=ignore_in_worker,
            # the loader draws from it and not from the stream of the training
            generator=torch.Generator(),
        )

    @torch.no_grad()
    def measure(self) -> float:
        """The mean over maps. UserError: no map has a region within the crop of validation."""
        self.model.eval()
        scores: list[float] = []
        for batch in self.loader:
            rows, texts, maps = batch.annotated, batch.text[batch.annotated], batch.heatmap
            if self.windows:
                rows, texts, maps = batch.sentence_row, batch.sentence_text, batch.sentence_heatmap
            if len(rows):
                large = self._attention(batch.image, texts, rows, maps.shape[-2:])
                scores += [nss(one, gaze) for one, gaze in zip(large, maps[:, 0].double().numpy())]
        if not scores:
            raise UserError(
                f"--keep-best grounding: no heatmap of {self.args.val_data} lies within the centre"
                " crop of the validation transform; take another measure, or"
                " --image-resize-mode longest."
            )
        return float(np.mean(scores))

    def _attention(
        self, images: Tensor, texts: Tensor, rows: Tensor, size: Sequence[int]
    ) -> np.ndarray:
        """Attention (T, H, W) float64 of T texts on their images, `rows` (T,) of `images`."""
        device = self.args.device
        model = cast(HostModel, self.model)
        features = normalize(model.encode_text(texts.to(device)).float(), dim=-1)
        pixels = images.to(device, get_input_dtype(self.args.precision))
        maps = attention_maps(self.method, model, pixels, features, rows.to(device))
        return enlarge(maps.double().cpu(), size).numpy()


def build(
    args: argparse.Namespace, model: nn.Module, transform: Any, tokenizer: Callable, windows: bool
) -> Grounding | None:
    """Check the heatmaps of --val-data, on all ranks; the first one gets the measure.

    `transform`: of validation. `windows`: sentence windows are measured if there are any, else
    heatmaps if there are any. DataError: bad ones, or none.
    """
    view = ValidationView(transform)
    if is_table(args.val_data, args.dataset_type):
        samples, windows = _rows(args, view, tokenizer, windows)
    else:
        samples, windows = _members(args, view, tokenizer, windows)
    if not is_master(args):
        return None
    logger.info(
        "eclip: --keep-best grounding: %d samples of --val-data with %s",
        len(samples),
        "sentence windows" if windows else "a heatmap",
    )
    return Grounding(args, model, samples, windows)


def _rows(
    args: argparse.Namespace, view: ValidationView, tokenizer: Callable, windows: bool
) -> tuple[Samples, bool]:
    table = good_rows(args, args.val_data, heatmaps=True, windows=True, heatmap_named=False)
    described = [i for i, path in enumerate(table.windows) if path is not None]
    windows = bool(described) and (windows or not table.annotated)
    rows = described if windows else table.annotated
    if not rows:
        raise _none(args, f"a column {table.columns.heatmap!r} or 'windows'.{table.near_heatmap}")
    samples = CsvSamples(
        table.keep(rows),
        view,
        tokenizer,
        skip_bad=args.on_bad_sample == "skip",
        windows=windows,
        options=read_options(args),
    )
    return samples, windows


def _members(
    args: argparse.Namespace, view: ValidationView, tokenizer: Callable, windows: bool
) -> tuple[Samples, bool]:
    shards, read = local_shards(args.val_data), read_options(args)
    if shards is None:
        raise _none(args, "shards on this machine")
    reports = shard_reports(
        args, shards, args.val_data, CheckOptions(windows=True, images=True, read=read)
    )
    entries = [entry for report in reports for entry in report.annotated]
    described = [entry for entry in entries if entry.with_windows]
    windows = bool(described) and windows
    entries = described if windows else entries
    if not entries:
        raise _none(args, "members heatmap.png, .npy or .npz")
    ids = range(len(entries))
    return TarSamples(entries, view, tokenizer, ids, windows=windows, options=read), windows


def _none(args: argparse.Namespace, expected: str) -> DataError:
    return DataError(
        f"--keep-best grounding: no heatmap in --val-data {args.val_data}; expected {expected}"
    )
