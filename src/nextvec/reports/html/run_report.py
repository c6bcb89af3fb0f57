"""report.html: the report of a run as one self-contained HTML file, which loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from nextvec.core.files import write_text
from nextvec.core.formatting import Status, format_number, outcome_status
from nextvec.core.loss_terms import requested_shares
from nextvec.core.table import Column, Table, html_status, text_row
from nextvec.reports.html.page import card, charts, facts_line, finding, findings, note, render, section, table_card
from nextvec.reports.html.panels import CurveSource, evaluated_panels, run_panels
from nextvec.reports.tables import (
    GEOMETRY_LEGEND,
    ablation_table,
    describe_latency,
    geometry_table,
    has_geometry,
    model_lines,
    split_table,
    splits_table,
)

if TYPE_CHECKING:
    from nextvec.evaluation.examples import Example
    from nextvec.evaluation.results import Evaluation, Verdict

SYNTHETIC_CARD = (
    '<section class="card"><p><b>SYNTHETIC data.</b> The results do not transfer to real text.</p></section>'
)

SCORES_NOTE = (
    "The gain is the model’s cosine minus that of the row, on the same windows. The confidence intervals resample "
    "documents. The best value of each column is in bold."
)

EXAMPLES_NOTE = (
    "The windows are a random sample of val. The nearest text is retrieved from all chunks of val except the window’s "
    "context. Long texts are cut."
)


@dataclass(frozen=True)
class ReportContent:
    """Everything that the report of a run shows, as plain values apart from the evaluation and the examples."""

    title: str
    recipe: Mapping[str, Any]
    """The resolved recipe as nested values."""
    evaluation: Evaluation | None
    """The evaluation of the best model; None if the run ended early."""
    history: Sequence[Mapping[str, Any]]
    """Metrics of each epoch (`epoch`, `val_cosine`, `train_loss_mse` …); any can be missing."""
    check: Mapping[str, Any]
    """`CheckReport.to_dict()`."""
    versions: Mapping[str, Any]
    """Package → version."""
    success: Mapping[str, Any] | None = None
    """`Success.to_dict()`."""
    diagnoses: Mapping[str, Any] | None = None
    """`Diagnoses.to_dict()`."""
    synthetic: bool = False
    """Whether the data is synthetic, which the page states first."""
    baselines: Mapping[str, Mapping[str, float]] | None = None
    """Split → baseline → cosine."""
    examples: Sequence[Example] = ()
    """Windows with their texts."""
    ended: str = ""
    """Why the run ended early."""
    selection: str = ""
    """Which epoch each output of best_model.pt is from."""


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report of a run in one atomic step. Raises OutputError if the file cannot be written."""
    evaluation = content.evaluation
    source = curve_source(content.title, content.recipe, content.history, content.baselines or {})
    # Results come first and their causes later: a reader who stops early has seen the verdict.
    body = [
        _header(content.title, content.recipe),
        SYNTHETIC_CARD if content.synthetic else "",
        verdict_card(evaluation.verdict if evaluation else None, content.ended),
        _criteria(content.success),
        _diagnoses(content.diagnoses),
        _scores(evaluation) if evaluation else "",
        _geometry(evaluation) if evaluation else "",
        _examples(content.examples),
        _curves(source, content.selection, is_evaluated=evaluation is not None),
        _gates(content.history),
        _check(content.check),
        _reproduction(content.recipe, content.versions),
    ]
    write_text(path, render(content.title, body))


def curve_source(
    name: str,
    recipe: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, float]],
    evaluation: Mapping[str, Any] | None = None,
) -> CurveSource:
    """Return the data of a run's charts; without an evaluation only those of its training."""
    shares = requested_shares(recipe.get("objective", {}))
    return CurveSource(name, history, baselines, recipe.get("gates", ()), shares, evaluation or {})


def _header(title: str, recipe: Mapping[str, Any]) -> str:
    # The recipe may be that of a run that failed early, so any field can be missing.
    model, data = recipe.get("model", {}), recipe.get("data", {})
    facts = [recipe.get("description"), model.get("kind"), data.get("store")]
    if "context" in data:
        facts.append(f"context {data['context']}")
    about = " · ".join(escape(str(fact)) for fact in facts if fact)
    return f'<header><h1>{escape(title)}</h1><p class="about">{about}</p></header>'


def verdict_card(verdict: Verdict | None, ended: str = "", name: str = "") -> str:
    """Return the verdict with its reasons; `name` is the run's name if the page has several runs."""
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    if verdict is not None:
        reasons = [f"{split}: {reason}" for split, reasons in verdict.reasons.items() for reason in reasons]
        return _status_card(verdict.status, heading, verdict.sentence, reasons)
    if not ended:
        return f'<section class="card">{heading}<p>No model was evaluated.</p></section>'
    # The first sentence is the reason; the others are the diagnosis and the advice.
    reason, *details = re.split(r"(?<=\.) (?=[A-Z])|; ", ended)
    return _status_card(Status.RED, heading, reason, details)


def _status_card(status: Status, heading: str, sentence: str, details: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(item)}</li>" for item in details)
    text = f"{heading}<p>{escape(sentence)}</p><ul>{items}</ul>"
    return f'<section class="card verdict {status}">{html_status(status)}<div>{text}</div></section>'


def _criteria(success: Mapping[str, Any] | None) -> str:
    items = []
    for criterion in (success or {}).get("criteria", ()):
        # A measurement always stands next to what was required.
        suffix = f" ({criterion['note']})" if criterion["note"] else ""
        text = f"{criterion['measured']}, required {criterion['required']}{suffix}"
        items.append(finding(outcome_status(criterion["passed"]), criterion["name"], text))
    return findings("Success criteria", items)


def _diagnoses(diagnoses: Mapping[str, Any] | None) -> str:
    items = [
        finding(item["status"], f"{item['title']} ({item['confidence']})", f"{item['evidence']} {item['advice']}")
        for item in (diagnoses or {}).get("diagnoses", ())
    ]
    return findings("Diagnosis", items)


def _gates(history: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [verdict for metrics in history for verdict in metrics.get("gates", ())]
    items = [
        finding(
            verdict["status"],
            f"epoch {verdict['epoch']}",
            ". ".join(filter(None, (verdict["reason"], verdict["advice"]))),
        )
        for verdict in verdicts
    ]
    return findings("Gates and sentinel", items)


def _scores(evaluation: Evaluation) -> str:
    """Return the scores of the model and the baselines, a card per split."""
    # The tables first; latency and the caveats of the evaluation explain them.
    parts = [table_card(split_table(evaluation, split)) for split in evaluation.splits]
    if evaluation.latency is not None:
        parts.append(note(describe_latency(evaluation.latency)))
    parts += map(note, evaluation.notes)
    return section("Scores", *parts, note(SCORES_NOTE))


def _geometry(evaluation: Evaluation) -> str:
    """Return the charts of the evaluation, the prediction geometry, and the context ablations."""
    drawn = charts(evaluated_panels(evaluation.to_dict()))
    if not has_geometry(evaluation):
        return section("Prediction geometry", drawn)
    cards = []
    for split, result in evaluation.splits.items():
        lines = "".join(f"<li>{escape(line)}</li>" for line in model_lines(result, with_ablations=False))
        cards.append(table_card(geometry_table(evaluation, split), f"<ul>{lines}</ul>" if lines else ""))
        if result.ablations:
            cards.append(table_card(ablation_table(result, split)))
    return section("Prediction geometry", drawn, *cards, note(GEOMETRY_LEGEND))


def _examples(examples: Sequence[Example]) -> str:
    """Return windows as texts: the context, the text nearest to the prediction, and the next text."""
    cards = []
    for example in examples:
        context = "".join(f"<li>{escape(text)}</li>" for text in example.context)
        rank = f"rank {example.rank:,.0f} of {example.candidates:,}"
        parts = [f'<h4>Context</h4><ol class="texts">{context}</ol>']
        # If the nearest text is the true next one, it is shown once.
        if example.hit:
            parts.append(f"<h4>{html_status(Status.GREEN)}Nearest text, which is the true next text</h4>")
        else:
            parts.append(f"<h4>Nearest text · cosine {example.nearest_cosine:.3f}</h4>")
            parts.append(f'<p class="text">{escape(example.nearest)}</p>')
            parts.append(f"<h4>True next text · cosine {example.target_cosine:.3f} · {rank}</h4>")
        parts.append(f'<p class="text">{escape(example.target)}</p>')
        cards.append(card(example.title, *parts))
    return section("Example windows", *cards, note(EXAMPLES_NOTE)) if cards else ""


def _curves(source: CurveSource, selection: str, *, is_evaluated: bool) -> str:
    if not source.records:
        return ""
    # The metrics of every epoch are folded: they are for copying, not for reading.
    ring = "Ring: the best epoch of the prediction" + (", whose weights were evaluated." if is_evaluated else ".")
    legend = f"Dashed lines: the baselines on the same windows. {ring} Shaded areas: gates, green or red."
    metrics = f"<details><summary>Metrics of every epoch</summary>{_history_table(source.records).html()}</details>"
    return section("Training", charts(run_panels(source)), note(legend), note(selection) if selection else "", metrics)


def _history_table(history: Sequence[Mapping[str, Any]]) -> Table:
    # Metrics that appear later in the run get a column, too; gates and diagnoses have their own sections.
    keys = dict.fromkeys(["epoch", *(key for metrics in history for key in metrics)])
    shown = [key for key in keys if key not in ("gates", "diagnoses")]
    rows = (text_row([_metric_text(metrics.get(key)) for key in shown]) for metrics in history)
    return Table("", tuple(Column(key) for key in shown), tuple(rows))


def _metric_text(value: Any) -> str:
    if value is None:
        return ""
    return format_number(value, ".4g") if isinstance(value, float) else str(value)


def _check(check: Mapping[str, Any]) -> str:
    """Return the findings of the data check, and the statistics of the splits."""
    if not check:
        return ""
    items = "".join(
        finding(item["status"], item["name"], f"{item['message']} {item['remedy']}") for item in check["findings"]
    )
    splits = check["statistics"]["splits"]
    # Show the coherence at every measured distance; splits of short documents have fewer.
    longest = max((len(statistics["coherence"]) for statistics in splits.values()), default=0)
    table = splits_table(splits, range(1, longest + 1))
    about = note("cos +k: mean cosine of two chunks of a document at distance k.")
    return section("Data check", f'<div class="card"><ul class="findings">{items}</ul></div>', table_card(table, about))


def _reproduction(recipe: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    toml = f'<div class="card"><pre>{escape(tomli_w.dumps(recipe))}</pre></div>'
    return section("Recipe and versions", toml, facts_line(versions))
