"""Bad labels, classes, prompts, recipes and flags of zero-shot classification."""

from __future__ import annotations

from collections.abc import Iterator

from .harness import Case
from .world import Maker, evaluate, put, rows

Found = Iterator[tuple[str, Maker, tuple[str, ...]]]
TEMPLATES = "a chest image with {c}\n"
DEEP = b"[" * 100000


def zero_shot(*flags: object, **files: str | bytes) -> Maker:
    """Zero-shot of the good table with the files `classes.txt` and `templates.txt`, or others; `_`
    in a name is a dot.
    """
    content: dict[str, str | bytes] = {
        "t.csv": "\n".join(rows()) + "\n",
        "classes.txt": "normal\nopacity\n",
        "templates.txt": TEMPLATES,
    }
    content |= {name.replace("__", "."): value for name, value in files.items()}
    return put(
        content,
        evaluate(
            "zero-shot",
            "--data",
            "t.csv",
            *(flags or ("--classes", "classes.txt", "--templates", "templates.txt")),
        ),
    )


def labelled(cell: str) -> dict[str, str]:
    """The good table with this label in row 3."""
    lines = rows()
    lines[3] = f"images/2.png,Text.,,{cell},2,train"
    return {"t__csv": "\n".join(lines) + "\n"}


def _zero_shot_cases() -> Found:
    json_classes = ("--classes", "c.json", "--templates", "templates.txt")
    json_templates = ("--classes", "classes.txt", "--templates", "p.json")
    yield from [
        ("an unknown label", zero_shot(**labelled("9")), ("t.csv", "row 3", "label")),
        ("no label", zero_shot(**labelled("")), ("t.csv", "row 3", "label")),
        (
            "no column of labels",
            zero_shot(t__csv="filepath,title\nimages/0.png,a\n"),
            ("t.csv", "normal|label"),
        ),
        (
            "no such file of classes",
            zero_shot("--classes", "gone.txt", "--templates", "templates.txt"),
            ("gone.txt",),
        ),
        ("one class", zero_shot(classes__txt="normal\n"), ("classes.txt", "1 class")),
        (
            "a class twice",
            zero_shot(classes__txt="normal\nopacity\nnormal\n"),
            ("classes.txt", "line 3"),
        ),
        ("classes: broken JSON", zero_shot(*json_classes, c__json="[1,"), ("c.json",)),
        ("classes: JSON of brackets", zero_shot(*json_classes, c__json=DEEP), ("c.json",)),
        ("classes: numbers", zero_shot(*json_classes, c__json="[1, 2]"), ("c.json",)),
        ("classes: an object", zero_shot(*json_classes, c__json='{"a": 1}'), ("c.json",)),
        ("classes of bytes", zero_shot(classes__txt=b"\xff\xfe\xff"), ("classes.txt",)),
        (
            "classes: a folder",
            zero_shot("--classes", "images", "--templates", "templates.txt"),
            ("images",),
        ),
        (
            "templates without {c}",
            zero_shot(templates__txt="a chest image\n"),
            ("templates.txt", "{c}"),
        ),
        ("templates: empty", zero_shot(templates__txt="\n"), ("templates.txt",)),
        ("templates: JSON of a number", zero_shot(*json_templates, p__json="3"), ("p.json",)),
        (
            "templates: JSON of another set",
            zero_shot(*json_templates, p__json='{"x": ["{c}"], "y": []}'),
            ("p.json",),
        ),
        (
            "templates: only positive",
            zero_shot(*json_templates, p__json='{"positive": {"normal": ["a"]}, "negative": 3}'),
            ("p.json",),
        ),
        (
            "templates: a class without prompts",
            zero_shot(*json_templates, p__json='{"normal": ["a"], "opacity": []}'),
            ("p.json", "opacity"),
        ),
        ("templates: JSON of brackets", zero_shot(*json_templates, p__json=DEEP), ("p.json",)),
        (
            "templates: null under the set's name",
            zero_shot(*json_templates, p__json='{"t": null}'),
            ("p.json",),
        ),
        (
            "recipe: broken JSON",
            zero_shot("--templates", "templates.txt", t__recipe__json="{"),
            ("t.recipe.json",),
        ),
        (
            "recipe: a list",
            zero_shot("--templates", "templates.txt", t__recipe__json="[1]"),
            ("t.recipe.json",),
        ),
        (
            "recipe: classes a text",
            zero_shot("--templates", "templates.txt", t__recipe__json='{"classes": "normal"}'),
            ("t.recipe.json", "classes"),
        ),
        (
            "recipe: classes of numbers",
            zero_shot("--templates", "templates.txt", t__recipe__json='{"classes": [1, 2]}'),
            ("t.recipe.json", "classes"),
        ),
        (
            "recipe: set a number",
            zero_shot(
                "--templates",
                "templates.txt",
                t__recipe__json='{"classes": ["normal", "opacity"], "set": 3}',
            ),
            ("t.recipe.json", "set"),
        ),
        (
            "recipe: prompts a list",
            zero_shot(
                "--class-vector",
                "mean",
                classes__json='{"classes": ["normal", "opacity"], "prompts": ["a"]}',
            ),
            ("classes.json", "prompts"),
        ),
        (
            "classes.json of bytes",
            zero_shot("--class-vector", "mean", classes__json=b"\xff\xfe"),
            ("classes.json",),
        ),
        (
            "a protocol and its contrary",
            zero_shot(
                *("--protocol", "gloria"),
                *("--class-vector", "mean"),
                *("--classes", "classes.txt"),
                *("--templates", "templates.txt"),
            ),
            ("--class-vector",),
        ),
        ("a set and classes", zero_shot("--set", "rsna", "--classes", "classes.txt"), ("--set",)),
        ("no classes", zero_shot("--prompts", "rsna:biovil"), ("t.csv", "--classes")),
        (
            "prompts of other classes",
            zero_shot("--classes", "classes.txt", "--prompts", "rsna:biovil"),
            ("normal", "rsna:biovil"),
        ),
        (
            "--sample 0",
            zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--sample", 0),
            ("--sample",),
        ),
        (
            "--sample beyond the prompts",
            zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--sample", 9),
            ("9", "templates.txt"),
        ),
        (
            "--seed -1",
            zero_shot(
                *("--classes", "classes.txt"),
                *("--templates", "templates.txt"),
                *("--sample", 1),
                *("--seed", "-1"),
            ),
            ("--seed",),
        ),
        (
            "--batch-size 0",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--batch-size", 0
            ),
            ("--batch-size",),
        ),
        (
            "--device tpu9",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--device", "tpu9"
            ),
            ("tpu9",),
        ),
        (
            "--device cuda without one",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--device", "cuda:7"
            ),
            ("cuda:7",),
        ),
        (
            "--out is a file",
            zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "t.csv"),
            ("t.csv",),
        ),
        (
            "--out below a file",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--out", "t.csv/x"
            ),
            ("t.csv",),
        ),
        (
            "--out holds other files",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--out", "images"
            ),
            ("images",),
        ),
        (
            "--out of a broken result",
            zero_shot(
                *("--classes", "classes.txt"),
                *("--templates", "templates.txt"),
                *("--out", "r"),
                **{"r/result__json": "{"},
            ),
            ("result.json",),
        ),
        (
            "--out of a result that is a list",
            zero_shot(
                *("--classes", "classes.txt"),
                *("--templates", "templates.txt"),
                *("--out", "r"),
                **{"r/result__json": "[]"},
            ),
            ("r",),
        ),
        (
            "--cache is a file",
            zero_shot(
                "--classes", "classes.txt", "--templates", "templates.txt", "--cache", "t.csv"
            ),
            ("t.csv|--cache",),
        ),
        ("an unknown task", lambda folder: ["evaluate", "zero-shoot"], ("zero-shoot",)),
        ("no task", lambda folder: ["evaluate"], ("TASK|task",)),
    ]


def cases() -> Iterator[Case]:
    yield from (
        Case(name, "evaluation files", make, words) for name, make, words in _zero_shot_cases()
    )
