"""Results of one comparison come from one kind of machine and one version of torch (invariant 13).

Another machine or version alone can change a mean by as much as a method does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config import UserError


@dataclass
class Machines:
    """Machines and versions recorded in `count` result folders.

    `facts`: {fact: {value: folders}}; `unknown`: {fact: folders that do not record it}.
    """

    facts: dict[str, dict[str, list[str]]]
    unknown: dict[str, list[str]]
    count: int

    @property
    def mixed(self) -> dict[str, dict[str, list[str]]]:
        """The facts with more than one value."""
        return {fact: values for fact, values in self.facts.items() if len(values) > 1}

    def sentence(self) -> str:
        """The facts that differ, with one folder for each value."""
        return "; ".join(
            f"{fact}: {', '.join(map(self._share, values.items()))}"
            for fact, values in self.mixed.items()
        )

    def _share(self, entry: tuple[str, list[str]]) -> str:
        value, folders = entry
        return f"{value} ({len(folders)} of {self.count} results, {folders[0]} among them)"

    def notes(self) -> list[str]:
        """Notes for the report: the machine, and how many results do not record it."""
        known = "; ".join(
            f"{fact}: {', '.join(values)}" for fact, values in self.facts.items() if values
        )
        notes = [f"Machine. {known}."] if known else []
        missing = [
            f"{fact} of {len(folders)} of {self.count}"
            for fact, folders in self.unknown.items()
            if folders
        ]
        if missing:
            notes.append(
                f"The machine is not recorded in every result ({', '.join(missing)}). "
                "It is assumed that these ran on one kind of machine and one version of "
                "torch. Another kind alone can change a mean by more than many differences "
                "here."
            )
        return notes


def read_machines(records: Mapping[str, Mapping[str, Any]]) -> Machines:
    """The machines of all results, from {folder: content of its result.json}."""
    machines = Machines({}, {}, len(records))
    for folder, record in records.items():
        for fact, value in _facts(record).items():
            known = machines.facts.setdefault(fact, {})
            unknown = machines.unknown.setdefault(fact, [])
            if value is None:
                unknown.append(folder)
            else:
                known.setdefault(value, []).append(folder)
    return machines


def refuse_mixed(machines: Machines, allowed: bool) -> None:
    """UserError unless all are of one kind, or mixed ones are `allowed`."""
    if machines.mixed and not allowed:
        raise UserError(
            f"the results come from different machines ({machines.sentence()}); expected one kind "
            "of machine and one version of torch. Another kind alone can change a mean by as much "
            "as a method does. Run them again on one machine, or give --mixed-machines to compare "
            "them nevertheless; the report will say so."
        )


def _facts(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Where a result was trained and measured; None for what earlier versions did not record."""
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
    """All values of `key`, as one text: a run that was resumed elsewhere has several."""
    texts = filter(None, (_text(_mapping(part).get(key)) for part in trained or ()))
    return " and ".join(sorted(set(texts))) or None
