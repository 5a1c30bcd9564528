"""`python -m openclip_eclip.evaluate TASK ...`."""
from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

import openclip_eclip  # noqa: F401  (eclip- models)

from .result import Result, markdown, refuse_foreign_folder, write_result

TASKS = {  # task: (module, one line). Modules load when asked for
    "zero-shot": ("openclip_eclip.evaluate.zero_shot", "classes from prompts, by named protocols"),
    "linear-probe": ("openclip_eclip.evaluate.linear_probe", "logistic regression on frozen features, by share of labels"),
    "retrieval": ("openclip_eclip.evaluate.retrieval", "image to report and report to image"),
    "search": ("openclip_eclip.evaluate.search", "nearest reports of an image, from a saved index"),
    "embedding-quality": ("openclip_eclip.evaluate.embedding_quality", "alignment, uniformity, modality gap, clusters"),
    "sensitivity": ("openclip_eclip.evaluate.sensitivity", "does the model use the annotation, and where does it look"),
    "compare": ("openclip_eclip.evaluate.compare", "differences between results, with uncertainty"),
    "curve": ("openclip_eclip.evaluate.curve", "score against amount of data, with a fitted power law"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one task; returns the exit code: 0, or 2 after one line `error: ...` on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    wanted = next((word for word in argv if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="python -m openclip_eclip.evaluate", description="Measure a model.")
    commands = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    module = None
    for name, (module_name, summary) in TASKS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == wanted:
            module = import_module(module_name)
            module.add_arguments(command)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        if hasattr(args, "out"):
            refuse_foreign_folder(args.out, args.task)
        found = module.run(args)
        if isinstance(found, Result):
            write_result(found, args.out)
            found = f"{markdown(found)}\n{args.task}: {args.out / 'report.html'}"
    except (ValueError, OSError) as error:  # bad input; a full disk or a folder that can not be read
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
