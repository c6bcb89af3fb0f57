"""Building blocks of self-contained HTML pages: the page, cards, findings and charts.

Every text of a run (names, paths, messages) is escaped here. The page's security policy allows its two scripts only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from nextvec.core.formatting import Status
from nextvec.core.table import Table, html_code, html_status
from nextvec.reports.html.panels import Panel


def render(title: str, body: Iterable[str]) -> str:
    """Return the page with some sections. It contains the script of the installed plotly."""
    from plotly.offline import get_plotlyjs

    # The policy allows scripts by their hashes, so that markup in a name could not run one.
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
    """Return a section with a heading; empty if it has no content."""
    inside = "".join(content)
    return f"<section><h2>{escape(heading)}</h2>{inside}</section>" if inside else ""


def card(title: str, *content: str) -> str:
    """Return a framed part of a section."""
    return f'<div class="card"><h3>{escape(title)}</h3>{"".join(content)}</div>'


def note(text: str) -> str:
    """Return a paragraph in small type."""
    return f'<p class="note">{escape(text)}</p>'


def findings(heading: str, items: Sequence[str]) -> str:
    """Return a section with a list of findings."""
    return section(heading, f'<div class="card"><ul class="findings">{"".join(items)}</ul></div>' if items else "")


def finding(status: Status | str, name: str, text: str) -> str:
    """Return a line of a list of findings."""
    return f"<li>{html_status(status)}<b>{escape(name)}</b><span>{html_code(text)}</span></li>"


def table_card(table: Table, *content: str) -> str:
    """Return a card with a table and its title."""
    return card(table.title, table.html(), *content) if table.title else f'<div class="card">{table.html()}</div>'


def charts(panels: Sequence[Panel]) -> str:
    """Return charts in a grid."""
    if not panels:
        return ""
    return f'<div class="charts">{"".join(map(_chart, panels))}</div>'


def _chart(panel: Panel) -> str:
    """Return a chart's container and its data, in which `<` is escaped, so that no text ends the script."""
    # page.js draws every JSON script into the element before it.
    data = json.dumps(panel.figure, allow_nan=False).replace("<", "\\u003c")
    name = escape(panel.title)
    caption = f"<figcaption>{escape(panel.note)}</figcaption>" if panel.note else ""
    return (
        f'<figure class="card"><h3>{name}</h3><div role="img" aria-label="{name}"></div>'
        f'<script type="application/json">{data}</script>{caption}</figure>'
    )


def facts_line(facts: Mapping[str, Any]) -> str:
    """Return names and values as one line in small type."""
    return note(" · ".join(f"{name} {value}" for name, value in facts.items())) if facts else ""


def asset(name: str) -> str:
    """Return the text of a style or script."""
    return files("nextvec.reports.html").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """Return the hash of a script, as a security policy needs it."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
