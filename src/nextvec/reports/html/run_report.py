"""report.html: what a run leaves for people, in one file that needs nothing else; nothing in it is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from nextvec.core.files import write_text
from nextvec.core.formatting import Status
from nextvec.core.loss_terms import requested_shares
from nextvec.reports.html.page import (
    card,
    charts,
    facts_line,
    finding,
    findings,
    note,
    render,
    row,
    section,
    status,
    table,
)
from nextvec.reports.html.panels import SPLIT_NAMES, CurveSource, evaluated_panels, run_panels
from nextvec.reports.tables import (
    LEGEND,
    MEASURES,
    QUERY,
    Column,
    columns_of,
    describe_latency,
    describe_split,
    is_measured,
    model_lines,
    rows_of,
)

if TYPE_CHECKING:
    from nextvec.evaluation.examples import Example
    from nextvec.evaluation.results import Evaluation, Verdict


def write_report(
    path: Path,
    *,
    title: str,
    recipe: Mapping[str, Any],
    evaluation: Evaluation | None,
    history: Sequence[Mapping[str, Any]],
    check: Mapping[str, Any],
    versions: Mapping[str, Any],
    success: Mapping[str, Any] | None = None,
    diagnoses: Mapping[str, Any] | None = None,
    synthetic: bool = False,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    examples: Sequence[Example] = (),
    ended: str = "",
) -> None:
    """Write the report of a run to `path`, in one step.

    `recipe` is the resolved recipe as nested values, `history` one record for each epoch (`epoch`, `train_cosine`,
    `val_cosine`, `ood_cosine`, `train_loss_mse` …, what is missing is left out), `check` a `CheckReport.to_dict()`,
    `versions` names and versions of what ran, `success` a `Success.to_dict()`, `diagnoses` a
    `Diagnoses.to_dict()`, `baselines` the mean cosine of each by split, `examples` windows in words. Without a
    judgement the page says why: `ended` is what ended the run before its time. `synthetic` data it names before all
    else. Raises OutputError if the file can't be written.
    """
    source = curve_source(title, recipe, history, baselines or {})
    body = [
        _header(title, recipe),
        SYNTHETIC_CARD if synthetic else "",
        verdict_card(evaluation.verdict if evaluation else None, ended),
        _criteria(success),
        _diagnoses(diagnoses),
        _tables(evaluation) if evaluation else "",
        _measures(evaluation) if evaluation else "",
        _examples(examples),
        _curves(source, evaluated=evaluation is not None),
        _gates(history),
        _check(check),
        _sources(recipe, versions),
    ]
    write_text(path, render(title, body))


def curve_source(
    name: str,
    recipe: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, float]],
    evaluation: Mapping[str, Any] | None = None,
) -> CurveSource:
    """What a run's charts are drawn from; without a judgement only those of its training."""
    asked = requested_shares(recipe.get("objective", {}))
    return CurveSource(name, history, baselines, recipe.get("gates", ()), asked, evaluation or {})


def _header(title: str, recipe: Mapping[str, Any]) -> str:
    model, data = recipe.get("model", {}), recipe.get("data", {})
    facts = [recipe.get("description"), model.get("kind"), data.get("store")]
    if "context" in data:
        facts.append(f"context {data['context']}")
    about = " · ".join(escape(str(fact)) for fact in facts if fact)
    return f'<header><h1>{escape(title)}</h1><p class="about">{about}</p></header>'


def verdict_card(verdict: Verdict | None, ended: str = "", name: str = "") -> str:
    """The verdict in a sentence, with its reasons; `name` is of the run, where the page has several."""
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    if verdict is None:
        if not ended:
            return f'<section class="card">{heading}<p>No model was judged.</p></section>'
        # The first sentence is the reason; the others are the diagnosis and what to do.
        why, *more = re.split(r"(?<=\.) (?=[A-Z])|; ", ended)
        items = "".join(f"<li>{escape(item)}</li>" for item in more)
        told = f"{heading}<p>{escape(why)}</p><ul>{items}</ul>"
        return f'<section class="card verdict red">{status(Status.RED)}<div>{told}</div></section>'
    reasons = "".join(
        f"<li>{escape(split)}: {escape(reason)}</li>" for split, found in verdict.reasons.items() for reason in found
    )
    return (
        f'<section class="card verdict {verdict.status}">{status(verdict.status)}'
        f"<div>{heading}<p>{escape(verdict.sentence)}</p><ul>{reasons}</ul></div></section>"
    )


SYNTHETIC_CARD = (
    '<section class="card"><p><b>SYNTHETIC data.</b> A rehearsal: its scores say nothing about real text.</p></section>'
)


def _criteria(success: Mapping[str, Any] | None) -> str:
    """What the run had to reach, and whether it did."""
    items = []
    for criterion in (success or {}).get("criteria", ()):
        note = f" ({criterion['note']})" if criterion["note"] else ""
        text = f"{criterion['measured']}, required {criterion['required']}{note}"
        items.append(finding(Status.GREEN if criterion["passed"] else Status.RED, criterion["name"], text))
    return findings("Success criteria", items)


def _gates(history: Sequence[Mapping[str, Any]]) -> str:
    """Every gate that the run came to, and what it said."""
    verdicts = [verdict for record in history for verdict in record.get("gates", ())]
    texts = ["; ".join(filter(None, (verdict["reason"], verdict["advice"]))) for verdict in verdicts]
    items = [
        finding(verdict["status"], f"epoch {verdict['epoch']}", text)
        for verdict, text in zip(verdicts, texts, strict=True)
    ]
    return findings("Gates and sentinel", items)


def _tables(evaluation: Evaluation) -> str:
    parts = [
        card(
            SPLIT_NAMES.get(split, split),
            _predictors(evaluation, split, columns_of(evaluation)),
            note(describe_split(figures)),
        )
        for split, figures in evaluation.splits.items()
    ]
    if evaluation.latency is not None:
        parts.append(note(describe_latency(evaluation.latency)))
    parts += map(note, evaluation.notes)
    parts.append(
        note(
            "The cosine’s ± is half of its 95 % interval; the gain is the model’s cosine minus that of the row, on the "
            "same windows; both intervals resample documents. Best of each column in bold."
        )
    )
    return section("The model beside the baselines", *parts)


def _measures(evaluation: Evaluation) -> str:
    """Where predictions point, what they find, how they spread, and what spoiling the context costs."""
    drawn = charts(evaluated_panels(evaluation.to_dict()))
    if not is_measured(evaluation):
        return section("What the predictions are like", drawn)
    cards = []
    for split, figures in evaluation.splits.items():
        lines = "".join(f"<li>{escape(line)}</li>" for line in model_lines(figures, ablations=False))
        parts = [_predictors(evaluation, split, MEASURES), f"<ul>{lines}</ul>"]
        if figures.ablations:
            falls = [row([(drop.signed, False)], name) for name, drop in figures.ablations.items()]
            parts.append(table(("what is done to the context", "fall of the model’s cosine [95 %]"), falls))
        cards.append(card(SPLIT_NAMES.get(split, split), *parts))
    return section("What the predictions are like", drawn, *cards, note(LEGEND))


def _predictors(evaluation: Evaluation, split: str, columns: Sequence[Column]) -> str:
    """A table of all predictors on a split."""
    own = (evaluation.model, f"{evaluation.model}, {QUERY}")
    rows = [row(cells, name, of_model=name in own) for name, cells in rows_of(evaluation, split, columns)]
    return table(("predictor", *(column.heading for column in columns)), rows)


def _examples(examples: Sequence[Example]) -> str:
    """Some windows in words: what was read, what lies nearest to the prediction, what came next."""
    cards = []
    for example in examples:
        context = "".join(f"<li>{escape(text)}</li>" for text in example.context)
        rank = f"rank {example.rank:,.0f} of {example.candidates:,}"
        parts = [f'<h4>Context</h4><ol class="texts">{context}</ol>']
        if example.hit:
            parts.append(f"<h4>{status(Status.GREEN)} Nearest to the prediction, and the true next text</h4>")
        else:
            parts.append(f"<h4>Nearest to the prediction · cosine {example.nearest_cosine:.3f}</h4>")
            parts.append(f'<p class="text">{escape(example.nearest)}</p>')
            parts.append(f"<h4>The true next text · cosine {example.target_cosine:.3f} · {rank}</h4>")
        parts.append(f'<p class="text">{escape(example.target)}</p>')
        cards.append(card(example.title, *parts))
    return section("Windows in words", *cards, note(EXAMPLES_NOTE)) if cards else ""


EXAMPLES_NOTE = (
    "Windows of val drawn by chance, not chosen. The nearest text is sought among all chunks of val but the window’s "
    "own context. Long texts are cut."
)


def _diagnoses(diagnoses: Mapping[str, Any] | None) -> str:
    """What is wrong with the run, and what to do."""
    found = (diagnoses or {}).get("diagnoses", ())
    return findings(
        "Diagnosis",
        [
            finding(item["status"], f"{item['title']} ({item['confidence']})", f"{item['evidence']} {item['advice']}")
            for item in found
        ],
    )


def _curves(source: CurveSource, *, evaluated: bool) -> str:
    if not source.records:
        return ""
    ring = "Ring: the best epoch" + (", whose weights were judged." if evaluated else ".")
    told = f"Dashed lines: the baselines on the same windows. {ring} Tinted: where a gate is green or red."
    figures = f"<details><summary>The figures of every epoch</summary>{_history_table(source.records)}</details>"
    return section("Training", charts(run_panels(source)), note(told), figures)


def _history_table(history: Sequence[Mapping[str, Any]]) -> str:
    keys = dict.fromkeys(["epoch", *(key for record in history for key in record)])
    shown = [key for key in keys if key not in ("gates", "diagnoses")]
    return table(shown, [row((_short(record.get(key)), False) for key in shown) for record in history])


def _check(check: Mapping[str, Any]) -> str:
    if not check:
        return ""
    items = "".join(
        finding(item["status"], item["name"], f"{item['message']} {item['remedy']}") for item in check["findings"]
    )
    splits = check["statistics"]["splits"]
    rows = [row(((text, False) for text in _split_cells(split)), name) for name, split in splits.items()]
    distances = range(1, 1 + max((len(split["coherence"]) for split in splits.values()), default=0))
    headings = ("split", "documents", "too short", "rows", "windows", *(f"cos +{distance}" for distance in distances))
    about = note("cos +k: mean cosine of two chunks of a document that stand k apart.")
    return section(
        "Data check",
        f'<div class="card"><ul class="findings">{items}</ul></div>',
        f'<div class="card">{table(headings, rows)}{about}</div>',
    )


def _split_cells(split: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{split[key]:,}" for key in ("documents", "short", "rows", "windows"))
    yield from ("–" if cosine is None else f"{cosine:.3f}" for cosine in split["coherence"])


def _sources(recipe: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    toml = f'<div class="card"><pre>{escape(tomli_w.dumps(recipe))}</pre></div>'
    return section("How to repeat it", toml, facts_line(versions))


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
