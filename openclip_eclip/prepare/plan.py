"""The plan of a data set: its samples by split, and what is left out, counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..gaze import Annotation, RenderConfig
from ..json_text import counted

EXAMPLES = 3  # ids that are named for each reason of leaving something out


@dataclass(frozen=True)
class Window:
    """One sentence, and the gaze recorded while it was dictated; or a phrase and its region.

    Times are in seconds on the clock of the recording, and NaN for a phrase.
    """

    sentence: str
    start: float
    end: float
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class Item:
    """One sample to be written."""

    # unique in the data set; letters, digits, - and _ (webdataset ends a key at the first dot)
    key: str
    image: Path
    text: str
    annotations: tuple[Annotation, ...] = ()  # one for each reader; empty: not annotated
    # (height, width) in the tables; another size of the file is an error
    size: tuple[int, int] | None = None
    # further columns of the table; in shards, the content of key.json
    columns: Mapping[str, str | int | float] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()
    config: RenderConfig = RenderConfig()  # how annotations and windows are drawn
    merge: str = "mean"  # how several readers are merged: mean, noisy-or or one
    colour: bool = False  # written in colour if the file has colours; else in grey
    # where the stored and the upright image have one size, positions count the upright one
    upright: bool = False
    scanpath: bool = False  # order and durations of the fixations are written, too

    @property
    def patient(self) -> str:
        """The column `patient`; every data set with several images of a patient has it."""
        return str(self.columns["patient"])

    @property
    def study(self) -> str:
        """The column `study`: the study of MIMIC-CXR, also in the gaze data sets of its images."""
        return str(self.columns["study"])


@dataclass
class Plan:
    """A data set before its images are read.

    `tables` are the files it is made from; their hashes go into the manifest.
    """

    name: str
    splits: dict[str, list[Item]] = field(default_factory=dict)
    evaluation: dict[str, EvaluationSet] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    # what --dry-run prints besides the counts: rows, patients, labels
    facts: dict[str, Any] = field(default_factory=dict)
    kept: object = None  # owns the temporary files that the items name; they live as long as it

    def leave_out(self, reason: str, identity: str, count: int = 1) -> None:
        """Counts something that is not written, and keeps the first few names."""
        self.left_out[reason] += count
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            names.append(identity)

    def summary(self) -> str:
        """The text that --dry-run prints."""
        lines = [f"{self.name}:"]
        lines += [f"  {name}: {value}" for name, value in self.facts.items()]
        lines += [
            f"  split {name}: {counted(len(items), 'sample')},"
            f" {sum(bool(item.annotations) for item in items)} annotated"
            for name, items in self.splits.items()
        ]
        for name, evaluation in self.evaluation.items():
            counts = ", ".join(
                f"{label} {count}" for label, count in evaluation.class_counts().items()
            )
            images = counted(len(evaluation.items), "image")
            lines.append(f"  evaluation set {name}: {images} ({counts})")
        lines += [
            f"  left out, {reason}: {count} (such as {', '.join(self.examples[reason])})"
            for reason, count in self.left_out.items()
        ]
        return "\n".join(lines)


@dataclass
class EvaluationSet:
    """Labelled images, and the rule by which they were chosen.

    `items` have a column `label`, or one 0/1 column for each class.
    """

    items: list[Item]
    classes: list[str]
    rule: str  # a description with its source
    seed: int | None = None

    def class_counts(self) -> dict[str, int]:
        """{class: number of images}; an image counts for each of its classes."""
        if self.items and "label" in self.items[0].columns:
            counts = Counter(item.columns["label"] for item in self.items)
            return {name: counts[name] for name in self.classes}
        return {
            name: sum(int(item.columns.get(name, 0) == 1) for item in self.items)
            for name in self.classes
        }
