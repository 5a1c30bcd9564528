"""Messages of errors, read from the source: the page of errors quotes no message that is gone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("openclip_eclip", "training_patches")
BASE = "UserError"

# (words of the message as the source has them, why it happens and what to do)
COMMON: tuple[tuple[str, str], ...] = (
    (
        "no data: give --train-data FILE",
        "No training data was named. Give a table or shards.",
    ),
    (
        "no such file; expected a table with the columns",
        "The path of the table is wrong, or relative to another folder.",
    ),
    (
        "Name yours with ",
        "The table has other column names. Rename them, or name them with `--csv-img-key`,"
        " `--csv-caption-key` and `--csv-heatmap-key`.",
    ),
    (
        "fields, the header has",
        "A row has too many or too few cells, mostly because a report contains a comma or a line"
        " break without quotation marks. Write the table with a CSV library.",
    ),
    (
        "is not UTF-8; expected UTF-8",
        "The table was saved in another encoding, often by Excel. Save it as CSV UTF-8.",
    ),
    (
        "expected one file. Start from another folder",
        "The same relative path exists beside the table and in the current folder. Use absolute"
        " paths.",
    ),
    (
        "nothing was trained:",
        "The check before training found bad samples and lists them. Correct them, or leave them"
        " out with `--on-bad-sample skip`.",
    ),
    (
        "expected the image's aspect ratio at any resolution",
        "The heatmap has another shape than its image, often because it was drawn on a padded or"
        " cropped copy. Draw it on the original image.",
    ),
    (
        "A colour-mapped image is not a heatmap",
        "The file is a picture of a heatmap (for example with the jet colours). Save the values"
        " themselves: grey PNG, `.npy` or `.npz`.",
    ),
    (
        "all zero; leave the sample's heatmap blank",
        "An empty map was written for an image without annotation. Leave the cell blank.",
    ),
    (
        "expected a map of where an expert looked, or a blank",
        "The heatmap column names the image itself. Check how the table was made.",
    ),
    (
        "cut off in the member",
        "A shard is incomplete, mostly after a full disk or a stopped copy. Copy it again.",
    ),
    (
        "expected names with braces, such as",
        "The list of shards is not written as webdataset expects it. Quote it:"
        " `'train-{000000..000009}.tar'`.",
    ),
    (
        "the loss of CLIP compares the pairs of a batch",
        "One pair has no negatives. Use a batch of 2 or more; more is better.",
    ),
    (
        "already exists: give another --name",
        "A run of this name has trained before. Continue it with `--resume latest`, or choose"
        " another name.",
    ),
    (
        "two processes would overwrite",
        "Another process trains in this folder now. Wait, stop it, or choose another name.",
    ),
    (
        "the loss is not finite",
        "Training diverged. Lower `--lr`, raise `--warmup`, or train with `--precision fp32`.",
    ),
    (
        "nor known to open_clip",
        "The model name is misspelt, or its config is in no folder that open_clip reads. See"
        " [Models](models.md). A folder is given as `--model local-dir:FOLDER`.",
    ),
    (
        "is of another model",
        "The checkpoint was trained with another `--model` or with other `--force-*` flags. Give"
        " the same ones.",
    ),
    (
        "the weights are those of a SigLIP model",
        "SigLIP weights were loaded into a CLIP. Add `--siglip`, or take a SigLIP model.",
    ),
)


def words(node: ast.AST) -> str:
    """The text of a string, an f-string or a sum of them; a computed part is {…}."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words, node.values))
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    return "…"


@cache
def sources() -> dict[str, ast.Module]:
    """{path in the repository: its syntax tree} of all modules of the packages."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def messages() -> Iterator[str]:
    """All texts in the source, with … where a value is filled in."""
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield words(node)


def message(part: str) -> str:
    """The shortest message that contains `part`; ValueError if the source has none."""
    found = sorted((text for text in messages() if part in text), key=len)
    if not found:
        raise ValueError(
            f"{part!r} is in no message of the source any more; change COMMON in {__file__}."
        )
    # the whole message, not a piece of the f-string that holds it
    whole = [text for text in found if found[0] in text]
    return " ".join(max(whole, key=len).split())


def classes() -> list[tuple[str, str, str]]:
    """(class, module, first line of its docstring) of UserError and all that extend it."""
    known, found = {BASE}, []
    # a base may stand in a module that comes later: repeat until nothing new is found
    while True:
        new = [
            (node.name, path, (ast.get_docstring(node) or "").split("\n")[0])
            for path, tree in sources().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and (node.name == BASE or known & {ast.unparse(base) for base in node.bases})
            and not node.name.startswith("_")
            and (node.name, path) not in {(name, where) for name, where, _ in found}
        ]
        if not new:
            return found
        found += new
        known |= {name for name, _, _ in new}


def errors_page() -> str:
    """reference/errors.md."""
    lines = [
        "# Errors",
        "",
        "Every error of this package is one sentence. It says what was found, what was expected"
        " and what to do.",
        "A command that ends with an error has the exit code 2. A run that a signal stopped has"
        " 128 + the signal's number.",
        "",
        "## Twenty messages and what to do",
        "",
        "… stands for a value of yours.",
        "",
    ]
    for number, (part, remedy) in enumerate(COMMON, 1):
        lines += [f"**{number}.**", "", "```text", message(part), "```", "", remedy, ""]
    lines += ["## Exceptions", "", "All extend `UserError`, which is a `ValueError`.", ""]
    lines += ["| exception | module | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | `{path}` | {doc} |" for name, path, doc in classes()]
    return "\n".join(lines) + "\n"
