"""Shows where a model looks: `openclip-eclip attend`.

openclip-eclip attend IMAGE... --text 'a dog' --model ViT-B-16 --pretrained openai --out attention
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .annotations.drawn.predicted import Predicted
from .annotations.drawn.write_coco import write_coco
from .attend_samples import Sample, read_samples, with_heatmaps
from .attention.attend import refuse_coca
from .attention.gallery import GalleryImage, write_gallery
from .attention.methods import FLOORS, METHODS, attention_maps, default_method
from .attention.overlay import look_at
from .config import UserError
from .data.images.options import read_options
from .data.images.read import read_picture
from .data.sample import read_heatmap
from .evaluate.inputs.encoder import RANDOM, Encoder, load_encoder, tokenize
from .evaluate.options import add_compute_arguments
from .files import write_whole
from .json_text import counted
from .prepare.writer import write_table
from .subcommands import exit_code
from .towers.image_size import at_size


class Opened(NamedTuple):
    """A sample, read: `expert` (h, w) over the whole image."""

    sample: Sample
    image: Image.Image
    texts: Sequence[str]
    expert: np.ndarray | None


class Shown(NamedTuple):
    """A model, its name on the page ("": it is the only one), and its methods."""

    name: str
    encoder: Encoder
    methods: Sequence[str]

    def title(self, method: str) -> str:
        """The name of its maps by this method."""
        return f"{self.name} {method}".strip()


class Attended(NamedTuple):
    """Maps of a batch for all its pairs, by their titles, and the similarity of each pair."""

    maps: dict[str, np.ndarray]  # (pairs, h, w)
    cosines: list[float]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openclip-eclip attend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="methods:\n" + "\n".join(f"  {name:<11} {one[0]}" for name, one in METHODS.items()),
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="images, folders of them, or a table with filepath and, for its own texts, title",
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        help="what to look for; may be given several times (default: the texts of the table)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=(
            "how attention is read; the map of pool is the same for every text (default: pool if"
            " the tower has one, rollout for a plain ViT without a pool, else similarity)"
        ),
    )
    parser.add_argument(
        "--heatmap-column",
        default="heatmap",
        help="column of a table with the experts' maps, shown beside (default: %(default)s)",
    )
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="TABLE",
        help="table with filepath and the heatmap column, if that of the images has no such column",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    _add_models(parser)
    parser.add_argument(
        "--force-image-size",
        type=int,
        nargs="+",
        metavar="N",
        help=(
            "side, or height and width, of the images that the model gets, in pixels; positions of"
            " ViTs are interpolated (default: the model's own)"
        ),
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        help="number of pairs of image and text computed at once (default: %(default)s)",
    )
    add_compute_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write to")
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    # one list for both, which keeps what belongs together
    parser.add_argument(
        "--model",
        dest="models",
        required=True,
        action="append",
        type=lambda value: ("model", value),
        metavar="MODEL",
        help=(
            "model to show: a model name of open_clip (with or without the prefix eclip-),"
            " local-dir:FOLDER, the folder of a training run, which stands for its newest"
            " checkpoint, or a checkpoint file in it; may be given several times"
        ),
    )
    parser.add_argument(
        "--pretrained",
        dest="models",
        action="append",
        type=lambda value: ("pretrained", value),
        metavar="TAG_OR_FILE",
        help=(
            f"weights of the --model before it, a tag or file as in open_clip; '{RANDOM}' takes an"
            " untrained model"
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Writes OUT; 2 and one line on stderr for a user's error."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: run(args))


def run(args: argparse.Namespace) -> str:
    """Reads, attends, and writes maps, overlays, regions, a table and a page; the summary."""
    for flag, value in (("--limit", args.limit), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value}: expected at least 1.")
    given, size = read_models(args.models), read_size(args.force_image_size)
    samples = read_samples(args.images, args.heatmap_column)[: args.limit]
    if args.heatmaps is not None:
        samples = with_heatmaps(samples, args.heatmaps, args.heatmap_column)
    if not args.text and not all(sample.text for sample in samples):
        raise UserError("no --text, and images without texts; expected --text 'what to look for'.")
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"--out {args.out}: not empty; expected a new or empty folder.")
    models = []
    for name, (model, pretrained) in zip(model_names(given), given):
        encoder = load_encoder(model, pretrained, args.precision, args.device)
        refuse_coca(encoder.model)
        methods = args.methods or [default_method(encoder.model)]
        models.append(Shown(name if len(given) > 1 else "", encoder, methods))
    for folder in ("maps", "overlays"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    regions: list[Predicted] = []
    note = "; ".join([", ".join(model for model, _ in given), ", ".join(args.methods or [])])
    note = note.removesuffix("; ")
    same = same_for_every_text(models)
    size_of_page = write_gallery(
        args.out / "gallery.html",
        _written(args, _attended(args, models, samples, size), rows, regions),
        "Where the model looks",
        [note, *same],
        "Method" if len(given) == 1 else "Model and method",
    )
    write_coco(args.out / "regions.json", regions, note)
    write_table(args.out / "attend.csv", rows)
    summary = (
        f"{counted(len(samples), 'image')}, {counted(len(rows), 'map')} in {args.out}: gallery.html"
        f" ({size_of_page / 1e6:.1f} MB), overlays, maps, regions.json, attend.csv"
    )
    return "\n".join([summary, *same])


def same_for_every_text(models: Sequence[Shown]) -> list[str]:
    """A sentence on the methods whose map does not depend on the text, if one is shown."""
    shown = {method: None for model in models for method in model.methods}  # in order
    same = [method for method in shown if not METHODS[method].by_text and method not in FLOORS]
    if not same:
        return []
    others = ", ".join(method for method, one in METHODS.items() if one.by_text)
    return [
        f"The map of {', '.join(same)} is the same for every text. These --methods depend on the"
        f" text, where the image tower has them: {others}."
    ]


def read_models(given: Sequence[tuple[str, str]]) -> list[tuple[str, str | None]]:
    """(model, weights) of --model and --pretrained in the order of the command line.

    UserError: weights that belong to no model, or two for one.
    """
    count = sum(flag == "model" for flag, _ in given)
    if count == 1:  # in any order
        given = sorted(given)
    models: list[tuple[str, str | None]] = []
    for flag, value in given:
        if flag == "model":
            models.append((value, None))
        elif not models or models[-1][1] is not None:
            raise UserError(
                f"--pretrained {value}: expected one after each --model that needs weights."
            )
        else:
            models[-1] = (models[-1][0], value)
    return models


def model_names(models: Sequence[tuple[str, str | None]]) -> list[str]:
    """A short name of each, all different."""
    names: list[str] = []
    for model, pretrained in models:
        name = " ".join(map(_short_name, filter(None, (model, pretrained))))
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def _short_name(model: str) -> str:
    """The last part of a path; of a checkpoint in a run its run, too."""
    path = Path(model)
    return f"{path.parents[1].name} {path.stem}" if path.parent.name == "checkpoints" else path.name


def read_size(sides: Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of --force-image-size. UserError: no one or two sides."""
    if sides is None:
        return None
    if len(sides) > 2 or min(sides) < 1:
        raise UserError(
            f"--force-image-size {' '.join(map(str, sides))}: expected a side in pixels, or height"
            " and width."
        )
    return sides[0], sides[-1]


def _attended(
    args: argparse.Namespace,
    models: Sequence[Shown],
    samples: Sequence[Sample],
    size: tuple[int, int] | None,
) -> Iterator[tuple[Opened, list[Attended]]]:
    """Each image with the maps of every model, by batches."""
    # the texts of the command are encoded once, those of a table with their images
    given = [
        one.encoder.encode_texts(tokenize(one.encoder, args.text)) if args.text else None
        for one in models
    ]
    step = max(1, args.batch_size // max(1, len(args.text)))
    with tqdm(total=len(samples), unit="image", desc="attend", disable=None) as progress:
        for first in range(0, len(samples), step):
            batch = [_open(args, sample) for sample in samples[first : first + step]]
            of_models = [
                _attend(model, batch, features, size) for model, features in zip(models, given)
            ]
            for one in zip(batch, *of_models):
                yield one[0], list(one[1:])
            progress.update(len(batch))


def _open(args: argparse.Namespace, sample: Sample) -> Opened:
    """UserError: an image or a heatmap that cannot be read."""
    reading = read_options(args)
    picture = read_picture(sample.path, str(sample.path), reading)
    expert = None
    if sample.heatmap is not None:
        content = sample.heatmap.read_bytes()
        expert = read_heatmap(content, str(sample.heatmap), picture.frame, reading)
    return Opened(sample, picture.image, args.text or [sample.text], expert)


def _attend(
    model: Shown, batch: Sequence[Opened], features: Tensor | None, size: tuple[int, int] | None
) -> list[Attended]:
    """The maps of one model, by image. `features` (T, D): of texts that all images share."""
    encoder = model.encoder
    transform = encoder.whole_image_transform(size)
    pixels = torch.stack([transform(one.image.convert("RGB")) for one in batch])
    pixels = encoder.to_input(pixels)
    texts = [text for one in batch for text in one.texts]
    if features is None:
        features = encoder.encode_texts(tokenize(encoder, texts))
    else:
        features = features.repeat(len(batch), 1)
    owner = torch.arange(len(batch)).repeat_interleave(len(texts) // len(batch))
    with at_size(encoder.model.visual, size):
        cosines = (encoder.encode_images(pixels)[0][owner] * features).sum(dim=1)
        moved, rows = features.to(encoder.device), owner.to(encoder.device)
        maps = {
            model.title(method): attention_maps(method, encoder.model, pixels, moved, rows).cpu()
            for method in model.methods
        }
    return [
        Attended(
            {title: values[owner == i].numpy() for title, values in maps.items()},
            cosines[owner == i].tolist(),
        )
        for i in range(len(batch))
    ]


def _written(
    args: argparse.Namespace,
    attended: Iterator[tuple[Opened, list[Attended]]],
    rows: list[dict[str, object]],
    regions: list[Predicted],
) -> Iterator[GalleryImage]:
    """The images of the page, one at a time; writes their files, fills `rows` and `regions`."""
    for (sample, image, texts, expert), of_models in attended:
        maps: dict[str, np.ndarray] = {}
        hits = {}
        for title, of_title, cosines in (
            (title, values, one.cosines) for one in of_models for title, values in one.maps.items()
        ):
            name = f"{sample.name}-{_plain(title)}"
            write_whole(args.out / "maps" / f"{name}.npy", _npy(of_title))
            looks = [
                look_at(image, text, one, cosine, expert)
                for text, one, cosine in zip(texts, of_title, cosines)
            ]
            maps[title], hits[title] = of_title, [look.hit for look in looks]
            for i, look in enumerate(looks):
                rows.append({"filepath": str(sample.path), "method": title, **look.row})
                write_whole(args.out / "overlays" / f"{name}-{i}.png", look.png)
            shape = (image.height, image.width)
            file = f"{sample.name}{sample.path.suffix} {title}"
            regions.append(Predicted(file, shape, [look.region for look in looks]))
        yield GalleryImage(sample.name, image, texts, maps, expert, hits)


def _plain(title: str) -> str:
    """A part of a file name."""
    return re.sub(r"[^\w.()-]+", "_", title)


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
