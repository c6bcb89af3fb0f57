"""The HTML page of a comparison: verdicts, score tables, overlaid curves, and the differences of the recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nextvec.core.files import write_text
from nextvec.core.formatting import ABSENT, Status
from nextvec.core.table import Column, Table, text_row
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case
from nextvec.reports.comparison import Comparison
from nextvec.reports.html.charts import Axes, Line, chart, span
from nextvec.reports.html.page import charts, finding, findings, note, render, section, table_card
from nextvec.reports.html.panels import OFFSETS_NOTE, OFFSETS_TITLE, RUN_STYLES, SPLIT_NAMES, Panel, overlay_panels
from nextvec.reports.html.run_report import SYNTHETIC_CARD, curve_source, verdict_card
from nextvec.reports.run_summary import RunFacts

MAX_CURVES = len(RUN_STYLES)
"""Runs in one chart: more would have equal styles."""

RunCase = tuple[str, RunFacts, Case]
"""A run's name in the tables, its facts, and its case for the diagnosis."""


def write_comparison(path: Path, comparison: Comparison, runs: Sequence[RunCase]) -> None:
    """Write the page of a comparison in one atomic step. Raises OutputError if the file cannot be written."""
    # Many names would not fit into a heading.
    names = [name for name, _, _ in runs]
    title = " · ".join(names) if len(names) <= 3 else f"Comparison of {len(names)} runs"
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        SYNTHETIC_CARD if any(compared.is_synthetic for compared in comparison.sets) else "",
        *(
            verdict_card(facts.evaluation.verdict if facts.evaluation else None, facts.state, name)
            for name, facts, _ in runs
        ),
        *_tables(comparison),
        _curves(runs),
        *_problems(runs),
        _recipe_differences(runs),
    ]
    write_text(path, render(title, body))


def _tables(comparison: Comparison) -> list[str]:
    """Return a section for each set of windows, then remarks and notes."""
    parts = []
    for compared in comparison.sets:
        cards = [table_card(scores.table) for scores in compared.splits]
        if compared.reference_rows:
            cards.append(table_card(comparison.reference_table(compared)))
        parts.append(section(compared.title, *cards))
    remarks = [finding(Status.AMBER, run, remark) for run, remark in comparison.remarks.items()]
    return [*parts, findings("Remarks", remarks), *map(note, comparison.notes)]


def _curves(runs: Sequence[RunCase]) -> str:
    """Return the overlaid curves of at most `MAX_CURVES` runs."""
    # Each style belongs to one run, so further runs are left out and counted.
    shown = runs[:MAX_CURVES]
    sources = [curve_source(name, facts.recipe, case.history, case.baselines) for name, facts, case in shown]
    left_out = len(runs) - len(shown)
    remark = note(f"The charts show the first {MAX_CURVES} runs and leave out {left_out}.") if left_out else ""
    return section("Curves", charts([*overlay_panels(sources), *_offset_panels(shown)]), remark)


def _offset_panels(runs: Sequence[RunCase]) -> list[Panel]:
    """Return the offset curves of the runs' models, a chart per split."""
    panels = []
    for split in ("val", "ood"):
        lines = []
        # The number picks the style, so a run has the same one in all charts.
        for number, (name, facts, _) in enumerate(runs):
            result = facts.evaluation.splits.get(split) if facts.evaluation else None
            model = facts.evaluation.model if facts.evaluation else None
            profile = result.predictors[model].offset_profile if result and model else None
            if profile is not None:
                offsets = sorted(profile.curve.items())
                style = RUN_STYLES[number % len(RUN_STYLES)]
                lines.append(Line(name, [k for k, _ in offsets], [cosine for _, cosine in offsets], *style))
        known = [cosine for line in lines for cosine in line.y if cosine is not None]
        if known:
            figure = chart(lines, Axes(span(known, 0.01), OFFSETS_TITLE))
            panels.append(Panel(f"offsets_{split}", f"Offset curve · {SPLIT_NAMES[split]}", figure, OFFSETS_NOTE))
    return panels


def _problems(runs: Sequence[RunCase]) -> list[str]:
    """Return the diagnoses of all runs, and their gates that were not green."""
    gates, diagnoses = [], []
    for name, _, case in runs:
        for metrics in case.history:
            for verdict in metrics.get("gates", ()):
                if verdict["status"] != Status.GREEN:
                    gates.append(finding(verdict["status"], name, f"epoch {verdict['epoch']}: {verdict['reason']}"))
        diagnoses += [
            finding(item.status, name, f"{item.title} ({item.confidence}): {item.evidence} {item.advice}")
            for item in diagnose(case).items
        ]
    return [findings("Diagnosis", diagnoses), findings("Gates that are not green", gates)]


def _recipe_differences(runs: Sequence[RunCase]) -> str:
    """Return a table of the recipe fields and versions in which the runs differ."""
    # Versions count as fields: a difference between two runs can come from a library.
    flat = [{**_flat(facts.recipe), **_flat(facts.started.get("versions", {}), "version ")} for _, facts, _ in runs]
    fields = dict.fromkeys(field for values in flat for field in values)
    rows = [
        text_row([field, *(values.get(field, ABSENT) for values in flat)])
        for field in fields
        if len({values.get(field) for values in flat}) > 1
    ]
    columns = (Column("field", "left"), *(Column(name) for name, _, _ in runs))
    return section("Differences", table_card(Table("", columns, tuple(rows)))) if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as one level of dotted names and texts; of a list only its length."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{name}"] = f"{len(value)} entries"
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
