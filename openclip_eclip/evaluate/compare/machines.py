"""Results of one comparison come from one kind of machine and one version of torch
(invariant 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config import UserError


@dataclass
class Machines:
    """Of `count` folders. `facts`: {what: {value: folders}}, of what was recorded; `unknown`:
    {what: folders without it}.
    """

    facts: dict[str, dict[str, list[str]]]
    unknown: dict[str, list[str]]
    count: int

    @property
    def mixed(self) -> dict[str, dict[str, list[str]]]:
        return {what: values for what, values in self.facts.items() if len(values) > 1}

    def sentence(self) -> str:
        """What differs, with a folder of each."""
        return "; ".join(
            f"{what}: {', '.join(map(self._share, values.items()))}"
            for what, values in self.mixed.items()
        )

    def _share(self, entry: tuple[str, list[str]]) -> str:
        value, folders = entry
        return f"{value} ({len(folders)} of {self.count} results, {folders[0]} among them)"

    def notes(self) -> list[str]:
        """For the page: the machine, and of how many results it is not known."""
        known = "; ".join(
            f"{what}: {', '.join(values)}" for what, values in self.facts.items() if values
        )
        notes = [f"Machine. {known}."] if known else []
        missing = [
            f"{what} of {len(folders)} of {self.count}"
            for what, folders in self.unknown.items()
            if folders
        ]
        if missing:
            notes.append(
                f"The machine is not recorded in every result ({', '.join(missing)}): "
                "that these ran on one kind of machine and one version of torch is taken "
                "on trust. Another kind alone can move a mean by more than many a "
                "difference here."
            )
        return notes


def read_machines(records: Mapping[str, Mapping[str, Any]]) -> Machines:
    """Of {folder: its result.json}."""
    found = Machines({}, {}, len(records))
    for folder, record in records.items():
        for what, value in _facts(record).items():
            known, unknown = found.facts.setdefault(what, {}), found.unknown.setdefault(what, [])
            if value is None:
                unknown.append(folder)
            else:
                known.setdefault(value, []).append(folder)
    return found


def refuse_mixed(machines: Machines, allowed: bool) -> None:
    """UserError unless all are of one kind, or mixed ones are `allowed`."""
    if machines.mixed and not allowed:
        raise UserError(
            f"the results come from different machines ({machines.sentence()}); expected one kind "
            "of machine and one version of torch, for another kind alone can move a mean by as "
            "much as a method: run them again on one, or give --mixed-machines to compare them "
            "all the same, which the page will say."
        )


def _facts(record: Mapping[str, Any]) -> dict[str, str | None]:
    """What a result says of where it was trained and measured; None: not recorded, as in results
    of earlier versions.
    """
    versions = _mapping(record.get("versions"))
    machine = _mapping(_mapping(record.get("settings")).get("machine"))
    trained = machine.get("trained") if isinstance(machine.get("trained"), Sequence) else None
    return {
        "trained on": _joined(trained, "device"),
        "trained with torch": _joined(trained, "torch"),
        "measured on": _text(machine.get("device")),
        "measured with torch": _text(versions.get("torch")),
        "measured on a processor of kind": _text(versions.get("machine")),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _joined(trained: Sequence[Any] | None, key: str) -> str | None:
    """A run that was resumed elsewhere has several."""
    found = sorted({text for one in trained or () if (text := _text(_mapping(one).get(key)))})
    return " and ".join(found) or None
