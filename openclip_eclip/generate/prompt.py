"""Builds the prompt: instructions, worked examples, then the snippets of the query (§4.4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ..config import UserError
from .base import Chat
from .clean import remove_special_tokens

_PLACEHOLDERS = {"instructions": (), "snippet": ("{number}", "{text}"), "case": ("{snippets}",)}


@dataclass(frozen=True)
class Template:
    """The wording of the prompt.

    `case` holds {snippets}. Each snippet becomes one line of the form `snippet`, which holds
    {number} (from 1) and {text}.
    """

    instructions: str
    snippet: str
    case: str
    name: str  # of the template file
    sha256: str  # of the template file

    @property
    def facts(self) -> dict[str, str]:
        return {"template": self.name, "sha256": self.sha256}


class WorkedExample(NamedTuple):
    """A training case: the snippets retrieved for it, and its true report."""

    snippets: Sequence[str]
    report: str


def read_template(path: Path | None = None) -> Template:
    """Reads the package's prompts/report.json, or a user's file of the same form.

    Raises:
        UserError: the file is missing or is no JSON object; an entry is missing, empty, unknown or
            without its placeholder.
    """
    where = "report.json" if path is None else str(path)
    source = files("openclip_eclip.generate") / "prompts" / "report.json" if path is None else path
    try:
        content = source.read_bytes()
        entries = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"prompt template {where}: not readable as JSON ({error}).") from error
    texts = {field.name for field in fields(Template)} - {"name", "sha256"}
    expected = f"expected an object with exactly the texts {', '.join(_PLACEHOLDERS)}"
    if not isinstance(entries, dict):
        raise UserError(f"prompt template {where}: {type(entries).__name__}; {expected}.")
    wrong = [f"no {name!r}" for name in sorted(texts - set(entries))] + [
        f"unknown {name!r}" for name in sorted(set(entries) - texts)
    ]
    wrong += [
        f"{name!r} is empty or not a text"
        for name in sorted(texts & set(entries))
        if not isinstance(entries[name], str) or not entries[name].strip()
    ]
    if wrong:
        raise UserError(f"prompt template {where}: {'; '.join(wrong)}; {expected}.")
    for name, placeholders in _PLACEHOLDERS.items():
        for placeholder in placeholders:
            if entries[name].count(placeholder) != 1:
                raise UserError(
                    f"prompt template {where}: {name!r} holds {placeholder}"
                    f" {entries[name].count(placeholder)} times; expected once."
                )
    return Template(
        **entries,
        name=where if path is None else path.name,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def build_chat(
    template: Template, examples: Sequence[WorkedExample], snippets: Sequence[str]
) -> Chat:
    """The chat of one query: each example as a case and its report, then the case of the query.

    User and assistant alternate. The instructions open the first user message, because Mistral's
    template has no system role; every writer gets the same chat (decision 0021). All messages but
    the last depend only on template and examples, so llama.cpp computes them once a run.

    Raises:
        UserError: there are no snippets, a snippet is empty, or an example has no report.
    """
    chat: Chat = []
    for number, example in enumerate(examples, 1):
        if not example.report.strip():
            raise UserError(
                f"worked example {number}: its report is empty; expected one with text."
            )
        chat += [
            {
                "role": "user",
                "content": _case(template, example.snippets, f"worked example {number}"),
            },
            {"role": "assistant", "content": remove_special_tokens(example.report)},
        ]
    chat.append({"role": "user", "content": _case(template, snippets, "query")})
    chat[0]["content"] = f"{template.instructions}\n\n{chat[0]['content']}"
    return chat


def _case(template: Template, snippets: Sequence[str], where: str) -> str:
    texts = [remove_special_tokens(snippet) for snippet in snippets]
    if not texts or not all(texts):
        raise UserError(
            f"{where}: {len(texts)} snippets, {texts.count('')} of them empty; expected at least"
            " one, each with text."
        )
    lines = [
        template.snippet.replace("{number}", str(number)).replace("{text}", text)
        for number, text in enumerate(texts, 1)
    ]
    return template.case.replace("{snippets}", "\n".join(lines))
