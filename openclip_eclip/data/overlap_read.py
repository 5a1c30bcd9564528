"""Read ids, image hashes and texts of tables, shards and prepared folders, for `overlap`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import DataError
from ..json_text import counted, decode_text, parse_json
from .images.options import ReadOptions
from .sample import read_image
from .shards.tar_source import index_shard
from .tables.csv_source import locate
from .tables.missing_text import is_missing
from .tables.text import read_table_text

# Column names in order of preference: prepared tables, MIMIC, NIH, RSNA, Kaggle's Open-I
PATIENT = ("patient", "subject_id", "patient_id", "Patient ID", "patientId", "uid")
STUDY = ("study", "study_id")
IMAGE = ("filepath", "image", "Image Index", "filename", "Path")
REPORT = ("title", "report", "caption", "findings", "text")
IDS_IN_PATH = re.compile(r"(patient\d+)/(study\d+)/")  # CheXpert has both ids in the path
# Captions that `prepare` makes from labels; they are no reports
LABEL_TEXT = re.compile(r"(findings: [a-z ,_]+|no findings?|no sign of [a-z ]+)\.?")


@dataclass
class Contents:
    """The contents of a set; each dict maps an id, hash or text to where it was first read."""

    name: str
    samples: int = 0
    unread: int = 0  # images named in tables that do not exist
    patients: dict[str, str] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)
    image_hashes: dict[str, str] = field(default_factory=dict)  # SHA-256
    image_names: list[str] = field(default_factory=list)
    reports: dict[str, str] = field(default_factory=dict)
    report_patients: dict[str, set[str]] = field(default_factory=dict)  # report -> its patients
    _hashes: list[np.ndarray] = field(default_factory=list)
    _thumbnails: list[np.ndarray] = field(default_factory=list)

    @property
    def hashes(self) -> np.ndarray:
        """Perceptual hashes, uint8 (N, 8)."""
        return np.array(self._hashes, dtype=np.uint8).reshape(-1, 8)

    @property
    def thumbnails(self) -> np.ndarray:
        """Grey thumbnails, uint8 (N, 32, 32)."""
        return np.array(self._thumbnails, dtype=np.uint8).reshape(-1, 32, 32)

    def summary(self) -> str:
        counts = [
            counted(self.samples, "sample"),
            counted(len(self.patients), "patient"),
            counted(len(self.studies), "study", "studies"),
            counted(len(self.image_names), "image"),
            counted(len(self.reports), "report"),
        ]
        if self.unread:
            counts.append(f"{counted(self.unread, 'image')} not found")
        return f"{self.name}: {', '.join(counts)}"

    def add(
        self,
        where: str,
        columns: Mapping[str, object],
        text: str,
        image: bytes | None,
        options: ReadOptions = ReadOptions(),
    ) -> None:
        """Add one sample; `image` None: its image is not compared."""
        self.samples += 1
        patient, study = _ids(columns)
        if patient:
            self.patients.setdefault(patient, where)
        if study:
            self.studies.setdefault(
                f"{patient}/{study}" if study.startswith("study") else study, where
            )
        words = normalise(text)
        if words and not is_missing(text) and not LABEL_TEXT.fullmatch(text.strip().lower()):
            self.reports.setdefault(words, where)
            self.report_patients.setdefault(words, set()).add(patient)
        if image is not None:
            fingerprint, thumbnail = perceptual_hash(read_image(image, where, options=options))
            self.image_hashes.setdefault(hashlib.sha256(image).hexdigest(), where)
            self.image_names.append(where)
            self._hashes.append(fingerprint)
            self._thumbnails.append(thumbnail)


def perceptual_hash(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The difference hash (8,) and the thumbnail (32, 32) of the grey image, both uint8.

    A bit of the hash says whether one of 8 x 8 blocks is brighter than its left neighbour, by at
    least 3 of 255. Black borders therefore have no bits, whatever the compression.
    """
    grey = image.convert("L")
    blocks = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    thumbnail = np.asarray(grey.resize((32, 32), Image.Resampling.BOX))
    return np.packbits(blocks[:, 1:] > blocks[:, :-1] + 2), thumbnail


def normalise(text: str) -> str:
    """The words and numbers of a report in lower case, joined by single blanks.

    Reports that differ in case, punctuation or line ends alone become equal.
    """
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_sets(
    paths: Sequence[Path], images: bool, part: str, options: ReadOptions = ReadOptions()
) -> Contents:
    """Read all of `paths` as one set.

    `part` chooses the splits of a folder: "train", "others" (all but train) or "all". Raises a
    DataError if there is none.
    """
    contents = Contents(
        " and ".join(map(str, paths))
        + (f" ({part})" if any(path.is_dir() for path in paths) else "")
    )
    files = [file for path in paths for file in (_files(path, part) if path.is_dir() else [path])]
    for path in files:
        for where, columns, text, image in (
            _shard(path, images) if path.suffix == ".tar" else _table(path, images)
        ):
            if isinstance(image, Path):
                contents.unread += not image.is_file()
                image = image.read_bytes() if image.is_file() else None
            contents.add(where, columns, text, image, options)
    return contents


def _files(folder: Path, part: str) -> list[Path]:
    """The tables and shards of a prepared folder.

    Those of the training split are named train or ...-train, with or without a number.
    """
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv"), *folder.glob("*.tar")])
    train = [path for path in files if re.fullmatch(r"(.+-)?train(-\d+)?", path.stem)]
    chosen = {
        "train": train,
        "others": [path for path in files if path not in train],
        "all": files,
    }[part]
    if not chosen:
        raise DataError(
            f"{folder}: {part}: none of {[path.name for path in files]}; expected tables or shards"
            " as prepare writes them. Name a table or shards instead of the folder."
        )
    return chosen


def _ids(columns: Mapping[str, object]) -> tuple[str, str]:
    """(patient, study), "" where unknown. MIMIC's p10000032 and s50000001 equal the numbers."""
    patient, study = (
        clean_id(next((columns[name] for name in names if columns.get(name) not in (None, "")), ""))
        for names in (PATIENT, STUDY)
    )
    in_path = IDS_IN_PATH.search(str(columns.get("Path", "")))
    return patient or (in_path[1] if in_path else ""), study or (in_path[2] if in_path else "")


def clean_id(value: object) -> str:
    """Normalise an id: 0012, 12.0 (as pandas writes it) and p12 are the same id."""
    text = re.sub(r"^[ps](?=\d+$)", "", str(value).strip())
    number = re.fullmatch(r"0*(\d+)(?:\.0)?", text)
    return number[1] if number else text


def _shard(path: Path, images: bool) -> Iterator[tuple[str, dict, str, bytes | None]]:
    for entry in index_shard(path):
        members = entry.read(*(name for name in ("txt", "json") if name in entry.members))
        columns = parse_json(members.get("json", b"{}"), f"{entry.where}.json")
        text = decode_text(members.get("txt", b""), f"{entry.where}.txt")
        image = entry.read(entry.image_key)[entry.image_key] if images and entry.image_key else None
        yield entry.where, columns, text, image


def _table(path: Path, images: bool) -> Iterator[tuple[str, dict, str, Path | None]]:
    """The rows of any table that has one of the known columns."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table or shards.")
    plain = path.suffix in (".csv", ".tsv")
    frame = read_table_text(path, None if plain else ",", used=()).frame
    image_column, text_column = (
        next((name for name in names if name in frame), None) for names in (IMAGE, REPORT)
    )
    if image_column is None and not set(frame) & {*PATIENT, *STUDY}:
        raise DataError(
            f"{path}: columns {list(frame.columns)}; expected one of"
            f" {', '.join((*PATIENT, *STUDY, *IMAGE))}."
        )
    for i, row in enumerate(frame.to_dict("records")):
        image = (
            locate(row[image_column], path.parent)
            if images and image_column and row[image_column]
            else None
        )
        yield f"{path}, row {i + 1}", row, row[text_column] if text_column else "", image
