"""How expected each chunk of a document is after the chunks before it, and how well it fits into the document.

The first is its cosine to the prediction, the second its coherence (`coherence.py`), which finds chunks that are not of
this document.

Letters in names: N chunks of the document, W windows (the chunks after the first), D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.display import Displayable
from nextvec.core.formatting import ABSENT, Status, cut_text, format_number
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.data.chunking import chunk_document
from nextvec.data.documents import Document
from nextvec.errors import InputError

if TYPE_CHECKING:
    from nextvec.inference.model import LatentVectorModel

BAR_WIDTH = 20
"""Characters of a bar for a cosine of 1."""
MAX_SHOWN_CHARS = 72
"""Characters of a chunk in the table: two lines in a terminal of 100 columns."""
MIN_SHIFT_DEPTH = 0.05
"""Minimum depth of a topic shift: smaller dips are within the noise of one chunk's cosine."""


@dataclass(frozen=True)
class ChunkScore:
    """How expected one chunk is. The first chunk of a document has no context, so only its coherence is measured."""

    position: int
    text: str
    context: int
    """Number of chunks that the model read before it."""
    cosine: float | None = None
    """Cosine to the model's prediction, from −1 to 1."""
    percentile: float | None = None
    """Percentage of val chunks with a lower cosine, from 0 to 100; None if the model has no val scores."""
    baseline_cosine: float | None = None
    """Cosine to the best baseline's prediction."""
    gain: float | None = None
    """`cosine` − `baseline_cosine`."""
    coherence: float | None = None
    """Percentage of val chunks that fit into their document less well, from 0 to 100; None if it was not fitted."""
    depth: float = 0.0
    """How far the cosine dips below the highest values on both sides, from 0 to 4."""
    is_shift: bool = False
    """Whether a new topic seems to start here."""


@dataclass(frozen=True)
class DocumentScore(Displayable):
    """The scores of a document's chunks."""

    model: str
    baseline: str
    """The best baseline by cosine on val."""
    chunks: tuple[ChunkScore, ...]

    @property
    def shifts(self) -> tuple[int, ...]:
        """The positions at which a new topic seems to start."""
        return tuple(chunk.position for chunk in self.chunks if chunk.is_shift)

    @property
    def least_coherent(self) -> int | None:
        """The position of the chunk that fits into the document least well; None if the model has no coherence."""
        coherence = {chunk.position: chunk.coherence for chunk in self.chunks if chunk.coherence is not None}
        return min(coherence, key=coherence.__getitem__, default=None)

    @property
    def mean_cosine(self) -> float:
        """The mean cosine over all chunks after the first."""
        return float(np.mean([chunk.cosine for chunk in self.chunks if chunk.cosine is not None]))

    @property
    def mean_gain(self) -> float:
        """The mean difference to the best baseline."""
        return float(np.mean([chunk.gain for chunk in self.chunks if chunk.gain is not None]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        means = {"mean_cosine": self.mean_cosine, "mean_gain": self.mean_gain}
        return {**asdict(self), **means, "shifts": list(self.shifts), "least_coherent": self.least_coherent}

    def view(self) -> View:
        """Return a row with a bar for each chunk, and a summary."""
        shifts = ", ".join(map(str, self.shifts)) or "none"
        summary = (
            f"mean cosine {self.mean_cosine:.4f} ({self.mean_gain:+.4f} vs {self.baseline}) over "
            f"{len(self.chunks) - 1} chunks; topic shifts at: {shifts}; {self._least_coherent_text()}"
        )
        columns = (
            Column("chunk", "left"),
            Column("cosine"),
            Column("", "left"),
            Column("percentile"),
            Column(f"vs {self.baseline}"),
            Column("coherence"),
            Column("text", "left", "fold"),
        )
        return View((Table("Expectedness", columns, tuple(map(_row, self.chunks))), Line(summary)))

    def _least_coherent_text(self) -> str:
        position = self.least_coherent
        if position is None:
            return "no coherence: it was not fitted for this model"
        return f"least coherent chunk: {position} (percentile {self.chunks[position].coherence:.0f})"


def _row(chunk: ChunkScore) -> Row:
    percentile = ABSENT if chunk.percentile is None else f"{chunk.percentile:.0f}"
    return Row(
        (
            Cell(str(chunk.position), status=Status.AMBER if chunk.is_shift else None),
            Cell(format_number(chunk.cosine, ".3f"), chunk.cosine),
            Cell(bar(chunk.cosine or 0.0)),
            Cell(percentile, chunk.percentile),
            Cell(format_number(chunk.gain, "+.3f"), chunk.gain),
            Cell(format_number(chunk.coherence, ".0f"), chunk.coherence),
            Cell(cut_text(chunk.text, MAX_SHOWN_CHARS)),
        )
    )


def bar(fraction: float) -> str:
    """Return a bar of block characters for a fraction of 0 to 1, in steps of an eighth of a character."""
    eighths = round(max(0.0, min(fraction, 1.0)) * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def score_document(model: LatentVectorModel, document: str | Sequence[str]) -> DocumentScore:
    """Score every chunk of a document after the first; see `LatentVectorModel.score`."""
    texts = chunk_texts(model, document)
    require_two_chunks(texts)
    return score_chunks(model, texts, model.encode(texts))


def require_two_chunks(texts: Sequence[str]) -> None:
    """Raise InputError for a document of fewer than two chunks, which cannot be scored."""
    if len(texts) < 2:
        raise InputError(
            f"document: has {len(texts)} chunk{'s' if len(texts) != 1 else ''}, but a score needs at least 2. "
            "Pass a longer text."
        )


def score_chunks(model: LatentVectorModel, texts: Sequence[str], vectors_ND: NDArray[np.float32]) -> DocumentScore:
    """Score every chunk after the first of a document with the chunks `texts` and their vectors (N, D)."""
    baseline = model.best_baseline("cosine")
    contexts = [vectors_ND[max(0, end - model.context_length) : end] for end in range(1, len(texts))]
    targets_WD = vectors_ND[1:]
    cosine_W = (np.asarray(model.predict(contexts)) * targets_WD).sum(axis=1)
    baseline_W = (np.asarray(model.predict_with(baseline, contexts)) * targets_WD).sum(axis=1)
    coherence_N = _coherence(model, vectors_ND)
    percentile_W = _percentiles(cosine_W, model.val.cosine_percentiles)
    depth_W = dip_depths(cosine_W)
    is_shift_W = find_shifts(depth_W)
    scored = (
        ChunkScore(
            position=number + 1,
            text=texts[number + 1],
            context=len(contexts[number]),
            cosine=float(cosine_W[number]),
            percentile=None if percentile_W is None else float(percentile_W[number]),
            baseline_cosine=float(baseline_W[number]),
            gain=float(cosine_W[number] - baseline_W[number]),
            coherence=coherence_N[number + 1],
            depth=float(depth_W[number]),
            is_shift=bool(is_shift_W[number]),
        )
        for number in range(len(cosine_W))
    )
    first = ChunkScore(0, texts[0], 0, coherence=coherence_N[0])
    return DocumentScore(model.source, baseline, (first, *scored))


def _coherence(model: LatentVectorModel, vectors_ND: NDArray[np.float32]) -> list[float] | list[None]:
    """Return the coherence of every chunk as a percentage of val chunks; None for each if it was not fitted."""
    if model.coherence is None:
        return [None] * len(vectors_ND)
    percentiles: list[float] = model.coherence.percentiles(model.coherence.measure(vectors_ND)).tolist()
    return percentiles


def chunk_texts(model: LatentVectorModel, document: str | Sequence[str]) -> list[str]:
    """Return the chunks of a document: a text is divided by the model's chunker, a list contains the chunks."""
    if not isinstance(document, str):
        return list(document)
    # Imported here: the readers of all formats take 0.1 s when a model is loaded.
    from nextvec.data.readers.text import split_paragraphs

    paragraphs = tuple(split_paragraphs(document))
    return [chunk.text for chunk in chunk_document(Document("", "", "", paragraphs), model.chunker)]


def _percentiles(cosine_W: NDArray[np.float32], references: Sequence[float]) -> NDArray[np.float64] | None:
    """Return the percentage of val chunks below each cosine; `references` are the percentiles 0 … 100 of val."""
    if not references:
        return None
    percentiles: NDArray[np.float64] = np.interp(cosine_W, references, np.linspace(0, 100, len(references)))
    return percentiles


def dip_depths(cosine_W: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the depth of every dip: the rise to the next peak at the left plus that at the right, else 0.

    This is the depth score of TextTiling (Hearst 1997), applied to the cosine of the prediction. Both ends have a value
    on one side only, so they are not dips.
    """
    depths = np.zeros(len(cosine_W))
    for position in range(1, len(cosine_W) - 1):
        cosine = cosine_W[position]
        if cosine > min(cosine_W[position - 1], cosine_W[position + 1]):
            continue
        peaks = []
        for direction in (-1, 1):
            # Climb while the values rise.
            peak, neighbor = position, position + direction
            while 0 <= neighbor < len(cosine_W) and cosine_W[neighbor] >= cosine_W[peak]:
                peak, neighbor = neighbor, neighbor + direction
            peaks.append(float(cosine_W[peak]))
        depths[position] = sum(peaks) - 2 * float(cosine)
    return depths


def find_shifts(depth_W: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which chunks start a new topic: dips deeper than the mean of all by one standard deviation."""
    is_shift_W: NDArray[np.bool_] = (depth_W > depth_W.mean() + depth_W.std()) & (depth_W >= MIN_SHIFT_DEPTH)
    return is_shift_W
