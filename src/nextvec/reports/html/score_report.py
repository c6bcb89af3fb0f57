"""The HTML page of scored documents: charts of every chunk's cosine and coherence, and the chunks as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from nextvec.core.files import write_text
from nextvec.core.formatting import Status
from nextvec.core.table import Table
from nextvec.inference.results import DocumentResult
from nextvec.inference.score import DocumentScore
from nextvec.reports.html.charts import Axes, Band, Line, chart, span
from nextvec.reports.html.page import charts, finding, findings, note, render, section, table_card
from nextvec.reports.html.panels import Panel

MIN_RANGE = 0.05
"""Room above and below the cosines, so that small differences do not look large."""


def write_score_report(path: Path, documents: Sequence[DocumentResult]) -> None:
    """Write the page of scored documents in one atomic step. Raises OutputError if the file cannot be written."""
    title = documents[0].document if len(documents) == 1 else f"Scores of {len(documents)} documents"
    model = documents[0].result.model
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        note(f"Each chunk's cosine to the prediction of {model} from the chunks before it. High values are expected."),
        *(_document(item.document if len(documents) > 1 else "Chunks", item.result) for item in documents),
    ]
    write_text(path, render(title, body))


def _document(heading: str, score: DocumentScore) -> str:
    """Return the section of one document: the chart, the topic shifts, and the table."""
    table, summary = score.view().blocks
    assert isinstance(table, Table)
    shifts = [finding(Status.AMBER, f"chunk {chunk.position}", chunk.text) for chunk in score.chunks if chunk.is_shift]
    return section(
        heading, summary.html(), charts([_cosine_panel(heading, score), *_coherence_panels(score)]), table_card(table)
    ) + findings("Topic shifts", shifts)


def _cosine_panel(heading: str, score: DocumentScore) -> Panel:
    """Return the chart of the cosines of model and baseline; topic shifts are shaded."""
    scored = [chunk for chunk in score.chunks if chunk.cosine is not None]
    positions = [chunk.position for chunk in scored]
    cosines, baseline = [chunk.cosine for chunk in scored], [chunk.baseline_cosine for chunk in scored]
    lines = [
        Line(score.baseline, positions, baseline, "$baseline", "dot", has_label=True),
        Line("model", positions, cosines, "$model"),
    ]
    bands = [Band(chunk - 0.5, chunk + 0.5, None, None, "$amber") for chunk in score.shifts]
    figure = chart(lines, Axes(span([*cosines, *baseline], MIN_RANGE), "chunk"), bands=bands)
    return Panel(heading, "Cosine to the prediction", figure, "Shaded: a new topic seems to start here.")


def _coherence_panels(score: DocumentScore) -> list[Panel]:
    """Return the chart of the coherence, or none if the model has no coherence."""
    if score.least_coherent is None:
        return []
    lines = [
        Line("coherence", [chunk.position for chunk in score.chunks], [c.coherence for c in score.chunks], "$model")
    ]
    text = (
        f"The percentage of val chunks that fit less well. Chunk {score.least_coherent} fits into the document least."
    )
    return [Panel("Coherence", "Percentile among val chunks", chart(lines, Axes((0, 100), "chunk")), text)]
