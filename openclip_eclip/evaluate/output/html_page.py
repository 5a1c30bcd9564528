"""report.html: one self-contained page of a result, for reading rather than parsing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from .glossary import GLOSSARY
from .result import Cell, Result, Table, plain, show

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5d6b7a; --line: #dde3ea; --page: #fff; --band: #f5f7fa; --accent: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #9aa8b7; --line: #33404d; --page: #151b22; --band: #1d252e;
  --accent: #6bb1ea; } figure img, .example img { background: #fff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { border-bottom: 3px solid var(--accent); margin-bottom: 1.5rem; padding-bottom: .75rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.warning { border-left: 4px solid #c0392b; background: var(--band); padding: .7rem 1rem; font-weight: 600; }
.facts { color: var(--soft); margin: .3rem 0 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 50%; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
td.text { text-align: left; white-space: normal; } tbody tr:nth-child(even) { background: var(--band); }
.note { color: var(--soft); font-size: .92rem; max-width: 48rem; }
.notes li { max-width: 48rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 48rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.example { border: 1px solid var(--line); border-radius: 6px; padding: .7rem; background: var(--band); overflow-wrap: anywhere; }
.example img { width: 100%; height: 11rem; object-fit: contain; background: #000; border-radius: 4px; }
.example p { margin: .45rem 0 0; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 0; color: var(--soft); }
details { margin-top: 2rem; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--band); padding: .8rem; overflow-x: auto; font-size: .82rem; border-radius: 6px; }
"""


def render_report(result: Result, record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page. `record`: what result.json holds; `pictures`: PNG files by stem, embedded."""
    facts = [
        f"{key}: {value}"
        for key, value in result.settings.items()
        if key in ("model", "pretrained", "data", "protocol") and value is not None
    ]
    parts = [
        f"<header><h1>{_text(result.task)}</h1><p"
        f" class=facts>{_text(' · '.join(facts))}</p></header>"
    ]
    if result.warning:
        parts.append(f"<p class=warning role=alert>{_text(result.warning)}</p>")
    if result.notes:
        parts.append(
            "<ul class=notes>"
            + "".join(f"<li>{_text(note)}</li>" for note in result.notes)
            + "</ul>"
        )
    parts += [_table(table) for table in result.tables]
    parts += [
        f"<figure><img alt='{_text(stem)}'"
        f" src='data:image/png;base64,{base64.b64encode(content).decode()}'>"
        f"<figcaption>{_text(result.captions.get(stem, stem))}</figcaption></figure>"
        for stem, content in pictures.items()
    ]
    if result.examples:
        parts.append(
            "<h2>Examples</h2><div class=examples>"
            + "".join(_example(example) for example in result.examples)
            + "</div>"
        )
    if result.terms:
        lines = "".join(
            f"<dt>{_text(term)}</dt><dd>{_text(GLOSSARY[term])}</dd>" for term in result.terms
        )
        parts.append(f"<h2>What the numbers mean</h2><dl>{lines}</dl>")
    everything = json.dumps({key: plain(record[key]) for key in ("settings", "versions")}, indent=2)
    parts.append(
        "<details><summary>Settings, hashes and"
        f" versions</summary><pre>{_text(everything)}</pre></details>"
    )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport"
        " content='width=device-width'>"
        f"<title>{_text(result.task)}</title><style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.columns)
    body = "".join(
        "<tr>" + "".join(_cell(cell, i) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    note = f"<p class=note>{_text(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{_text(table.title)}</h2><div"
        f" class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _cell(cell: Cell, place: int) -> str:
    wide = place and isinstance(cell, str) and len(cell) > 24
    return f"<td{' class=text' if wide else ''}>{_text(show(cell))}</td>"


def _example(example: Any) -> str:
    kind = "png" if example.image.startswith(b"\x89PNG") else "jpeg"
    lines = "".join(
        (
            f"<p>{_text(line)}</p>"
            if isinstance(line, str)
            else f"<p><b>{_text(line[0])}</b> {_text(line[1])}</p>"
        )
        for line in example.lines
    )
    return (
        "<div class=example><img alt=''"
        f" src='data:image/{kind};base64,{base64.b64encode(example.image).decode()}'>{lines}</div>"
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)
