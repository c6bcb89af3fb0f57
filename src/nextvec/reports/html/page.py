"""Pieces of HTML for files that need nothing else: the whole page, tables, lights and charts.

Whatever comes from a run (names, paths, texts) is escaped here, and a page's security policy runs no script but the
two it was written with.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from nextvec.core.formatting import SYMBOLS
from nextvec.reports.html.panels import Panel


def render(title: str, body: Iterable[str]) -> str:
    """The whole page around some sections; the script of plotly, from the installed package, is part of it."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), asset("chart.js") + asset("page.js")]
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} · nextvec</title>",
            f"<style>{asset('page.css')}</style>",
            "</head>",
            "<body><main>",
            *body,
            "</main>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


def section(heading: str, *content: str) -> str:
    """A section under a heading; nothing where it has no content."""
    inside = "".join(content)
    return f"<section><h2>{escape(heading)}</h2>{inside}</section>" if inside else ""


def card(title: str, *content: str) -> str:
    """A framed part of a section."""
    return f'<div class="card"><h3>{escape(title)}</h3>{"".join(content)}</div>'


def note(text: str) -> str:
    """A remark in small letters."""
    return f'<p class="note">{escape(text)}</p>'


def findings(heading: str, items: Sequence[str]) -> str:
    """A section that lists what `finding` made."""
    return section(heading, f'<div class="card"><ul class="findings">{"".join(items)}</ul></div>' if items else "")


def finding(status_name: str, name: str, text: str) -> str:
    """A line behind a light."""
    return f"<li>{status(status_name)}<b>{escape(name)}</b><span>{escape(text)}</span></li>"


def status(name: str) -> str:
    """A light that differs in shape and colour, with its name for those who hear the page."""
    shape = next((shape for known, shape in SYMBOLS.items() if known == name), "")
    return f'<span class="light {escape(name)}" role="img" aria-label="{escape(name)}">{shape}</span>'


def table(headings: Iterable[str], rows: Iterable[str]) -> str:
    """A table that scrolls by itself where it is too wide; `rows` are what `row` made."""
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def row(cells: Iterable[tuple[str, bool]], name: str | None = None, *, of_model: bool = False) -> str:
    """A row of a table: its name where it has one, then (text, is it the best of its column)."""
    texts = "".join(
        f'<td class="best">{escape(text)}</td>' if best else f"<td>{escape(text)}</td>" for text, best in cells
    )
    head = "" if name is None else f'<th scope="row" title="{escape(name)}">{escape(name)}</th>'
    start = '<tr class="model">' if of_model else "<tr>"
    return f"{start}{head}{texts}</tr>"


def charts(panels: Sequence[Panel]) -> str:
    """Charts side by side, each with its data right behind its place."""
    if not panels:
        return ""
    return f'<div class="charts">{"".join(map(_chart, panels))}</div>'


def _chart(panel: Panel) -> str:
    """A chart's place and its data; `<` is spelt so that no text can end the script."""
    data = json.dumps(panel.figure, allow_nan=False).replace("<", "\\u003c")
    name = escape(panel.title)
    told = f"<figcaption>{escape(panel.note)}</figcaption>" if panel.note else ""
    return (
        f'<figure class="card"><h3>{name}</h3><div role="img" aria-label="{name}"></div>'
        f'<script type="application/json">{data}</script>{told}</figure>'
    )


def facts_line(facts: Mapping[str, Any]) -> str:
    """Names and values in one line of small letters."""
    return note(" · ".join(f"{name} {value}" for name, value in facts.items())) if facts else ""


def asset(name: str) -> str:
    """A file that pages are made of."""
    return files("nextvec.reports.html").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """A script's hash as a security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
