"""Several runs on one HTML page, as the report has one: verdicts, tables, curves laid over each other, what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nextvec.core.files import write_text
from nextvec.core.formatting import Status
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case
from nextvec.reports.comparison import HEADINGS, Comparison, beside_cells, beside_headings, score_cells
from nextvec.reports.html.charts import Axes, Line, chart, span
from nextvec.reports.html.page import card, charts, finding, findings, note, render, row, section, table
from nextvec.reports.html.panels import OFFSETS_NOTE, RUN_STYLES, SPLIT_NAMES, Panel, overlay_panels
from nextvec.reports.html.run_report import SYNTHETIC_CARD, curve_source, verdict_card
from nextvec.reports.run_summary import RunFacts

MOST_CURVES = len(RUN_STYLES)


def write_comparison(
    path: Path, comparison: Comparison, runs: Sequence[tuple[str, RunFacts, Case]]
) -> None:  # fmt: skip
    """Write the page of a comparison to `path`, in one step. `runs` are (what tables call it, its facts, its case).

    Raises OutputError if the file can't be written.
    """
    names = [name for name, _, _ in runs]
    title = " · ".join(names) if len(names) <= 3 else f"{len(names)} runs side by side"
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        SYNTHETIC_CARD if any(compared.synthetic for compared in comparison.sets) else "",
        *(
            verdict_card(facts.evaluation.verdict if facts.evaluation else None, facts.state, name)
            for name, facts, _ in runs
        ),
        *_tables(comparison),
        _curves(runs),
        *_lights(runs),
        _recipes(runs),
    ]
    write_text(path, render(title, body))


def _tables(comparison: Comparison) -> list[str]:
    """Scores in one table for each set of windows, with the baselines among the rows."""
    parts = []
    for compared in comparison.sets:
        cards = [
            card(
                f"{SPLIT_NAMES.get(scores.split, scores.split)}: {scores.windows}",
                table(
                    HEADINGS,
                    [
                        row(((cell, False) for cell in score_cells(line)[1:]), line.name, of_model=not line.baseline)
                        for line in scores.rows
                    ],
                ),
            )
            for scores in compared.splits
        ]
        if compared.beside:
            lines = [beside_cells(line) for line in compared.beside]
            rows = [row(((cell, False) for cell in line[1:]), line[0]) for line in lines]
            cards.append(card(f"beside {comparison.reference}", table(beside_headings(comparison), rows)))
        parts.append(section(compared.title, *cards))
    remarks = [finding(Status.AMBER, run, remark) for run, remark in comparison.remarks.items()]
    return [*parts, findings("Remarks", remarks), *map(note, comparison.notes)]


def _curves(runs: Sequence[tuple[str, RunFacts, Case]]) -> str:
    """The runs' curves over each other; only so many as can be told apart."""
    shown = runs[:MOST_CURVES]
    sources = [curve_source(name, facts.recipe, case.history, case.baselines) for name, facts, case in shown]
    left_out = len(runs) - len(shown)
    told = note(f"The curves are of the first {MOST_CURVES} runs; {left_out} more are left out.") if left_out else ""
    return section("Curves", charts([*overlay_panels(sources), *_offset_panels(shown)]), told)


def _offset_panels(runs: Sequence[tuple[str, RunFacts, Case]]) -> list[Panel]:
    """The offset curve of each run's model."""
    panels = []
    for split in ("val", "ood"):
        lines = []
        for number, (name, facts, _) in enumerate(runs):
            figures = facts.evaluation.splits.get(split) if facts.evaluation else None
            model = facts.evaluation.model if facts.evaluation else None
            profile = figures.predictors[model].offset_profile if figures and model else None
            if profile is not None:
                offsets = sorted(profile.curve.items())
                style = RUN_STYLES[number % len(RUN_STYLES)]
                lines.append(Line(name, [k for k, _ in offsets], [value for _, value in offsets], *style))
        known = [value for line in lines for value in line.y if value is not None]
        if known:
            axes = Axes(span(known, 0.01), "place in the document, from the target")
            panels.append(Panel(f"offsets_{split}", f"Offset curve · {split}", chart(lines, axes), OFFSETS_NOTE))
    return panels


def _lights(runs: Sequence[tuple[str, RunFacts, Case]]) -> list[str]:
    """The gates that were not green, and what is wrong with each run."""
    gates, wrong = [], []
    for name, _, case in runs:
        for record in case.history:
            for verdict in record.get("gates", ()):
                if verdict["status"] != Status.GREEN:
                    gates.append(finding(verdict["status"], name, f"epoch {verdict['epoch']}: {verdict['reason']}"))
        wrong += [finding(item.status, name, item.line) for item in diagnose(case).items]
    return [findings("Diagnosis", wrong), findings("Gates that were not green", gates)]


def _recipes(runs: Sequence[tuple[str, RunFacts, Case]]) -> str:
    """The fields in which the recipes and versions differ."""
    flat = [{**_flat(facts.recipe), **_flat(facts.started.get("versions", {}), "version ")} for _, facts, _ in runs]
    fields = dict.fromkeys(field for values in flat for field in values)
    rows = [
        row(((values.get(field, "–"), False) for values in flat), field)
        for field in fields
        if len({values.get(field) for values in flat}) > 1
    ]
    names = [name for name, _, _ in runs]
    return section("In what they differ", f'<div class="card">{table(["field", *names], rows)}</div>' if rows else "")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested values as one level of names and texts; gates as their number."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = f"{len(value)} of them" if isinstance(value, list | tuple) else str(value)
    return found
