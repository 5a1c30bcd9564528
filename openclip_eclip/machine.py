"""The kind of machine a run was trained on: `machine.json` in its folder (decision 0043).

It is read where results are compared. The same seed gives other weights on another kind of machine:
means over five seeds were seen to differ by 0.06 in macro-F1.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

NAME = "machine.json"
CPU_FACTS = Path("/proc/cpuinfo")


def device_name(device: torch.device | str) -> str:
    """The model of a GPU, or of this machine's CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type}, {platform.machine()}"
    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()} (CPU)"


def this_machine(device: torch.device | str) -> dict[str, str]:
    """{device: model of the GPU or CPU, torch: version}."""
    return {"device": device_name(device), "torch": str(torch.__version__)}


def note_machine(run: Path, device: torch.device | str) -> None:
    """Add this machine to those of the run folder, unless it is among them.

    A run that was resumed elsewhere has several.
    """
    known, current = read_machines(run) or [], this_machine(device)
    if current not in known:
        text = json.dumps([*known, current], indent=2) + "\n"
        (run / NAME).write_text(text, encoding="utf-8")


def read_machines(folder: Path) -> list[dict[str, str]] | None:
    """The machines of a run or exported folder; None without a valid record."""
    try:
        machines = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_record = isinstance(machines, list) and machines and all(map(_is_machine, machines))
    return machines if is_record else None


def _is_machine(entry: Any) -> bool:
    return isinstance(entry, dict) and {"device", "torch"} <= entry.keys()
