"""Shows where a model looks: `openclip-eclip attend`.

openclip-eclip attend IMAGE... --text 'a dog' --model ViT-B-16 --pretrained openai --out attention
"""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import interpolate
from tqdm import tqdm

from .annotations.drawn.predicted import Predicted, Region
from .annotations.drawn.write_coco import write_coco
from .attention.attend import refuse_coca
from .attention.gallery import GalleryImage, write_gallery
from .attention.methods import METHODS, attention_maps, default_method, image_of_texts
from .config import UserError
from .data.figures import blend
from .data.images.options import read_options
from .data.images.read import read_picture
from .data.sample import read_heatmap
from .data.tables.csv_source import read_columns
from .evaluate.inputs.encoder import Encoder, tokenize
from .evaluate.options import add_model_arguments, read_encode_numbers, read_encoder
from .files import write_whole
from .metrics.pointing import marked_region
from .prepare.annotations.match import SUFFIXES
from .prepare.writer import write_table
from .subcommands import exit_code

INSIDE = 0.5  # of the way from the minimum to the maximum of a map: in the region
FLAT = 1e-6  # relative range below which a map has no contrast
SMALLEST, SHOWN = 400, 640  # pixels of the longer side of an overlay
LETTER, LINE = 7, 18  # pixels of a letter and a line of its caption


class Sample(NamedTuple):
    """An image, its own text ("": none) and its expert's map."""

    name: str
    path: Path
    text: str = ""
    heatmap: Path | None = None


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
        help="how attention is read (default: pool if the tower has one, else similarity)",
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
    add_model_arguments(parser)
    parser.set_defaults(batch_size=16)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write to")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Writes OUT; 2 and one line on stderr for a user's error."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: run(args))


def run(args: argparse.Namespace) -> str:
    """Reads, attends, and writes maps, overlays, regions, a table and a page; the summary."""
    read_encode_numbers(args)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: expected at least 1.")
    samples = read_samples(args.images, args.heatmap_column)[: args.limit]
    if args.heatmaps is not None:
        samples = with_heatmaps(samples, args.heatmaps, args.heatmap_column)
    if not args.text and not all(sample.text for sample in samples):
        raise UserError("no --text, and images without texts; expected --text 'what to look for'.")
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"--out {args.out}: not empty; expected a new or empty folder.")
    encoder = read_encoder(args)
    refuse_coca(encoder.model)
    methods = args.methods or [default_method(encoder.model)]
    for folder in ("maps", "overlays"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    regions: list[Predicted] = []
    shown = _attended(args, encoder, samples, methods, rows, regions)
    size = write_gallery(
        args.out / "gallery.html",
        shown,
        "Where the model looks",
        f"{args.model}; {', '.join(methods)}",
    )
    write_coco(args.out / "regions.json", regions, f"{args.model}, {', '.join(methods)}")
    write_table(args.out / "attend.csv", rows)
    return (
        f"{len(samples)} images, {len(rows)} maps in {args.out}: gallery.html"
        f" ({size / 1e6:.1f} MB), overlays, maps, regions.json, attend.csv"
    )


def _attended(
    args: argparse.Namespace,
    encoder: Encoder,
    samples: Sequence[Sample],
    methods: Sequence[str],
    rows: list[dict[str, object]],
    regions: list[Predicted],
) -> Iterator[GalleryImage]:
    """The images of the page, one at a time; writes their files, fills `rows` and `regions`."""
    reading, transform = read_options(args), encoder.whole_image_transform()
    # the texts of the command are encoded once, those of a table with their images
    given = encoder.encode_texts(tokenize(encoder, args.text)) if args.text else None
    for sample in tqdm(samples, unit="image", desc="attend", disable=None):
        picture = read_picture(sample.path, str(sample.path), reading)
        image, texts = picture.image, args.text or [sample.text]
        pixels = encoder.to_input(transform(image.convert("RGB"))[None])
        features = encoder.encode_texts(tokenize(encoder, texts)) if given is None else given
        cosines = (encoder.encode_images(pixels)[0] @ features.T)[0].tolist()
        moved = features.to(encoder.device)
        owner = image_of_texts(1, len(texts), encoder.device)
        expert = None
        if sample.heatmap is not None:
            content = sample.heatmap.read_bytes()
            expert = read_heatmap(content, str(sample.heatmap), picture.frame, reading)
        maps = {
            method: attention_maps(method, encoder.model, pixels, moved, owner).cpu().numpy()
            for method in methods
        }
        scores = {}
        for method, of_method in maps.items():
            write_whole(args.out / "maps" / f"{sample.name}-{method}.npy", _npy(of_method))
            looks = [
                look_at(image, text, one, cosine, expert)
                for text, one, cosine in zip(texts, of_method, cosines)
            ]
            scores[method] = [look.agreement for look in looks]
            for i, look in enumerate(looks):
                rows.append({"filepath": str(sample.path), "method": method, **look.row})
                write_whole(args.out / "overlays" / f"{sample.name}-{method}-{i}.png", look.png)
            name, size = f"{sample.path.name} {method}", (image.height, image.width)
            regions.append(Predicted(name, size, [look.region for look in looks]))
        yield GalleryImage(sample.name, image, texts, maps, expert, scores)


class Look(NamedTuple):
    """What is written of one map."""

    row: dict[str, object]
    region: Region
    agreement: float  # 1 if the maximum is in the region that the expert marked; NaN: none
    png: bytes


def look_at(
    image: Image.Image, text: str, attention: np.ndarray, cosine: float, expert: np.ndarray | None
) -> Look:
    """The row, region and picture of one map (h, w) of an image, enlarged to it."""
    large = enlarge(attention, (image.height, image.width))
    low, high = float(attention.min()), float(attention.max())
    # rounding of a map without contrast marks nothing
    is_flat = high - low <= FLAT * max(abs(low), abs(high))
    mask = np.zeros(large.shape, bool) if is_flat else large >= low + INSIDE * (high - low)
    agreement = _inside(large, expert)
    y, x = (int(at) for at in np.unravel_index(large.argmax(), large.shape))
    row: dict[str, object] = {"text": text, "similarity": f"{cosine:.4f}", "x": x, "y": y}
    row["inside expert's region"] = "" if np.isnan(agreement) else int(agreement)
    longer = max(image.size)
    scale = min(max(longer, SMALLEST), SHOWN) / longer
    shown = image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1))
    picture = blend(shown, (large - low) / ((high - low) or 1))
    png = _captioned(picture, f"{text}  (similarity {cosine:.3f})")
    return Look(row, Region(text, mask), agreement, png)


def enlarge(attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) on an image of `size` (height, width), bilinear, float32."""
    values = torch.from_numpy(np.ascontiguousarray(attention, dtype=np.float32))
    return interpolate(values[None, None], size=size, mode="bilinear")[0, 0].numpy()


def _inside(large: np.ndarray, expert: np.ndarray | None) -> float:
    """1 if the maximum is in the region that the expert marked, else 0; NaN without one."""
    if expert is None:
        return float("nan")
    region = enlarge(marked_region(np.asarray(expert)).astype(np.float32), large.shape) >= 0.5
    return float(region.ravel()[large.argmax()])


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _captioned(picture: Image.Image, caption: str) -> bytes:
    """A PNG of the picture with a text below."""
    lines = textwrap.wrap(caption, max(picture.width // LETTER, 20))
    sheet = Image.new("RGB", (picture.width, picture.height + LINE * len(lines) + 4), "white")
    sheet.paste(picture, (0, 0))
    font = ImageFont.load_default(14)
    ImageDraw.Draw(sheet).text((4, picture.height), "\n".join(lines), "black", font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def read_samples(sources: Sequence[Path], heatmap_column: str) -> list[Sample]:
    """The images of files, folders and tables. UserError: none, or no such file."""
    samples: list[Sample] = []
    for source in sources:
        if source.suffix in (".csv", ".tsv"):
            samples += _of_table(source, heatmap_column)
        elif source.is_dir():
            paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
            samples += [Sample(_key(path.relative_to(source)), path) for path in paths]
        elif source.is_file():
            samples.append(Sample(_key(Path(source.name)), source))
        else:
            raise UserError(f"{source}: no such file; expected an image, a folder, or a table.")
    if not samples:
        raise UserError(f"{', '.join(map(str, sources))}: no image.")
    names: dict[str, int] = {}
    for i, sample in enumerate(samples):
        names[sample.name] = count = names.get(sample.name, 0) + 1
        if count > 1:
            samples[i] = sample._replace(name=f"{sample.name}_{count}")
    return samples


def with_heatmaps(samples: Sequence[Sample], path: Path, column: str) -> list[Sample]:
    """The samples with the experts' maps of a table. UserError: no column, or no image fits."""
    frame = read_columns(path)
    for name in ("filepath", column):
        if name not in frame:
            raise UserError(f"{path}: columns {', '.join(frame)}; expected one called {name}.")
    heatmaps = {
        (path.parent / row["filepath"]).resolve(): path.parent / row[column]
        for row in frame.to_dict("records")
        if row[column]
    }
    found = [
        sample._replace(heatmap=heatmaps.get(sample.path.resolve(), sample.heatmap))
        for sample in samples
    ]
    if not any(sample.heatmap for sample in found):
        raise UserError(
            f"--heatmaps {path}: none of its {len(heatmaps)} images is one of the {len(samples)}"
            " images shown; expected the same files."
        )
    return found


def _of_table(path: Path, heatmap_column: str) -> list[Sample]:
    frame = read_columns(path)
    if "filepath" not in frame:
        raise UserError(f"{path}: columns {', '.join(frame)}; expected one called filepath.")
    return [
        Sample(
            _key(Path(row["filepath"])),
            path.parent / row["filepath"],
            row.get("title", ""),
            path.parent / row[heatmap_column] if row.get(heatmap_column) else None,
        )
        for row in frame.to_dict("records")
    ]


def _key(path: Path) -> str:
    """A name for files, without the suffix."""
    return "_".join(path.with_suffix("").parts).replace(" ", "_")


if __name__ == "__main__":
    sys.exit(main())
