"""EyeLink ASC (edf2asc): fixation events, or samples where there are none."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...gaze import Fixations
from ..record import LeaveOut, Recording
from .options import GazeSetting, gaze_setting
from .placement import make_placement
from .samples import recording_of_samples

EYES = {"L": "left", "R": "right"}
PICTURE = r"([^\s\"]+\.(?:png|jpe?g|bmp|tiff?|gif|dcm|webp|tga))"
LOAD = re.compile(r"!V IMGLOAD (FILL|CENTER|TOP_LEFT)\s+(\S+)\s*(.*)", re.IGNORECASE)
VARIABLE = re.compile(
    r"!V TRIAL_VAR (?:image|img|picture|stimulus|stim|file|filename)\w*\s+(\S+)", re.IGNORECASE
)
TRIAL = re.compile(r"TRIALID\b\s*(.*)")
NAMED = re.compile(rf"(?:^|[\s:=\"/\\]){PICTURE}", re.IGNORECASE)
SCREEN = re.compile(r"(?:DISPLAY_COORDS|GAZE_COORDS)\s*=?\s*(-?[\d.]+(?:[ ,]+-?[\d.]+){3})")
VALIDATION = re.compile(r"!CAL VALIDATION .*ERROR\s+([\d.]+)\s+avg", re.IGNORECASE)
RATE = re.compile(r"^SAMPLES\s")


@dataclass(eq=False)
class _Trial:
    line: int
    name: str = ""  # what TRIALID says
    image: str = ""
    onset: float | None = None  # ms, when the image was named
    rectangle: tuple[float, ...] | None = None
    centre: tuple[float, float] | None = None  # of an image of unknown size
    fixations: dict[str, list[list[float]]] = field(default_factory=lambda: {"L": [], "R": []})
    samples: dict[str, list[tuple[float, float, float]]] = field(
        default_factory=lambda: {"L": [], "R": []}
    )
    seen: dict[str, list[int]] = field(default_factory=lambda: {"L": [0, 0], "R": [0, 0]})
    validation: float | None = None


def claims(path: Path, head: bytes) -> bool:
    marks = (b"** CONVERTED FROM", b"\nEFIX ", b"\nMSG\t", b"\nSFIX ")
    return path.suffix.lower() == ".asc" and any(mark in b"\n" + head for mark in marks)


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        yield from _Reader(path, setting, leave_out).read()


class _Reader:
    """The state of one file while its lines are read."""

    def __init__(self, path: Path, setting: GazeSetting, leave_out: LeaveOut) -> None:
        self.path, self.setting, self.leave_out = path, setting, leave_out
        self.screen: tuple[float, float] | None = setting.screen
        self.origin = (0.0, 0.0)
        self.eyes = ["R"]  # of the sample lines
        self.trials: list[_Trial] = []
        self.open: _Trial | None = None
        self.validation: float | None = None
        self.events = False  # whether the file has fixations
        try:
            self.pattern = re.compile(setting.image_pattern) if setting.image_pattern else None
        except re.error as error:
            raise UserError(f"--image-pattern {setting.image_pattern}: {error}.") from error
        if self.pattern is not None and self.pattern.groups < 1:
            raise UserError(
                f"--image-pattern {setting.image_pattern}: no group; expected the name of the image"
                " in parentheses, such as 'image (\\S+)'."
            )

    def read(self) -> Iterator[Recording]:
        # messages may be in any encoding of the experiment; numbers are ASCII
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                self._take(line, number)
        named = [trial for trial in self.trials if trial.image]
        if not named:
            raise UserError(
                f"{self.path}: no message names an image (!V IMGLOAD, TRIALID with a file name or"
                " !V TRIAL_VAR image); expected one per trial. Say how yours do, with"
                " --image-pattern 'REGEX'."
            )
        for trial in self.trials:
            place = f"{self.path}, line {trial.line}"
            if not trial.image:
                if any(trial.fixations.values()) or any(trial.samples.values()):
                    self.leave_out("gaze without an image", f"{place} (trial {trial.name!r})")
                continue
            yield from self._recording(trial, place)

    def _take(self, line: str, number: int) -> None:
        if line[:1].isdigit():
            self._sample(line, number)
        elif line.startswith("EFIX"):
            self._fixation(line, number)
        elif line.startswith("MSG"):
            self._message(line, number)
        elif RATE.match(line):
            words = line.split()
            self.eyes = [eye for eye, name in EYES.items() if name.upper() in words] or ["R"]
        elif line.startswith("END") and self.open is not None and self.open.image:
            # a recording that names its image later, by TRIAL_VAR, stays open
            self.open = None

    def _message(self, line: str, number: int) -> None:
        words = line.split(None, 2)
        if len(words) < 3:
            return
        time = self._number(words[1], number, "the time of a message")
        text = words[2].strip()
        if found := SCREEN.search(text):
            left, top, right, bottom = (float(part) for part in re.split("[ ,]+", found[1]))
            self.origin = left, top
            if self.setting.screen is None:
                # DISPLAY_COORDS 0 0 1919 1079, or 1920 1080 where it was set so
                self.screen = tuple(  # type: ignore[assignment]
                    side + 1 if side % 2 else side for side in (right - left, bottom - top)
                )
        elif found := VALIDATION.search(text):
            self.validation = float(found[1])
        elif found := TRIAL.match(text):
            self._begin(number, found[1])
            if self.pattern is None and (name := NAMED.search(" " + found[1])):
                self._name(name[1], time, number)
        if self.pattern is not None:
            if found := self.pattern.search(text):
                self._name(found[1] or "", time, number)
        elif found := LOAD.search(text):
            trial = self._name(found[2], time, number)
            self._load(trial, found[1].upper(), found[3].split(), number)
        elif (found := VARIABLE.search(text)) and self.trials:
            trial = self.trials[-1]
            trial.image = trial.image or found[1]
        if text.startswith("TRIAL_RESULT"):
            self.open = None

    def _begin(self, number: int, name: str = "") -> _Trial:
        self.open = _Trial(number, name, validation=self.validation)
        self.trials.append(self.open)
        return self.open

    def _name(self, image: str, time: float, number: int) -> _Trial:
        """The image that is shown from now on: of the open trial, or of a new one."""
        trial = self.open
        if trial is None or (trial.onset is not None and trial.image != image):
            trial = self._begin(number, trial.name if trial is not None else "")
        if trial.onset is None:
            # what came before was not on the image
            trial.fixations = {"L": [], "R": []}
            trial.samples = {"L": [], "R": []}
            trial.seen = {"L": [0, 0], "R": [0, 0]}
        trial.image, trial.onset = image, time
        return trial

    def _load(self, trial: _Trial, how: str, rest: list[str], number: int) -> None:
        """Where the image lies: !V IMGLOAD FILL file | CENTER or TOP_LEFT file x y [w h]."""
        values = [self._number(part, number, "the image's position") for part in rest[:4]]
        if how == "FILL" and self.screen is not None:
            trial.rectangle = (*self.origin, *(np.add(self.origin, self.screen).tolist()))
        elif len(values) == 4 and min(values[2:]) > 0:
            x, y, width, height = values
            left, top = (x - width / 2, y - height / 2) if how == "CENTER" else (x, y)
            trial.rectangle = left, top, left + width, top + height
        elif len(values) >= 2 and how == "CENTER":
            trial.centre = values[0], values[1]

    def _fixation(self, line: str, number: int) -> None:
        words = line.split()
        if len(words) < 7 or words[1] not in EYES:
            raise UserError(
                f"{self.path}, line {number}: {line.strip()[:60]!r}; expected EFIX, eye, start,"
                " end, duration, x, y and pupil."
            )
        row = [self._number(word, number, "a fixation", missing=True) for word in words[2:7]]
        if row[1] < row[0]:
            raise UserError(
                f"{self.path}, line {number}: a fixation ends at {row[1]:g} before it starts at"
                f" {row[0]:g}; expected an end after the start."
            )
        if not self.events:
            # samples may be many, and are not needed any more
            self.events = True
            for earlier in self.trials:
                earlier.samples = {"L": [], "R": []}
        trial = self.open if self.open is not None else self._begin(number)
        # one that began before the image was on the screen is not on it
        if trial.onset is None or row[0] >= trial.onset:
            trial.fixations[words[1]].append(row)

    def _sample(self, line: str, number: int) -> None:
        words = line.split()
        if len(words) < 1 + 3 * len(self.eyes) or self.open is None:
            return
        time = self._number(words[0], number, "the time of a sample")
        for i, eye in enumerate(self.eyes):
            x, y = (
                self._number(word, number, "a sample", missing=True)
                for word in words[1 + 3 * i : 3 + 3 * i]
            )
            self.open.seen[eye][0] += 1
            self.open.seen[eye][1] += int(np.isnan(x) or np.isnan(y))
            if not self.events:
                self.open.samples[eye].append((time, x, y))

    def _number(self, word: str, number: int, what: str, missing: bool = False) -> float:
        if missing and word == ".":
            return np.nan
        try:
            return float(word)
        except ValueError:
            raise UserError(
                f"{self.path}, line {number}: {word!r} in {what}; expected a number."
            ) from None

    def _recording(self, trial: _Trial, place: str) -> Iterator[Recording]:
        rows: dict[str, Any] = trial.fixations if self.events else trial.samples
        eye = (self.setting.eye or "")[:1].upper() or max("RL", key=lambda one: len(rows[one]))
        if not rows[eye]:
            reason = "an image without gaze" + (
                f" of the {self.setting.eye} eye" if self.setting.eye else ""
            )
            self.leave_out(reason, f"{place} ({trial.image})")
            return
        values = np.array(rows[eye], dtype=np.float64)
        setting, offset = self._place(trial)
        offsets = np.tile(offset, (len(values), 1)) if self.events and any(offset) else None
        placement = make_placement(
            setting,
            setting.unit or "screen-pixels",
            place,
            offsets=offsets,
            screen=self.screen,
            rectangle=trial.rectangle,
        )
        onset = trial.onset if trial.onset is not None else float(values[0, 0])
        image = re.split(r"[\\/]", trial.image)[-1] if ":" in trial.image else trial.image
        facts = []
        if trial.validation is not None:
            facts.append(("validation error, degrees", trial.validation))
        if trial.seen[eye][0]:
            facts.append(("data loss", trial.seen[eye][1] / trial.seen[eye][0]))
        reader = self.path.stem
        if self.events:
            yield Recording(
                image=image,
                fixations=Fixations(
                    values[:, 3],
                    values[:, 4],
                    values[:, 2] / 1000,
                    (values[:, 0] - onset) / 1000,
                ),
                where=place,
                annotator=reader,
                place=placement,
                quality=tuple(facts),
            )
            return
        yield from recording_of_samples(
            (values[:, 0] - onset) / 1000,
            values[:, 1:] + offset,
            image,
            reader,
            place,
            placement,
            setting,
            self.leave_out,
        )

    def _place(self, trial: _Trial) -> tuple[GazeSetting, np.ndarray]:
        """The setting for a trial, and what is added to its positions."""
        setting, nothing = self.setting, np.zeros(2)
        if setting.unit not in (None, "screen-pixels") or trial.rectangle is not None:
            return setting, nothing
        shift = -np.array(self.origin)
        own = setting.placement is None and setting.rectangle is None
        if trial.centre is not None and self.screen is not None and own:
            # one pixel to one around a point, as if that were the middle of the screen
            setting = replace(setting, placement="centre")
            shift = np.array(self.screen) / 2 - np.array(trial.centre)
        return setting, shift
