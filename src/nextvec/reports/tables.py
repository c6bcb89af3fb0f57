"""A judgement and a preflight as tables: for the terminal (rich) and as Markdown. Pure functions; nothing is printed.

Every table fits in 100 columns, and every name is text, never markup.

What a judgement measures beside scores, as columns of a table and as lines. Pure functions; no torch.

Where predictions point (offsets, direction), how far they spread, how they fare in the own document and when they are
fed back; and for the model what spoiling its context costs, and where it wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nextvec.core.formatting import COLORS, SYMBOLS, Status, escape_markdown, format_interval

if TYPE_CHECKING:
    from nextvec.data.checks import CheckReport
    from nextvec.evaluation.results import (
        Estimate,
        Evaluation,
        Latency,
        OffsetProfile,
        PredictorResult,
        SplitResult,
        Subset,
        Verdict,
    )
    from nextvec.guards.diagnosis.case import Diagnoses


@dataclass(frozen=True)
class Column:
    """One figure of the table: its heading, its text, and the number that decides which predictor is best."""

    heading: str
    text: Callable[[PredictorResult], str]
    rank: Callable[[PredictorResult], float] | None = None
    """Higher is better; None where no predictor is best."""
    of_query: bool = False
    """Whether a model's query output has it, too."""


_GAIN = "gain (95 % CI)"
_IN_DOCUMENT = "in-doc. MRR"

QUERY = "query"
"""What the second output of a model is called in its row."""

COLUMNS = (
    Column("cosine", lambda scores: _with_spread(scores.cosine), lambda scores: scores.cosine.value),
    Column(_GAIN, lambda scores: "" if scores.gain is None else _short(scores.gain)),
    Column("margin", lambda scores: f"{scores.margin:+.3f}"),
    Column(
        "R@1 %", lambda scores: _percent(scores.retrieval.r_at_1), lambda scores: scores.retrieval.r_at_1, of_query=True
    ),
    Column(
        "R@5 %", lambda scores: _percent(scores.retrieval.r_at_5), lambda scores: scores.retrieval.r_at_5, of_query=True
    ),
    Column(
        "R@10 %",
        lambda scores: _percent(scores.retrieval.r_at_10),
        lambda scores: scores.retrieval.r_at_10,
        of_query=True,
    ),
    Column("MRR", lambda scores: f"{scores.retrieval.mrr:.3f}", lambda scores: scores.retrieval.mrr, of_query=True),
    Column(_IN_DOCUMENT, lambda scores: f"{scores.in_document.mrr:.3f}" if scores.in_document else "–", of_query=True),
)


def evaluation_view(evaluation: Evaluation) -> Group:
    """The whole judgement for a terminal: tables for each split, notes, and the verdict with its reasons."""
    from nextvec.reports.tables import MEASURES, is_measured, model_lines

    parts: list[RenderableType] = []
    for split, figures in evaluation.splits.items():
        parts += [split_table(evaluation, split), ""]
        if is_measured(evaluation):
            parts.append(split_table(evaluation, split, MEASURES, "prediction geometry"))
            parts += [Text(line, style="dim") for line in model_lines(figures)]
            parts.append("")
    if evaluation.latency is not None:
        parts.append(Text(describe_latency(evaluation.latency), style="dim"))
    parts += [Text(f"note: {note}", style="dim") for note in evaluation.notes]
    if evaluation.verdict is not None:
        parts.append(verdict_view(evaluation.verdict))
    return Group(*parts)


def split_table(evaluation: Evaluation, split: str, columns: Sequence[Column] = (), title: str = "") -> Table:
    """All predictors on one split: the model first, then the baselines from the highest cosine to the lowest.

    Left out, the columns are the scores and the title says what they rest on.
    """
    columns = columns or columns_of(evaluation)
    table = Table(
        title=Text(f"{split}: {title or describe_split(evaluation.splits[split])}"),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("predictor", no_wrap=True, max_width=17, overflow="ellipsis")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    own = (evaluation.model, f"{evaluation.model}, {QUERY}")
    for name, cells in rows_of(evaluation, split, columns):
        texts = [Text(cell, style="bold" if best else "") for cell, best in cells]
        table.add_row(Text(name), *texts, style="cyan" if name in own else "")
    return table


def verdict_view(verdict: Verdict) -> Group:
    """The light, the sentence, and the reasons of each split, for a terminal."""
    lines: list[RenderableType] = [_lit(verdict.status, verdict.sentence)]
    for split, reasons in verdict.reasons.items():
        lines += [Padding(Text(f"{split}: {reason}"), (0, 0, 0, 2)) for reason in reasons]
    return Group(*lines)


def diagnoses_view(diagnoses: Diagnoses) -> Group:
    """What is wrong with a run, the worst first: what was seen, how sure it is, and what to do."""
    if not diagnoses.items:
        return Group(_lit(Status.GREEN, "nothing is wrong that is known to go wrong"))
    parts: list[RenderableType] = []
    for item in diagnoses.items:
        parts.append(_lit(item.status, f"{item.title} ({item.confidence})"))
        parts += [Padding(Text(text), (0, 0, 0, 2)) for text in (item.evidence, f"→ {item.advice}")]
    return Group(*parts)


def check_view(report: CheckReport) -> Group:
    """The preflight for a terminal: one line for each finding, then the splits side by side."""
    findings = Table.grid(padding=(0, 1))
    findings.add_column(no_wrap=True)
    findings.add_column(no_wrap=True)
    findings.add_column(overflow="fold")
    for finding in report.findings:
        status = Text(SYMBOLS[finding.status], style=COLORS[finding.status])
        findings.add_row(status, Text(finding.name, style="bold"), Text(finding.text))
    splits = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    splits.add_column("split")
    headings = ("documents", "too short", "rows", "windows", "cosine at distance 1", "2", "4", "8")
    for heading in headings:
        splits.add_column(heading, justify="right")
    for name, figures in report.statistics["splits"].items():
        counts = (f"{figures[key]:,}" for key in ("documents", "short", "rows", "windows"))
        curve = (figures["coherence"][distance - 1] for distance in (1, 2, 4, 8))
        splits.add_row(Text(name), *counts, *("–" if cosine is None else f"{cosine:.3f}" for cosine in curve))
    return Group(findings, "", splits)


def evaluation_markdown(evaluation: Evaluation) -> str:
    """The whole judgement as Markdown: the verdict, tables for each split, and the notes."""
    from nextvec.reports.tables import MEASURES, is_measured, model_lines

    blocks = []
    if evaluation.verdict is not None:
        verdict = evaluation.verdict
        blocks.append(f"{SYMBOLS[verdict.status]} **{verdict.status}**: {escape_markdown(verdict.sentence)}")
        reasons = [
            f"- {split}: {escape_markdown(reason)}" for split, found in verdict.reasons.items() for reason in found
        ]
        if reasons:
            blocks.append("\n".join(reasons))
    for split, figures in evaluation.splits.items():
        blocks.append(f"**{escape_markdown(split)}**: {describe_split(figures)}")
        blocks.append(_markdown_table(evaluation, split, columns_of(evaluation)))
        if is_measured(evaluation):
            blocks.append(_markdown_table(evaluation, split, MEASURES))
            blocks.append("\n".join(f"- {escape_markdown(line)}" for line in model_lines(figures)))
    if evaluation.latency is not None:
        blocks.append(escape_markdown(describe_latency(evaluation.latency)))
    blocks += [f"Note: {escape_markdown(note)}" for note in evaluation.notes]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(evaluation: Evaluation, split: str, columns: Sequence[Column]) -> str:
    headings = [column.heading for column in columns]
    lines = ["| predictor | " + " | ".join(headings) + " |", "| --- |" + " ---: |" * len(headings)]
    for name, cells in rows_of(evaluation, split, columns):
        texts = [f"**{cell}**" if best and cell else cell for cell, best in cells]
        lines.append(f"| {escape_markdown(name)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def describe_latency(latency: Latency) -> str:
    """What a prediction of the model costs, in words."""
    times = ", ".join(f"{item.p50:.2f} ms for {item.batch:,} (95 %: {item.p95:.2f})" for item in latency.batches)
    return f"latency on {latency.device}: {times}; {latency.parameters:,} parameters"


def describe_split(figures: SplitResult) -> str:
    """What a split's figures rest on, in words."""
    return (
        f"{figures.windows:,} windows of {figures.documents:,} documents, "
        f"{figures.queries:,} queries among {figures.candidates:,} chunks"
    )


def columns_of(evaluation: Evaluation) -> tuple[Column, ...]:
    """The columns that a judgement fills: without a model there are no gains."""
    absent = {_GAIN} if evaluation.model is None else set()
    if not is_measured(evaluation):
        absent.add(_IN_DOCUMENT)
    return tuple(column for column in COLUMNS if column.heading not in absent)


def rows_of(evaluation: Evaluation, split: str, columns: Sequence[Column]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The table of a split as text: (predictor, a (text, is it the best of its column) for each of the columns).

    A model with a query output has a second row, of the figures that are the query's.
    """
    rows: list[tuple[str, PredictorResult, bool]] = []
    for name, scores in evaluation.splits[split].ranked(evaluation.model):
        rows.append((name, scores, False))
        if scores.query is not None:
            rows.append(
                (
                    f"{name}, {QUERY}",
                    replace(scores, retrieval=scores.query, in_document=scores.query_in_document),
                    True,
                )
            )
    best = [
        column.rank and max(column.rank(scores) for _, scores, of_query in rows if column.of_query or not of_query)
        for column in columns
    ]
    return [
        (
            name,
            [
                (column.text(scores), column.rank is not None and column.rank(scores) == top)
                if column.of_query or not of_query
                else ("", False)
                for column, top in zip(columns, best, strict=True)
            ],
        )
        for name, scores, of_query in rows
    ]


def _lit(status: Status, sentence: str) -> Text:
    """A sentence behind its light."""
    return Text.assemble((SYMBOLS[status], COLORS[status]), " ", (sentence, "bold"))


def _with_spread(estimate: Estimate) -> str:
    """A figure and half the width of its interval."""
    return format_interval(estimate.value, estimate.low, estimate.high)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _offset(k: int) -> Column:
    def text(scores: PredictorResult) -> str:
        value = scores.offset_profile.curve.get(k) if scores.offset_profile else None
        return "–" if value is None else f"{value:.3f}"

    return Column(f"cos {k:+d}", text)


def _direction(profile: OffsetProfile | None) -> str:
    if profile is None or profile.direction is None:
        return "–"
    return _short(profile.direction)


def _rollout(scores: PredictorResult) -> str:
    last = scores.rollout[-1] if scores.rollout else None
    return "–" if last is None else f"{last:.3f}"


MEASURES = (
    _offset(-6),
    _offset(-1),
    _offset(1),
    Column("direction", lambda scores: _direction(scores.offset_profile)),
    Column("dispersion", lambda scores: f"{scores.geometry.dispersion:.2f}" if scores.geometry else "–"),
    Column("rank", lambda scores: f"{scores.geometry.effective_rank:.0f}" if scores.geometry else "–"),
    Column("CA %", lambda scores: f"{100 * scores.contrastive.accuracy:.1f}" if scores.contrastive else "–"),
    Column("ℓ2", lambda scores: f"{scores.contrastive.l2:.3f}" if scores.contrastive else "–"),
    Column("rollout@8", _rollout),
)

LEGEND = (
    "cos k: mean cosine of the prediction to the vector at target + k. direction: how much closer the prediction is to "
    "the target than to the vector before the context, minus the same of the context mean. dispersion: 1 − mean "
    "pairwise cosine. rank: effective rank of the predictions. CA, ℓ2: contrastive accuracy and distance, as in "
    "the Large Concept Model paper. in-doc. MRR: in-document MRR, among the chunks of the target's own document. "
    "rollout@8: cosine after eight autoregressive steps."
)


def is_measured(evaluation: Evaluation) -> bool:
    """Whether the judgement holds these measures; older ones don't."""
    return any(
        scores.offset_profile for figures in evaluation.splits.values() for scores in figures.predictors.values()
    )


def model_lines(figures: SplitResult, *, ablations: bool = True) -> Iterator[str]:
    """What is known of the model alone on a split, in lines; without `ablations` where a table has them."""
    if figures.target_geometry is not None:
        geometry = figures.target_geometry
        yield f"targets: dispersion {geometry.dispersion:.2f}, effective rank {geometry.effective_rank:.0f}"
    if figures.ablations and ablations:
        drops = ", ".join(f"{name} {_short(drop)}" for name, drop in figures.ablations.items())
        yield f"context ablations (drop in cosine): {drops}"
    if figures.breakdown is not None:
        yield f"win rate over {figures.best_baseline}: {_share_percent(figures.breakdown.win_rate)} of documents"
        for title, parts in (("source", figures.breakdown.by_source), ("coherence", figures.breakdown.by_coherence)):
            if len(parts) > 1:
                yield f"gain by {title}: " + ", ".join(_part(part) for part in parts)


def _part(part: Subset) -> str:
    return f"{part.name} {_short(part.gain)}"


def _short(estimate: Estimate) -> str:
    return format_interval(estimate.value, estimate.low, estimate.high, "+")


def _share_percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
