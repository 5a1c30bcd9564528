"""The peak memory of a process, for the scripts that measure costs."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Peak resident memory of this process in MiB; not ru_maxrss, which a child inherits."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
