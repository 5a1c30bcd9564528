"""Prompt sets: those of the package (prompts/*.json, with their sources), and files of the user."""

from __future__ import annotations

import hashlib
import itertools
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...config import UserError
from ...json_text import parse_json

NAMES = (
    "chexpert-5x200:gloria",
    "chexpert-5x200:eclip",
    "rsna:biovil",
    "rsna:structure",
    "cxr-14x100:clean",
    "cxr-14x100:eclip",
    "pairs:chexzero",
)
PAIR_FORM = '{"positive": ["{c}"], "negative": ["no {c}"]}'


@dataclass(frozen=True)
class PromptSet:
    """Prompts of all classes.

    `positive`: {class: prompts}, in the order of the classes; `negative`: {class: prompts of its
    absence}, for pair_softmax, or empty.
    """

    name: str
    source: str
    positive: dict[str, list[str]]
    negative: dict[str, list[str]] = field(default_factory=dict)

    def sample(self, count: int, seed: int) -> PromptSet:
        """Draw `count` prompts of each class without replacement.

        Each class has its own random stream. UserError: a class has fewer prompts.
        """
        drawn = {}
        for k, (name, prompts) in enumerate(self.positive.items()):
            if len(prompts) < count:
                raise UserError(
                    f"cannot draw {count} prompts: class {name!r} of {self.name} has"
                    f" {len(prompts)}; expected at least {count}. Give a smaller --sample, or a"
                    " prompt set with more."
                )
            rows = np.random.default_rng([seed, k]).choice(len(prompts), count, replace=False)
            drawn[name] = [prompts[row] for row in sorted(rows)]
        return replace(self, positive=drawn)

    def content_hash(self) -> str:
        """SHA-256 over classes and prompts in order."""
        return hashlib.sha256(
            json.dumps([list(self.positive.items()), list(self.negative.items())]).encode()
        ).hexdigest()


def load_prompts(name: str, classes: Sequence[str]) -> PromptSet:
    """Load a prompt set of the package by its name FILE:FORM, for `classes`.

    UserError: it has no prompts for a class.
    """
    file, _, form_name = name.partition(":")
    content = json.loads(
        (resources.files(__package__) / "prompts" / f"{file}.json").read_text(encoding="utf-8")
    )
    form = content["forms"][form_name]
    positive = {
        **_expand(content.get("vocabulary", {}), form),
        **_fill(form, "templates", classes),
        **form.get("prompts", {}),
    }
    negative = {**_fill(form, "negative_templates", classes), **form.get("negative_prompts", {})}
    missing = [cls for cls in classes if cls not in positive]
    if missing:
        raise UserError(
            f"prompt set {name} has no prompts for class {missing[0]!r}; it has {list(positive)}."
            " Give your own prompts with --templates, or another --prompts."
        )
    return PromptSet(
        name,
        f"{content['source']} Form: {form['about']}.",
        {cls: positive[cls] for cls in classes},
        {cls: negative[cls] for cls in classes if cls in negative},
    )


def _expand(
    vocabulary: Mapping[str, Mapping[str, Sequence[str]]], form: Mapping[str, Any]
) -> dict[str, list[str]]:
    """{class: prompts}: all combinations of the parts of each class, written by `pattern`.

    Blanks of empty parts are removed, duplicates stay (peers.md §2.1).
    """
    prompts = {}
    for cls, parts in vocabulary.items():
        pattern = form.get("pattern_of", {}).get(cls, form.get("pattern"))
        if pattern is not None:
            names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name]
            combinations = itertools.product(*(parts[name] for name in names))
            prompts[cls] = [
                " ".join(pattern.format(**dict(zip(names, words))).split())
                for words in combinations
            ]
    return prompts


def _fill(form: Mapping[str, Any], kind: str, classes: Sequence[str]) -> dict[str, list[str]]:
    if kind not in form:
        return {}
    words = form.get("words", {})
    return {
        cls: [template.replace("{c}", words.get(cls, cls)) for template in form[kind]]
        for cls in classes
    }


def read_classes(path: Path) -> list[str]:
    """Class names from a text file with one on each line, or from a JSON list.

    UserError: an empty or repeated name, with its line, or fewer than two classes.
    """
    text = _read(path)
    classes = _json(path, text) if path.suffix == ".json" else text.splitlines()
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: expected a JSON list of class names, or a .txt with one a line.")
    classes = [name.strip() for name in classes]
    for i, name in enumerate(classes):
        if not name or name in classes[:i]:
            raise UserError(
                f"{path}, line {i + 1}:"
                f" {'an empty class name' if not name else f'{name!r} occurs twice'};"
                " expected each class once, in the order of the numbers in the labels."
            )
    if len(classes) < 2:
        raise UserError(f"{path}: {len(classes)} classes; expected at least 2.")
    return classes


def read_templates(path: Path, classes: Sequence[str], data_name: str) -> PromptSet:
    """Prompts for `classes` from a file in a form of CLIP_benchmark.

    .txt: a template with {c} on each line. .json: a list of templates, or {class: prompts}, or
    either of them under the name of a data set (`data_name`, or the only one). For pair_softmax
    also {"positive": templates, "negative": templates}.
    UserError: a template without {c}, a class without prompts, or another form.
    """
    text = _read(path)
    content = (
        _json(path, text)
        if path.suffix == ".json"
        else [line.strip() for line in text.splitlines() if line.strip()]
    )
    if (
        isinstance(content, dict)
        and not set(classes) & set(content)
        and set(content) != {"positive", "negative"}
    ):
        key = (
            data_name
            if data_name in content
            else next(iter(content))
            if len(content) == 1
            else None
        )
        if key is None:
            raise UserError(
                f"{path}: keys {list(content)[:8]}; expected the classes {list(classes)}, or the"
                f" data set's name {data_name!r}."
            )
        content = content[key]
    negative: dict[str, list[str]] = {}
    if isinstance(content, dict) and set(content) == {"positive", "negative"}:
        negative = _own(path, content["negative"], classes)
        content = content["positive"]
    return PromptSet(path.name, f"file {path}", _own(path, content, classes), negative)


def own_prompts(
    prompts: Mapping[str, Sequence[str]], classes: Sequence[str], path: Path
) -> PromptSet:
    """The prompt set of {class: prompts} from the file beside the data."""
    return PromptSet(path.name, f"file {path}", _own(path, dict(prompts), classes))


def _own(path: Path, content: Any, classes: Sequence[str]) -> dict[str, list[str]]:
    if isinstance(content, list):
        content = _from_templates(path, content, classes)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a JSON list of templates with {{c}}, {{class: prompts}}, or"
            f" {PAIR_FORM}."
        )
    for cls in classes:
        prompts = content.get(cls)
        if (
            not isinstance(prompts, list)
            or not prompts
            or not all(isinstance(text, str) and text.strip() for text in prompts)
        ):
            raise UserError(
                f"{path}: class {cls!r} has {prompts!r}; expected a list of at least one prompt,"
                " without empty ones."
            )
    return {cls: list(content[cls]) for cls in classes}


def _from_templates(
    path: Path, templates: list[Any], classes: Sequence[str]
) -> dict[str, list[str]]:
    for i, template in enumerate(templates):
        if not isinstance(template, str) or "{c}" not in template:
            raise UserError(
                f"{path}, template {i + 1}: {template!r} has no {{c}}, so all classes would get the"
                " same text; expected a template such as 'a chest X-ray with {c}'."
            )
    return {cls: [template.replace("{c}", cls) for template in templates] for cls in classes}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not readable ({error}); expected a UTF-8 text or JSON file."
        ) from error


def _json(path: Path, text: str) -> Any:
    return parse_json(text, str(path), object)
