"""The page of `benchmark align`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from ..phantom.scenes import ANATOMIES
from .align_cells import ALIGN, HARD, OVERSAMPLING, RECIPE_METHODS, STUDENT, STUDENT_OVERSAMPLED
from .page import OTHER_MACHINE, change, spread

MIXED = (
    "Methods of different machines are compared (--mixed-machines): a difference may be that of the"
    " machines."
)
MACHINES = (
    "Methods that ran on another kind of machine than CLIP are not compared with it. CLIP alone has"
    " 0.386 on the CPU and 0.321 on the GPU (600 images)."
)
TUNING = """\
- **Tuning**: weight, minimum share and oversampling of the aligning methods were chosen in dozens
  of trials, on seeds from 90 on. The other methods had no such trials. All methods share one
  learning rate.
"""
CHEST_LIMITS = """\
- **CLIP**: with twice the steps it still improves with 300 images, on four of five seeds. Its best
  score is not known.
- **Right map**: with 600 images, 15 %, maps of other images of the same class give about half of
  eclip-plus's gain. That half does not need the map of the image itself.
"""
VIEWS = """\
- **Views**: how often an annotated image was used with its heatmap, up to the chosen checkpoint.
  Blank: without heatmaps, or not recorded (eCLIP and oversampling).
- **The paper's dose** is about 527 views. Nothing here says what eCLIP does at that dose.
"""
HEAD = 2  # lines of the head of a Markdown table


def page(facts: dict) -> str:
    """The Markdown page of the content of align.json."""
    lines = [*_introduction(facts), *_overviews(facts["settings"])]
    for setting, methods in facts["settings"].items():
        lines += [*_setting_table(setting, methods), ""]
    return "\n".join(lines)


def _introduction(facts: dict) -> list[str]:
    """What was run, what its numbers are and what they do not show."""
    seeds, anatomy = " ".join(map(str, facts["seeds"])), facts.get("anatomy", "chest")
    kinds = sorted(
        {method["machine"] for methods in facts["settings"].values() for method in methods.values()}
    )
    comparable = (
        MIXED
        if facts.get("mixed_machines", False)
        else MACHINES
        if len(kinds) > 1
        else "All methods ran on one kind of machine."
    )
    several = "![Scores by share of annotated images, and with worse gaze](align_map.png)\n"
    return [
        "# Where alignment helps\n",
        f"`python -m openclip_eclip.benchmark align`{'. ' * bool(facts['note'])}{facts['note']}\n",
        (
            f"- **Data**: synthetic {ANATOMIES[anatomy].title} (phantoms) of 64 px. Each seed has"
            f" its own training images; seeds {seeds}."
        ),
        "- **Model**: a ResNet with attention pooling over 8 x 8 positions, trained from scratch.",
        (
            "- **Checkpoint**: of the validated epochs of a run, the one with the best mean rank on"
            " 300 validation pairs."
        ),
        (
            "- **Numbers**: mean ± sd over seeds. Differences are paired by seed. Their 95 %"
            " intervals are over seeds (Student's t) and test"
            f" images.{facts.get('intervals', '')}"
        ),
        "- **Pointing, NSS**: the attention of the model against the gaze, on test images.",
        f"- **Machines**: {facts['machine']}. {comparable}",
        TUNING + CHEST_LIMITS * (anatomy == "chest") + VIEWS,
        "![Differences to CLIP](align.png)\n",
        *[several] * (len(facts["settings"]) > 1),
    ]


def _overviews(settings: dict[str, dict]) -> list[str]:
    """The tables over all settings that have any line."""
    parts = {
        "All settings": (
            (
                "Best other: the method with the highest mean of those that do not align, without"
                " placebos."
            ),
            summary_table,
        ),
        "Few annotated images: oversampling": ("", oversampling_table),
        "One to three annotated images: weight 1, twice the steps": (
            (
                "Oversampling, `--align-weight 1` and twice the steps. Best other: the method with"
                " the highest mean of those that do not align."
            ),
            few_images_table,
        ),
        "Self-training": (
            (
                "The teacher makes heatmaps for the images without one. The student is trained on"
                " all of them. With 1 % annotated or less the teacher is eclip-plus, oversampled."
            ),
            self_training_table,
        ),
    }
    lines = []
    for title, (words, table) in parts.items():
        if len(shown := table(settings)) > HEAD:
            lines += [f"## {title}\n", *[f"{words}\n"] * bool(words), *shown, ""]
    return lines


def _setting_table(setting: str, methods: dict[str, dict]) -> list[str]:
    """The heading and the table of one setting, and the sentences on the best other method."""
    lines = [
        f"## {setting}\n",
        "| method | macro-F1 | − CLIP | R@5 | − CLIP | pointing | NSS | views an annotated image |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, method in methods.items():
        shown = [
            word
            for score in ("macro-F1", "R@5")
            for word in (spread(method[score]), against_clip(name, method[score]))
        ]
        views = "" if method.get("views") is None else f"{method['views']:.0f}"
        lines.append(
            f"| {name} | {' | '.join(shown)} | {spread(method['pointing'])} |"
            f" {spread(method['NSS'])} | {views} |"
        )
    for name, score in product(RECIPE_METHODS, ("macro-F1", "R@5")):
        if best := methods.get(name, {}).get(score, {}).get("best_other"):
            lines.append(
                f"\n{name} − best other method in {score} ({best['method']}): {change(best)}."
            )
    return lines


def summary_table(settings: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with eclip-plus."""
    lines = [
        (
            "| | macro-F1: CLIP | align, weight 1 | eclip-plus | − best other | R@5: CLIP |"
            " eclip-plus − CLIP | − best other | pointing: CLIP | eclip-plus |"
        ),
        "|---" * 10 + "|",
    ]
    for setting, methods in settings.items():
        if (recipe := methods.get("eclip-plus")) is None:
            continue
        clip, others = (
            methods["CLIP"],
            {score: against_best(recipe[score]) for score in ("macro-F1", "R@5")},
        )
        words = [
            setting,
            spread(clip["macro-F1"]),
            spread(methods[ALIGN]["macro-F1"]) if ALIGN in methods else "",
            spread(recipe["macro-F1"]),
            others["macro-F1"],
            spread(clip["R@5"]),
            against_clip("eclip-plus", recipe["R@5"]),
            others["R@5"],
            f"{clip['pointing']['value']:.3f}",
            f"{recipe['pointing']['value']:.3f}",
        ]
        lines.append(f"| {' | '.join(words)} |")
    return without_columns_of_other_machines(lines)


def without_columns_of_other_machines(lines: list[str]) -> list[str]:
    """The table without columns that have no comparison in any line."""
    cells = [line.strip("|").split("|") for line in lines]
    columns = [
        i
        for i, column in enumerate(zip(*cells))
        if not all(OTHER_MACHINE in cell for cell in column[HEAD:]) or len(lines) == HEAD
    ]
    return [f"|{'|'.join(row[i] for i in columns)}|" for row in cells]


def against_best(score: dict) -> str:
    """The difference from the best other method as text; blank if there is no other method."""
    best = score.get("best_other")
    return (
        f"{change(best)} ({best['method']})"
        if best
        else OTHER_MACHINE
        if score["difference"] is None
        else ""
    )


def against_clip(name: str, score: dict) -> str:
    return (
        OTHER_MACHINE
        if score["difference"] is None and name != "CLIP"
        else change(score["difference"])
    )


def oversampling_table(settings: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with eclip-plus, with and without oversampling."""
    return _pairs(settings, ("eclip-plus", "eclip-plus"), (OVERSAMPLING, "oversampled"))


def few_images_table(settings: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with oversampling at weight 1 for twice the steps."""
    return _pairs(settings, (OVERSAMPLING, "oversampled"), (HARD, "weight 1, twice the steps"))


def _pairs(settings: dict[str, dict], first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Lines of the table of all settings with two methods, each given as (name, heading).

    The second method is compared with CLIP and with the best other method.
    """
    scores = [
        f"{score}: {first[1]} | {second[1]} | − CLIP | − best other"
        for score in ("macro-F1", "R@5")
    ]
    lines = [f"| | {' | '.join(scores)} | pointing: {first[1]} | {second[1]} |", "|---" * 11 + "|"]
    for setting, methods in settings.items():
        if {first[0], second[0]} <= set(methods):
            lines.append(
                _pair(
                    setting,
                    methods[first[0]],
                    methods[second[0]],
                    lambda _, after: against_clip(second[0], after),
                )
            )
    return without_columns_of_other_machines(lines)


def self_training_table(settings: dict[str, dict]) -> list[str]:
    """Lines of the table of all settings with self-training: teachers and their students."""
    lines = [
        (
            "| | macro-F1: teacher | self-trained | − teacher | − best other | R@5: teacher |"
            " self-trained | − teacher | − best other | pointing: teacher | self-trained |"
        ),
        "|---" * 11 + "|",
    ]
    for (setting, methods), name in product(settings.items(), (STUDENT, STUDENT_OVERSAMPLED)):
        if name in methods:
            lines.append(
                _pair(
                    setting,
                    methods[name]["teacher"],
                    methods[name],
                    lambda teacher, student: change(teacher["change"]),
                )
            )
    return without_columns_of_other_machines(lines)


def _pair(setting: str, before: dict, after: dict, difference: Callable[[dict, dict], str]) -> str:
    """A line of a table: two scores of two methods with their difference, and pointing."""
    words = [setting]
    for score in ("macro-F1", "R@5"):
        words += [
            spread(before[score]),
            spread(after[score]),
            difference(before[score], after[score]),
            against_best(after[score]),
        ]
    words += [f"{method['pointing']['value']:.3f}" for method in (before, after)]
    return f"| {' | '.join(words)} |"
