"""`openclip-eclip COMMAND ...`, also `python -m openclip_eclip`: all commands of the package.

This module lies beside the package: importing the package loads torch and open_clip, which takes
seconds, and `--help` and `--version` need neither.
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

# purpose: {command: (module to run, one line of help)}
GROUPS = {
    "Data": {
        "prepare": ("openclip_eclip.prepare", "make a data set, or synthetic images to try"),
        "check": ("openclip_eclip.data.check", "check your own data before training"),
        "export-annotations": (
            "openclip_eclip.export_annotations",
            "write heatmaps for an annotation tool, to be corrected",
        ),
        "overlap": ("openclip_eclip.data.overlap", "find what training and test data share"),
    },
    "Training": {
        "train": ("openclip_eclip.train", "train CLIP, with or without expert annotations"),
        "benchmark": ("openclip_eclip.benchmark", "compare training methods over several seeds"),
        "export": ("openclip_eclip.export", "write a trained run as a plain open_clip model"),
    },
    "Evaluation": {
        "attend": ("openclip_eclip.attend_command", "show where a model looks for a text"),
        "evaluate": ("openclip_eclip.evaluate", "measure a model, compare results"),
        "report": (
            "openclip_eclip.evaluate.report_generation.one_image",
            "write a report for one image from similar reports",
        ),
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}
USAGE = "usage: openclip-eclip COMMAND ...    (openclip-eclip COMMAND --help: its flags)\n"
FIRST_STEPS = """
First steps:
  openclip-eclip prepare phantom phantoms
  openclip-eclip check phantoms/train.csv --sheet sheet.png
"""


def help_text() -> str:
    """The commands by purpose, on one screen of 80 x 24 characters."""
    lines = [USAGE, "Contrastive image-text training with expert annotations, on open_clip."]
    for purpose, commands in GROUPS.items():
        lines.append(f"\n{purpose}:")
        lines += [f"  {name:<18} {summary}" for name, (_, summary) in commands.items()]
    return "\n".join(lines) + "\n" + FIRST_STEPS


def version() -> str:
    """The version, read from its file: the package is not imported."""
    spec = find_spec("openclip_eclip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("openclip_eclip is not installed beside openclip_eclip_cli.")
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"]


def main() -> int:
    """Run a command with the words after it; 2 for an unknown command."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        sys.argv = [f"openclip-eclip {command}", *sys.argv[2:]]
        runpy.run_module(COMMANDS[command], run_name="__main__")
        return 0
    if command in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if command in ("-V", "--version"):
        sys.stdout.write(f"openclip-eclip {version()}\n")
        return 0
    sys.stderr.write(
        f"error: {command!r} is not a command; expected one of {', '.join(COMMANDS)}."
        " openclip-eclip --help explains them.\n"
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
