"""The samples of a contact sheet: spread over a table or shard, one of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from .figures import Example, WindowExample
from .images.options import ReadOptions
from .images.read import read_frame
from .sample import read_windows
from .sentence_windows import file_windows
from .shards.tar_source import TarEntry, entry_windows
from .suspicious_maps import fingerprint
from .tables.csv_source import CsvTable

SHEET, WINDOW_ROWS = 12, 4  # samples with a heatmap, and rows of sentences, on one sheet
TRIES = 10  # at most this many samples are read for each that is drawn

Drawn = TypeVar("Drawn", Example, WindowExample)


class SheetSamples(NamedTuple):
    """What can be drawn of one path: number, and what reads at most so many samples."""

    examples: Callable[[int], list[Example]]
    with_windows: Callable[[int], list[WindowExample]]


def spread(count: int, read: Callable[[int], Drawn], most: int) -> list[Drawn]:
    """At most `most` of `count` samples, in their order: evenly spread, each of another image.

    Images are the same if their content is equal. The same samples are chosen again.
    """
    # any beginning of the numbers in the order of their reversed bits is spread evenly
    order = sorted(range(count), key=lambda i: f"{i:064b}"[::-1])
    chosen: dict[bytes, tuple[int, Drawn]] = {}
    for i in order[: TRIES * most]:
        if len(chosen) == most:
            break
        sample = read(i)
        chosen.setdefault(fingerprint(sample[0]), (i, sample))
    return [sample for _, sample in sorted(chosen.values(), key=lambda one: one[0])]


def of_entries(entries: Sequence[TarEntry], options: ReadOptions) -> SheetSamples:
    """The samples of good entries of a shard."""
    annotated = [entry for entry in entries if entry.annotated]
    spoken = [entry for entry in entries if entry.with_windows]

    def example(i: int) -> Example:
        entry = annotated[i]
        text = entry.read("txt")["txt"].decode()
        name = f"{entry.key}.{entry.heatmap_key}"
        return entry.read_image(), entry.read_heatmap(), name, text

    def window_example(i: int) -> WindowExample:
        entry = spoken[i]
        windows = entry_windows(entry)
        assert windows is not None, "an entry without a fault has both files or none"
        return _window_example(entry.read_image(), windows, entry.key, options)

    return SheetSamples(
        lambda most: spread(len(annotated), example, most),
        lambda most: spread(len(spoken), window_example, most),
    )


def of_table(table: CsvTable, good: Sequence[int], options: ReadOptions) -> SheetSamples:
    """The samples of the rows `good` of a table."""
    annotated = [(i, heatmap) for i in good if (heatmap := table.heatmaps[i])]
    spoken = [(i, text) for i in good if table.windows and (text := table.windows[i])]

    def example(number: int) -> Example:
        i, heatmap = annotated[number]
        content = table.image(i).read_bytes(), heatmap.read_bytes()
        return *content, heatmap.name, table.captions[i]

    def window_example(number: int) -> WindowExample:
        i, text = spoken[number]
        image = table.image(i).read_bytes()
        return _window_example(image, file_windows(text, options), text.name, options)

    return SheetSamples(
        lambda most: spread(len(annotated), example, most),
        lambda most: spread(len(spoken), window_example, most),
    )


def _window_example(
    image: bytes, windows: tuple[bytes, bytes], name: str, options: ReadOptions
) -> WindowExample:
    """Decode the windows of a sample, to be drawn over its image."""
    return image, read_windows(*windows, name, read_frame(image, name, options), options), name
