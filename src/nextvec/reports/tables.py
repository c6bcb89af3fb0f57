"""Results as tables and lines: evaluations, verdicts, diagnoses and data checks.

Each function is pure and returns a `View` or a `Table`, which shows itself in a terminal, as Markdown, HTML or pandas.
Every table fits in 100 columns, and every score stands next to its baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nextvec.core.formatting import format_interval, format_number
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of

if TYPE_CHECKING:
    from nextvec.data.checks import CheckReport
    from nextvec.evaluation.results import Estimate, Evaluation, Latency, PredictorResult, SplitResult, Verdict
    from nextvec.guards.diagnosis.case import Diagnoses

QUERY = "query"
"""Name of a model's second output, which has its own row."""


@dataclass(frozen=True)
class Metric:
    """A column of a table of predictors."""

    header: str
    value: Callable[[PredictorResult], float | Estimate | None]
    spec: str = ".3f"
    scale: float = 1.0
    is_ranked: bool = False
    """Whether the highest value is the best of the column."""
    has_query: bool = False
    """Whether a model's query has it, too."""

    def cell(self, scores: PredictorResult) -> Cell:
        """Return the metric of a predictor."""
        value = self.value(scores)
        # Estimates are shown with their confidence interval, plain numbers without.
        if value is None or isinstance(value, int | float):
            return Cell(format_number(None if value is None else self.scale * value, self.spec), value)
        sign = "+" if self.spec.startswith("+") else ""
        return Cell(format_interval(value.value, value.low, value.high, sign), value.value)


SCORES = (
    Metric("cosine (95 % CI)", lambda scores: scores.cosine, is_ranked=True),
    Metric("model's gain (95 % CI)", lambda scores: scores.gain, "+.4f"),
    Metric("margin", lambda scores: scores.margin, "+.3f"),
    Metric("R@1 %", lambda scores: scores.retrieval.r_at_1, ".1f", 100, is_ranked=True, has_query=True),
    Metric("R@5 %", lambda scores: scores.retrieval.r_at_5, ".1f", 100, is_ranked=True, has_query=True),
    Metric("R@10 %", lambda scores: scores.retrieval.r_at_10, ".1f", 100, is_ranked=True, has_query=True),
    Metric("MRR", lambda scores: scores.retrieval.mrr, is_ranked=True, has_query=True),
)


def _offset_cosine(offset: int) -> Metric:
    def value(scores: PredictorResult) -> float | None:
        return scores.offset_profile.curve.get(offset) if scores.offset_profile else None

    return Metric(f"cos {offset:+d}", value)


GEOMETRY = (
    _offset_cosine(-6),
    _offset_cosine(-1),
    _offset_cosine(1),
    Metric("direction", lambda scores: scores.offset_profile.direction if scores.offset_profile else None, "+.4f"),
    Metric("disp.", lambda scores: scores.geometry.dispersion if scores.geometry else None, ".2f"),
    Metric("rank", lambda scores: scores.geometry.effective_rank if scores.geometry else None, ".0f"),
    Metric("CA %", lambda scores: scores.contrastive.accuracy if scores.contrastive else None, ".1f", 100),
    Metric("ℓ2", lambda scores: scores.contrastive.l2 if scores.contrastive else None),
    Metric("in-doc.", lambda scores: scores.in_document.mrr if scores.in_document else None, has_query=True),
    Metric("roll@8", lambda scores: scores.rollout[-1] if scores.rollout else None),
)

GEOMETRY_LEGEND = (
    "cos k: mean cosine of the prediction and the vector at target + k. direction: cosine to the target minus cosine "
    "to the vector before the context, compared with the context mean. disp.: dispersion, 1 − mean pairwise cosine of "
    "the predictions. rank: their effective rank. CA: contrastive accuracy, the fraction of the document's other "
    "chunks that are farther than the target. ℓ2: distance to the target. in-doc.: in-document MRR. roll@8: cosine "
    "after eight autoregressive steps."
)


def evaluation_view(evaluation: Evaluation) -> View:
    """Return the whole evaluation with the verdict at the end, where a terminal shows it."""
    verdict = verdict_view(evaluation.verdict).blocks if evaluation.verdict is not None else ()
    return View((*_evaluation_blocks(evaluation), *verdict))


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Return the whole evaluation as Markdown, with the verdict at the top."""
    verdict = verdict_view(evaluation.verdict).blocks if evaluation.verdict is not None else ()
    return View((*verdict, *_evaluation_blocks(evaluation))).markdown()


def _evaluation_blocks(evaluation: Evaluation) -> Iterator[Table | Line]:
    """Yield the tables of each split, the lines about the model, and the notes."""
    # Per split: how good the model is, then what its predictions look like.
    for split, result in evaluation.splits.items():
        yield split_table(evaluation, split)
        if has_geometry(evaluation):
            yield geometry_table(evaluation, split)
            yield from (Line(line, style="note") for line in model_lines(result))
    if evaluation.latency is not None:
        yield Line(describe_latency(evaluation.latency), style="note")
    yield from (Line(f"Note: {note}", style="note") for note in evaluation.notes)


def split_table(evaluation: Evaluation, split: str) -> Table:
    """Return the scores of all predictors on a split: the model first, then the baselines by descending cosine."""
    title = f"{split}: {describe_split(evaluation.splits[split])}"
    # Without a model there are no gains.
    metrics = [metric for metric in SCORES if evaluation.model is not None or "gain" not in metric.header]
    return _predictor_table(evaluation, split, title, metrics)


def geometry_table(evaluation: Evaluation, split: str) -> Table:
    """Return the prediction geometry of all predictors on a split."""
    return _predictor_table(evaluation, split, f"{split}: prediction geometry", GEOMETRY)


def ablation_table(result: SplitResult, split: str) -> Table:
    """Return the drop of the model's cosine for each context ablation."""
    drops = (Row((Cell(name), Cell(drop.signed, drop.value))) for name, drop in result.ablations.items())
    return Table(f"{split}: context ablations", columns_of("ablation", "drop in cosine (95 % CI)"), tuple(drops))


def _predictor_table(evaluation: Evaluation, split: str, title: str, metrics: Sequence[Metric]) -> Table:
    """Return a table with a row per predictor; a model with a query output has a second row."""
    # The query's scores take the place of the prediction's, so that the same metrics read both.
    predictors: list[tuple[str, PredictorResult, bool]] = []
    for name, scores in evaluation.splits[split].ranked(evaluation.model):
        predictors.append((name, scores, False))
        if scores.query is not None:
            query_scores = replace(scores, retrieval=scores.query, in_document=scores.query_in_document)
            predictors.append((f"{name}, {QUERY}", query_scores, True))

    # The cells first, then the best value of each column, which is shown in bold.
    rows = [
        [metric.cell(scores) if metric.has_query or not is_query else Cell() for metric in metrics]
        for _, scores, is_query in predictors
    ]
    for index, metric in enumerate(metrics):
        if metric.is_ranked:
            best = max(value for cells in rows if isinstance(value := cells[index].value, float))
            for cells in rows:
                cells[index] = replace(cells[index], is_best=cells[index].value == best)

    # The rows of the model and of its query are highlighted.
    model_names = (evaluation.model, f"{evaluation.model}, {QUERY}")
    return Table(
        title,
        (Column("predictor", "left", "ellipsis", 17), *(Column(metric.header) for metric in metrics)),
        tuple(
            Row((Cell(name), *cells), "model" if name in model_names else "")
            for (name, _, _), cells in zip(predictors, rows, strict=True)
        ),
    )


def verdict_view(verdict: Verdict) -> View:
    """Return the status and sentence of a verdict, and the reasons of each split."""
    reasons = (f"{split}: {reason}" for split, reasons in verdict.reasons.items() for reason in reasons)
    return View(
        (Line(verdict.sentence, verdict.status, "heading"), *(Line(reason, style="item") for reason in reasons))
    )


def diagnoses_view(diagnoses: Diagnoses) -> View:
    """Return each diagnosis with its confidence, its evidence and the advice."""
    if not diagnoses.items:
        text = "No known problem detected." if diagnoses.has_epochs else "Nothing to assess: the run has no epoch yet."
        return View((Line(text, diagnoses.status, "heading"),))
    # Diagnoses are sorted by severity and confidence already.
    blocks = []
    for item in diagnoses.items:
        blocks.append(Line(f"{item.title} ({item.confidence})", item.status, "heading"))
        blocks += [Line(text, style="item", has_code=True) for text in (item.evidence, f"→ {item.advice}")]
    return View(tuple(blocks))


def check_view(report: CheckReport) -> View:
    """Return the findings of a data check, and the statistics of the splits."""
    findings = tuple(
        Row((Cell(finding.name, status=finding.status), Cell(finding.text))) for finding in report.findings
    )
    columns = (Column("check", "left"), Column("finding", "left", "fold"))
    return View((Table("", columns, findings), splits_table(report.statistics["splits"], (1, 2, 4, 8))))


def splits_table(splits: Mapping[str, Any], distances: Sequence[int]) -> Table:
    """Return the counts of each split, and the mean cosine of two chunks at some distances in their document."""
    rows = []
    for name, statistics in splits.items():
        counts = [statistics[key] for key in ("documents", "short", "rows", "windows")]
        # coherence[k - 1] is the mean cosine at distance k; short documents leave the end of the list empty.
        coherence = statistics["coherence"]
        cosines = [coherence[distance - 1] if distance <= len(coherence) else None for distance in distances]
        cells = [Cell(f"{count:,}", count) for count in counts]
        rows.append(Row((Cell(name), *cells, *(Cell(format_number(cosine, ".3f"), cosine) for cosine in cosines))))
    headers = ("documents", "too short", "rows", "windows", *(f"cos +{distance}" for distance in distances))
    return Table("splits", columns_of("split", *headers), tuple(rows))


def describe_latency(latency: Latency) -> str:
    """Return the latency of the model's predictions as text."""
    times = ", ".join(f"{item.p50:.2f} ms for {item.batch:,} (95 %: {item.p95:.2f} ms)" for item in latency.batches)
    return f"Latency on {latency.device}: {times}; {latency.parameters:,} parameters"


def describe_split(result: SplitResult) -> str:
    """Return the sample sizes behind the scores of a split as text."""
    return (
        f"{result.windows:,} windows of {result.documents:,} documents, "
        f"{result.queries:,} queries among {result.candidates:,} chunks"
    )


def has_geometry(evaluation: Evaluation) -> bool:
    """Return whether the evaluation measured the prediction geometry."""
    results = evaluation.splits.values()
    return any(scores.offset_profile for result in results for scores in result.predictors.values())


def model_lines(result: SplitResult, *, with_ablations: bool = True) -> Iterator[str]:
    """Yield facts about the model on a split as lines; `with_ablations=False` if a table shows the ablations."""
    if result.target_geometry is not None:
        geometry = result.target_geometry
        yield f"Targets: dispersion {geometry.dispersion:.2f}, effective rank {geometry.effective_rank:.0f}"
    if result.ablations and with_ablations:
        drops = ", ".join(f"{name} {drop.signed}" for name, drop in result.ablations.items())
        yield f"Context ablations (drop in cosine): {drops}"
    # The breakdown shows whether a gain comes from most documents or from a few.
    if result.breakdown is not None:
        rate = result.breakdown.win_rate
        interval = f"{100 * rate.value:.0f} ± {50 * (rate.high - rate.low):.0f} % (95 % CI)"
        yield f"Win rate over {result.best_baseline}: {interval} of documents"
        for title, subsets in (("source", result.breakdown.by_source), ("coherence", result.breakdown.by_coherence)):
            if len(subsets) > 1:
                gains = ", ".join(f"{subset.name} {subset.gain.signed}" for subset in subsets)
                yield f"Gain by {title}: {gains}"
