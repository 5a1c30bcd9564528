"""`openclip-eclip evaluate TASK ...`."""

from __future__ import annotations

import argparse
import logging
import sys

import openclip_eclip  # noqa: F401

from ..subcommands import exit_code, parse_command
from .output.result import Result, markdown
from .output.write import refuse_foreign_folder, write_result

# {task: (module, its line in --help)}; the module is imported when the task is chosen
TASKS = {
    "zero-shot": (
        "openclip_eclip.evaluate.zero_shot.task",
        "zero-shot classification from prompts, by published protocols",
    ),
    "linear-probe": (
        "openclip_eclip.evaluate.linear_probe.task",
        "logistic regression on frozen features, by share of labels",
    ),
    "retrieval": (
        "openclip_eclip.evaluate.retrieval.task",
        "retrieval of reports by image and of images by report",
    ),
    "search": (
        "openclip_eclip.evaluate.retrieval.search",
        "reports nearest to an image, from a saved index",
    ),
    "reports": (
        "openclip_eclip.evaluate.report_generation.task",
        "reports written from retrieved reports, compared with the true reports",
    ),
    "embedding-quality": (
        "openclip_eclip.evaluate.embedding_quality.task",
        "alignment, uniformity, modality gap and clusters of the embeddings",
    ),
    "sensitivity": (
        "openclip_eclip.evaluate.sensitivity.task",
        "use of the annotation, and agreement of attention with expert gaze",
    ),
    "grounding": (
        "openclip_eclip.evaluate.grounding.task",
        "how well attention finds the region of each phrase, beside priors without a model"
        " (protocol grounding 1)",
    ),
    "compare": (
        "openclip_eclip.evaluate.compare.task",
        "differences between results, with confidence intervals",
    ),
    "curve": (
        "openclip_eclip.benchmark.curve",
        "score against amount of training data, with a fitted power law",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one task; returns the exit code: 0, or 2 after one line `error: ...` on stderr."""
    parser = argparse.ArgumentParser(
        prog="openclip-eclip evaluate", description="Evaluate a model."
    )
    module, args = parse_command(parser, "task", TASKS, argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    def work() -> str:
        if hasattr(args, "out"):
            refuse_foreign_folder(args.out, args.task, getattr(module, "UNFINISHED", ""))
        result = module.run(args)
        # `search` returns the text to print; the other tasks return a Result
        if not isinstance(result, Result):
            return result
        write_result(result, args.out)
        return f"{markdown(result)}\n{args.task}: {args.out / 'report.html'}"

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
