"""The chat that asks for a report: instructions, worked examples, then the query's snippets
(§4.4).
"""

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
    """Wording of the prompt. `case` holds {snippets}, which become one line each by `snippet`, with
    {number} from 1 and {text}.
    """

    instructions: str
    snippet: str
    case: str
    name: str  # file
    sha256: str  # of the file

    @property
    def facts(self) -> dict[str, str]:
        return {"template": self.name, "sha256": self.sha256}


class WorkedExample(NamedTuple):
    """A case of the training side: what retrieval finds for it, and the report it really has."""

    snippets: Sequence[str]
    report: str


def read_template(path: Path | None = None) -> Template:
    """The package's prompts/report.json, or a user's file of the same form.

    Raises:
        UserError: no such file, no JSON object, a missing, empty or unknown entry, or one without
            its placeholder.
    """
    where = "report.json" if path is None else str(path)
    source = files("openclip_eclip.generate") / "prompts" / "report.json" if path is None else path
    try:
        content = source.read_bytes()
        found = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"prompt template {where}: not readable as JSON ({error}).") from error
    texts = {field.name for field in fields(Template)} - {"name", "sha256"}
    expected = f"expected an object with exactly the texts {', '.join(_PLACEHOLDERS)}"
    if not isinstance(found, dict):
        raise UserError(f"prompt template {where}: {type(found).__name__}; {expected}.")
    wrong = [f"no {name!r}" for name in sorted(texts - set(found))] + [
        f"unknown {name!r}" for name in sorted(set(found) - texts)
    ]
    wrong += [
        f"{name!r} is not a text, or empty"
        for name in sorted(texts & set(found))
        if not isinstance(found[name], str) or not found[name].strip()
    ]
    if wrong:
        raise UserError(f"prompt template {where}: {'; '.join(wrong)}; {expected}.")
    for name, placeholders in _PLACEHOLDERS.items():
        for placeholder in placeholders:
            if found[name].count(placeholder) != 1:
                raise UserError(
                    f"prompt template {where}: {name!r} holds {placeholder}"
                    f" {found[name].count(placeholder)} times; expected once."
                )
    return Template(
        **found,
        name=where if path is None else path.name,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def build_chat(
    template: Template, examples: Sequence[WorkedExample], snippets: Sequence[str]
) -> Chat:
    """User and assistant in turn: a case and its report for each example, then the case in
    question.

    The instructions open the first user message: Mistral's template has no system role, and one
    chat serves every writer (decision 0021).
    All messages but the last depend on template and examples alone, so that llama.cpp computes them
    once a run.

    Raises:
        UserError: no snippets, an empty one, or an example without a report.
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
