"""report.html: one self-contained HTML page of a result."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .glossary import GLOSSARY
from .result import Result, plain, show

TEMPLATE = "report.html.jinja"
FACTS = ("model", "pretrained", "data", "protocol")  # settings shown under the title


def render_report(result: Result, record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The HTML page.

    `record`: the content of result.json; `pictures`: {file stem: PNG file}, which are embedded.
    """
    facts = [
        f"{key}: {value}"
        for key, value in result.settings.items()
        if key in FACTS and value is not None
    ]
    everything = {key: plain(record[key]) for key in ("settings", "versions")}
    return _ENVIRONMENT.get_template(TEMPLATE).render(
        result=result,
        facts=" · ".join(facts),
        pictures=pictures,
        terms=[(term, GLOSSARY[term]) for term in result.terms],
        everything=json.dumps(everything, indent=2),
    )


def _data_uri(image: bytes) -> str:
    """The data URI of a PNG or JPEG file."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _escape(value: Any) -> Markup:
    """Escape like autoescape, with the entities of Python's `html`, as in earlier versions."""
    return Markup(html.escape(str(value), quote=True))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
    autoescape=True,
    finalize=_escape,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"show": show, "data_uri": _data_uri}
