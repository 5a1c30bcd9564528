"""The images that `attend` shows: files, folders, and tables with texts and experts' maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .config import UserError
from .data.tables.csv_source import locate, read_columns
from .data.tables.missing_text import file_cell
from .evaluate.inputs.heatmaps import heatmap_cells
from .prepare.annotations.match import image_files


class Sample(NamedTuple):
    """An image, its own text ("": none) and its expert's map."""

    name: str
    path: Path
    text: str = ""
    heatmap: Path | None = None


def read_samples(sources: Sequence[Path], heatmap_column: str) -> list[Sample]:
    """The images of files, folders and tables. UserError: none, or no such file."""
    samples: list[Sample] = []
    for source in sources:
        if source.suffix in (".csv", ".tsv"):
            samples += _of_table(source, heatmap_column)
        elif source.is_dir():
            samples += [Sample(_key(Path(n)), path) for n, path in image_files(source).items()]
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
    """The samples with the experts' maps of a table.

    UserError: as `heatmap_cells`, or no image fits.
    """
    cells = heatmap_cells(path, column)
    heatmaps = {
        locate(file, path.parent).resolve(): locate(file_cell(cell), path.parent)
        for file, cell in cells.items()
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
    samples = []
    for row in frame.to_dict("records"):
        heatmap = file_cell(row.get(heatmap_column, ""))
        samples.append(
            Sample(
                _key(Path(row["filepath"])),
                locate(row["filepath"], path.parent),
                row.get("title", ""),
                locate(heatmap, path.parent) if heatmap else None,
            )
        )
    return samples


def _key(path: Path) -> str:
    """A name for files, without the suffix."""
    return "_".join(path.with_suffix("").parts).replace(" ", "_")
