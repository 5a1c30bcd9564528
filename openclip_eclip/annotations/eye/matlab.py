"""MATLAB structs of public data sets, by scipy: any nesting of structs and cells.

A struct with the fields of positions is a recording: in OSIE `fixations{i}.subjects{j}` with fix_x,
fix_y and fix_duration. The image is the field of that struct, or of one around it, that names an
image (img); the reader is the number in the innermost cell or array around it, from 1.
"""

from __future__ import annotations

import argparse
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...config import UserError
from ...gaze import Fixations
from ..record import LeaveOut, Recording
from .options import GazeSetting, gaze_setting
from .placement import make_placement
from .rows import check_durations, position_unit, start_unit, time_unit
from .table import guess_columns

LARGEST = 1 << 30  # bytes of a file, and of its values
DEEPEST = 20
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, MemoryError)


class _Found(NamedTuple):
    image: str
    reader: str
    where: str
    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    start: np.ndarray | None


def claims(path: Path, head: bytes) -> bool:
    return path.suffix.lower() == ".mat"


def read(
    files: Sequence[Path], root: Path, args: argparse.Namespace, leave_out: LeaveOut
) -> Iterator[Recording]:
    setting = gaze_setting(args)
    for path in files:
        yield from _read(path, setting, leave_out)


def _read(path: Path, setting: GazeSetting, leave_out: LeaveOut) -> Iterator[Recording]:
    found: list[_Found] = []
    for name, value in _load(path, setting).items():
        _walk(value, f"{path}, {name}", path.stem, "", setting, found, 0)
    if not found:
        raise UserError(
            f"{path}: no struct with positions; expected fields such as fix_x, fix_y and"
            " fix_duration. Name them with --gaze-columns x=FIELD,y=FIELD,duration=FIELD."
        )
    for one in found:
        check_durations(one.duration, one.where)
    durations = np.concatenate([one.duration for one in found])
    factor = time_unit(durations, setting.time, str(path))
    xy = [np.concatenate([getattr(one, axis) for one in found]) for axis in "xy"]
    unit = position_unit(xy[0], xy[1], setting, str(path))
    placement = make_placement(setting, unit, str(path))
    for one in found:
        if not np.isfinite(one.x + one.y).any():
            leave_out("gaze without a position", f"{one.where} ({one.image})")
            continue
        start = None
        if one.start is not None:
            viewing = [0] * len(one.start)
            names = "the start", "the duration"
            start = one.start * start_unit(
                one.start, one.duration, viewing, factor, one.where, names
            )
        yield Recording(
            image=one.image,
            fixations=Fixations(one.x, one.y, one.duration * factor, start),
            where=one.where,
            annotator=one.reader,
            place=placement,
        )


def _load(path: Path, setting: GazeSetting) -> dict[str, Any]:
    """The variables of a file, structs as dicts. UserError: unreadable, HDF5, too large."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: {path.stat().st_size} bytes; expected at most {LARGEST}.")
    _refuse_bomb(path)
    try:
        shapes = {name: shape for name, shape, _ in whosmat(path)}
        names = None
        if setting.variable is not None:
            if setting.variable not in shapes:
                raise UserError(
                    f"{path}: no variable {setting.variable!r}; found {', '.join(shapes)}."
                )
            names = [setting.variable]
        values = loadmat(path, variable_names=names, simplify_cells=True)
    except NotImplementedError as error:
        raise UserError(
            f"{path}: MATLAB 7.3 (HDF5); expected version 7 or before. Save it with save(...,"
            " '-v7')."
        ) from error
    except UserError:
        raise
    except (*UNREADABLE, MatReadError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: not a readable MATLAB file ({error}).") from error
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _refuse_bomb(path: Path) -> None:
    """UserError if the compressed variables of a version 5 file unpack to too many bytes."""
    size = 0
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:128])
        while order is not None and len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            if kind != 15:  # not compressed
                file.seek(length, 1)
                continue
            unpack = zlib.decompressobj()
            while length > 0 and (block := file.read(min(length, 1 << 20))):
                length -= len(block)
                while block:
                    try:
                        size += len(unpack.decompress(block, 1 << 22))
                    except zlib.error:
                        return  # scipy says what is broken
                    block = unpack.unconsumed_tail
                    if size > LARGEST:
                        raise UserError(
                            f"{path}: unpacks to more than {LARGEST >> 20} MiB; expected less."
                        )


def _walk(
    value: Any,
    where: str,
    image: str,
    reader: str,
    setting: GazeSetting,
    found: list[_Found],
    depth: int,
) -> None:
    """Collect the recordings in `value`."""
    if depth > DEEPEST:
        raise UserError(f"{where}: structs nested more than {DEEPEST} times; expected fewer.")
    if isinstance(value, dict):
        fields = {str(name): one for name, one in value.items()}
        roles = {**guess_columns(list(fields)), **setting.columns}
        named = fields.get(roles.get("image", ""))
        if isinstance(named, str) and named.strip():
            image = named.strip()
        who = fields.get(roles.get("reader", ""))
        if isinstance(who, (str, int)) and str(who).strip():
            reader = str(who).strip()
        if {"x", "y"} <= roles.keys() and {roles["x"], roles["y"]} <= fields.keys():
            found.append(_recording(fields, roles, where, image, reader))
            return
        for name, one in fields.items():
            _walk(one, f"{where}.{name}", image, reader, setting, found, depth + 1)
    elif isinstance(value, (list, np.ndarray)):
        if isinstance(value, np.ndarray) and value.dtype != object:
            return
        for i, one in enumerate(value if isinstance(value, list) else value.ravel()):
            _walk(one, f"{where}{{{i + 1}}}", image, str(i + 1), setting, found, depth + 1)


def _recording(
    fields: dict[str, Any], roles: dict[str, str], where: str, image: str, reader: str
) -> _Found:
    arrays: dict[str, np.ndarray] = {}
    for role in ("x", "y", "duration", "start"):
        if roles.get(role) in fields:
            try:
                arrays[role] = np.asarray(fields[roles[role]], dtype=np.float64).ravel()
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{where}.{roles[role]}: not numbers ({error}); expected one per fixation."
                ) from error
    if "duration" not in arrays:
        raise UserError(
            f"{where}: fields {list(fields)} without a duration; name it with --gaze-columns"
            " duration=FIELD."
        )
    counts = {roles[role]: len(values) for role, values in arrays.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{where}: {counts} values; expected as many in all fields.")
    if math.prod(arrays["x"].shape) == 0:
        arrays = {role: np.full(1, np.nan) for role in arrays}
    return _Found(
        image, reader, where, arrays["x"], arrays["y"], arrays["duration"], arrays.get("start")
    )
