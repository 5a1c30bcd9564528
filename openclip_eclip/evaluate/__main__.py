"""`python -m openclip_eclip.evaluate TASK ...`."""

from __future__ import annotations

import argparse
import logging
import sys

import openclip_eclip  # noqa: F401

from ..subcommands import exit_code, parse_command
from .output.result import Result, markdown
from .output.write import refuse_foreign_folder, write_result

TASKS = {  # task: (module, one line). Modules load when asked for
    "zero-shot": (
        "openclip_eclip.evaluate.zero_shot.task",
        "classes from prompts, by named protocols",
    ),
    "linear-probe": (
        "openclip_eclip.evaluate.linear_probe.task",
        "logistic regression on frozen features, by share of labels",
    ),
    "retrieval": ("openclip_eclip.evaluate.retrieval.task", "image to report and report to image"),
    "search": (
        "openclip_eclip.evaluate.retrieval.search",
        "nearest reports of an image, from a saved index",
    ),
    "reports": (
        "openclip_eclip.evaluate.report_generation.task",
        "reports written from retrieved reports, against the true ones",
    ),
    "embedding-quality": (
        "openclip_eclip.evaluate.embedding_quality.task",
        "alignment, uniformity, modality gap, clusters",
    ),
    "sensitivity": (
        "openclip_eclip.evaluate.sensitivity.task",
        "does the model use the annotation, and where does it look",
    ),
    "compare": (
        "openclip_eclip.evaluate.compare.task",
        "differences between results, with uncertainty",
    ),
    "curve": (
        "openclip_eclip.benchmark.curve",
        "score against amount of data, with a fitted power law",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one task; returns the exit code: 0, or 2 after one line `error: ...` on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m openclip_eclip.evaluate", description="Measure a model."
    )
    module, args = parse_command(parser, "task", TASKS, argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    def work() -> str:
        if hasattr(args, "out"):
            refuse_foreign_folder(args.out, args.task, getattr(module, "UNFINISHED", ""))
        found = module.run(args)
        if not isinstance(found, Result):
            return found
        write_result(found, args.out)
        return f"{markdown(found)}\n{args.task}: {args.out / 'report.html'}"

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
