"""The generated blocks of pages: tables from the parsers, the registry and the results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import readme_blocks
from studies.stamps import stamps_page

from openclip_eclip.benchmark.align_cells import NAMES, PICTURED
from openclip_eclip.benchmark.page import change, spread
from openclip_eclip.evaluate.__main__ import TASKS
from openclip_eclip.evaluate.output.glossary import GLOSSARY
from openclip_eclip.params import eclip_parser
from openclip_eclip.phantom.command import add_arguments as phantom_arguments
from openclip_eclip.prepare.__main__ import DATASETS

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def results(name: str) -> dict[str, Any]:
    """A committed file of results, by its name in docs/results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with an empty line before and after it."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n" + "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n\n"


def flag_table(actions: list[Any]) -> str:
    """Each flag of a parser, with its values and its help."""
    rows = ["| flag | what it does |", "|---|---|"]
    for action in actions:
        flag = action.option_strings[0]
        if action.choices:
            name = f"`{flag}`: " + ", ".join(f"`{choice}`" for choice in action.choices)
        elif isinstance(action.metavar, tuple):
            name = f"`{flag} {' '.join(action.metavar)}`"
        else:
            name = f"`{flag} {action.metavar}`" if action.metavar else f"`{flag}`"
        rows.append(f"| {name} | {action.help % vars(action)} |")
    return "\n".join(rows) + "\n"


def flag_groups() -> str:
    """The flags as `flag_table` has them, under a heading for each group of the parser."""
    parts = []
    for group in eclip_parser()._action_groups:
        if group._group_actions:
            title = str(group.title)
            if title.startswith("--"):
                title = ", ".join(f"`{flag}`" for flag in title.split(", "))
            else:
                title = title[0].upper() + title[1:]
            parts.append(f"\n## {title}\n\n{flag_table(group._group_actions)}")
    return "".join(parts) + "\n"


def phantom_flags() -> str:
    """The flags of `prepare phantom`."""
    parser = argparse.ArgumentParser(add_help=False)
    phantom_arguments(parser)
    return "\n" + flag_table([a for a in parser._actions if a.option_strings]) + "\n"


def headline() -> str:
    """One number for the first page: eclip-plus against CLIP in one setting."""
    setting = align_settings()["600 images, 15 %"]
    f1, points = (
        [setting[method][score]["value"] for method in ("CLIP", "eclip-plus")]
        for score in ("macro-F1", "pointing")
    )
    return (
        "\n**On 600 synthetic chest X-rays, 15 % of them annotated:** macro-F1"
        f" **{f1[1]:.3f}** with eclip-plus, {f1[0]:.3f} with CLIP, mean of 5 seeds."
        f"\nThe attention peaks where the expert looked in {100 * points[1]:.0f} % of the test"
        f" images, with CLIP in {100 * points[0]:.0f} %.\n\n"
    )


def glossary_table() -> str:
    return table(["metric", "meaning"], [[*pair] for pair in GLOSSARY.items()])


def commands_table(commands: Mapping[str, tuple[str, str]], what: str) -> str:
    return table([what, "what it does"], [[f"`{k}`", line] for k, (_, line) in commands.items()])


def align_settings() -> dict[str, dict]:
    return results("align.json")["settings"]


def align_table() -> str:
    """Scores of the methods in three settings, one of each size.

    A score is blank if the method was not run, or ran on another machine than CLIP.
    """
    settings, scores = align_settings(), ("macro-F1", "R@5", "pointing")
    lines = [
        "| | " + " | ".join(f"{name}: macro-F1 | R@5 | pointing" for name in PICTURED) + " |",
        "|---" * (1 + 3 * len(PICTURED)) + "|",
    ]
    for name in NAMES:
        methods = [settings[setting].get(name, {}) for setting in PICTURED]
        values = [
            method.get(score)
            if method.get("machine") == settings[setting]["CLIP"]["machine"]
            else None
            for method, setting in zip(methods, PICTURED)
            for score in scores
        ]
        if any(values):
            lines.append(
                f"| {name} | "
                + " | ".join(spread(value) if value else "" for value in values)
                + " |"
            )
    return "\n" + "\n".join(lines) + "\n\n"


def paper_tables() -> str:
    """Tables 1 and 4 of the paper on phantoms."""
    parts = []
    for name in ("table1", "table4"):
        title = name.replace("table", "Table ")
        record = results(f"{name}.json")
        rows = []
        for method, score in record["scores"]["test"].items():
            views = record["facts"][method]["views"]
            cells = [spread(score), change(score["difference"]), change(score.get("to_plain"))]
            rows.append([method, *cells, "" if views is None else f"{views:.0f}"])
        head = [title, "macro-F1", "− CLIP", "− no heatmaps", "views"]
        parts.append(table(head, rows)[:-1])
    return "".join(parts) + "\n"


def stamps_table() -> str:
    """Recall and pointing game of the stamps study, one part for each image tower."""
    rows = []
    for tower, methods in results("stamps_align.json")["summary"].items():
        rows.append([f"**{tower}**", *[""] * 4])
        for method, scores in methods.items():
            shown = [
                text
                for name in ("R@5", "pointing")
                for text in (
                    stamps_page.with_sd(scores["scores"][name]),
                    stamps_page.change(scores["differences"].get(name)),
                )
            ]
            rows.append([method, *shown])
    return table(["", "R@5", "− CLIP", "pointing", "− CLIP"], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "glossary": glossary_table,
    "tasks": partial(commands_table, TASKS, "task"),
    "headline": headline,
    "phantom": phantom_flags,
    "datasets": partial(commands_table, DATASETS, "NAME"),
    "align": align_table,
    "stamps": stamps_table,
    "tables": paper_tables,
    **readme_blocks.BLOCKS,
}
