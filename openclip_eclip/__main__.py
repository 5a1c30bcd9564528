"""`python -m openclip_eclip COMMAND ...`: all commands of the package."""

from __future__ import annotations

import runpy
import sys

# command: (module to run, one line of help)
COMMANDS = {
    "train": ("openclip_eclip.train", "open_clip's training with expert heatmaps"),
    "export": ("openclip_eclip.export", "write a trained eCLIP as a plain open_clip folder"),
    "prepare": ("openclip_eclip.prepare", "make a data set"),
    "check": ("openclip_eclip.data.check", "check a data set before training"),
    "overlap": (
        "openclip_eclip.data.overlap",
        "find what a training set shares with others",
    ),
    "evaluate": ("openclip_eclip.evaluate", "measure a model"),
    "report": (
        "openclip_eclip.evaluate.report_generation.one_image",
        "write a report for an image from the nearest ones",
    ),
    "benchmark": ("openclip_eclip.benchmark", "train and compare methods over seeds"),
}


def main() -> int:
    """Run a command with the words after it; 2 for an unknown command."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        sys.argv = [f"python -m openclip_eclip {command}", *sys.argv[2:]]
        runpy.run_module(COMMANDS[command][0], run_name="__main__")
    lines = [f"  {name:<10} {summary}" for name, (_, summary) in COMMANDS.items()]
    usage = "usage: python -m openclip_eclip COMMAND ...; COMMAND --help shows its options\n\n"
    if command in ("-h", "--help"):
        sys.stdout.write(usage + "\n".join(lines) + "\n")
        return 0
    sys.stderr.write(
        f"error: {command!r} is not a command; expected one of {', '.join(COMMANDS)}.\n"
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
