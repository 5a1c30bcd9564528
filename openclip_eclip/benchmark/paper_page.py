"""The page of a table of the paper: Markdown of its record, and the figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..phantom.scenes import ANATOMIES
from .page import OTHER_MACHINE, change, draw_differences, spread
from .rows import ECLIP_PLAIN, NAIVE_PLAIN, UNTIL

METRIC = "macro-F1"
PAPER_VIEWS = 527  # 10 000 steps, half a batch of 512, p_curr .2225 in the mean; 1 080 images


def markdown(table: str, record: dict) -> str:
    """The Markdown page of the content of {table}.json."""
    scores, facts = record["scores"], record["facts"]
    title = table.replace("table", "Table ")
    machines = ", ".join(sorted({name for entry in facts.values() for name in entry["machines"]}))
    mixed = (
        " Methods of different machines are compared (--mixed-machines): a difference may be that"
        " of the machines." * record.get("mixed_machines", False)
    )
    anatomy = record.get("anatomy") or "chest"
    images = f" Phantoms: {ANATOMIES[anatomy].title}." * (anatomy != "chest")
    lines = [
        f"# {title}\n",
        (
            f"`python -m openclip_eclip.benchmark {table}`: {METRIC}, seeds"
            f" {' '.join(map(str, record['seeds']))}. {record['note']}.{images}"
            f" {machines}.{mixed}\n"
        ),
        (
            "Mean ± sd over seeds. The difference is to the base of the method, paired by seed."
            " The 95 % intervals are over seeds (Student's t) and images.\n"
        ),
        f"{limits(facts, record.get('half_batch', False))}\n",
        f"![Differences with their intervals]({table}.png)\n",
    ]
    for test, methods in scores.items():
        plain = any("plain" in score for score in methods.values())
        lines += [
            f"## Test set: {test}\n",
            (
                f"| method | {METRIC} | difference to base | base |{' to no heatmaps |' * plain}"
                " views an annotated image | training s |"
            ),
            "|---" * (6 + plain) + "|",
        ]
        for name, score in methods.items():
            is_other = score.get("other_machine")
            difference = OTHER_MACHINE if is_other else change(score["difference"])
            base, views = score["base"] if difference else "", facts[name]["views"]
            to_plain = f" {change(score.get('to_plain'))} |" * plain
            lines.append(
                f"| {name} | {spread(score)} | {difference} | {base} |{to_plain}"
                f" {'' if views is None else f'{views:.1f}'} | {facts[name]['seconds']:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


def limits(facts: dict[str, dict], half_batch: bool) -> str:
    """The paragraphs on what is compared, and what the comparison does not show.

    `half_batch`: annotated images came from --expert-data.
    """
    parts = [
        "All methods share learning rate, batch size and number of steps. Methods that fine-tune"
        " share theirs."
    ]
    views = sorted(entry["views"] for entry in facts.values() if entry["views"] is not None)
    if views:
        times = " to ".join(dict.fromkeys(f"{number:.1f}" for number in (views[0], views[-1])))
        source = (
            "come as in the paper: candidates of half a batch beside each batch, each taken with"
            " the probability of the curriculum (naive: always). So these methods see more images"
            " a step than CLIP does"
            if half_batch
            else "are those of the batch"
        )
        parts.append(
            f"**Dose.** Annotated images {source}. An annotated image enters {times} times here, in"
            f" the paper's eCLIP about {PAPER_VIEWS} times."
        )
    for name, of in ((ECLIP_PLAIN, "eCLIP"), (NAIVE_PLAIN, "naive")):
        if name in facts:
            parts.append(
                f"**{name}** adds the same annotated images as {of}, as often, unchanged: the"
                " difference to it is what heatmap and processor do."
            )
    if ends := facts.get(UNTIL.name, {}).get("epochs"):
        best, last = zip(*ends)
        parts.append(
            f"**{UNTIL.name}** keeps the epoch with the best mean rank of the validation pairs,"
            f" {min(best)} to {max(best)}, and trained for {min(last)} to {max(last)} epochs. Its"
            f" learning rate falls over {UNTIL.length} times the steps of CLIP, its limit."
        )
    return "\n\n".join(parts)


def draw(scores: dict[str, dict[str, dict]]) -> Figure:
    """Differences with their intervals, from the base and from the same images without heatmaps.

    A panel for each test set.
    """
    shown = {
        test: {
            f"{name} − {score[other]}": score[key]
            for key, other in (("difference", "base"), ("to_plain", "plain"))
            for name, score in methods.items()
            if score.get(key)
        }
        for test, methods in scores.items()
    }
    count = max(map(len, shown.values()))
    figure = Figure(figsize=(2.6 + 4.6 * len(shown), 1.1 + 0.32 * count), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (test, differences) in zip(panels, shown.items()):
        draw_differences(
            axes,
            list(differences),
            list(differences.values()),
            f"test set: {test}" if len(shown) > 1 else "",
        )
        axes.set_xlabel(f"difference of {METRIC}, 95 % interval")
    return figure
