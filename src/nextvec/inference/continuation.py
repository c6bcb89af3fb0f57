"""A continuation of a text: chunk after chunk of an index, with the drift of both ways to feed a step back.

Letters in names: S context vectors, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.display import Displayable
from nextvec.core.formatting import format_number
from nextvec.core.table import Cell, Line, Row, Table, View, columns_of
from nextvec.data.store import Store
from nextvec.errors import InputError
from nextvec.inference.decoder import Decoded, Decoder, decode_predictions
from nextvec.inference.index import open_index
from nextvec.inference.index_types import Index
from nextvec.inference.next_chunks import (
    MATCH_COLUMNS,
    NEIGHBORS,
    Match,
    equal_rows,
    make_match,
    match_row,
    read_last,
    require_same_space,
)

if TYPE_CHECKING:
    from nextvec.inference.model import LatentVectorModel


@dataclass(frozen=True)
class Drift:
    """How far a roll-out is from real text after each step, as cosines from −1 to 1."""

    to_nearest: tuple[float, ...]
    """The prediction to its nearest chunk of the index: low if the prediction resembles no real text."""
    to_start: tuple[float, ...]
    """The prediction to the mean of the given texts' vectors: low if the topic has changed."""


@dataclass(frozen=True)
class Continuation(Displayable):
    """The chunks that continue a text, in order, and the drift of both roll-outs."""

    model: str
    index: str
    context: tuple[str, ...]
    """The texts that the model read first, oldest first."""
    snap: bool
    """Whether each step fed the chosen chunk's vector back, or the raw prediction."""
    chunks: tuple[Match, ...]
    """One per step; `rank` is the number of the step."""
    snapped_drift: Drift
    raw_drift: Drift
    agreement: tuple[float, ...]
    """Cosine between the predictions of the two roll-outs at each step."""
    decoded: Decoded | None = None
    """The predictions as texts, one per step, if a decoder was used."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; `decoded` only with a decoder."""
        values = asdict(self)
        return values if self.decoded else {name: value for name, value in values.items() if name != "decoded"}

    def view(self) -> View:
        """Return the chunks and the drift as tables."""
        rows = tuple(match_row(str(match.rank), match) for match in self.chunks)
        series = (
            self.snapped_drift.to_nearest,
            self.raw_drift.to_nearest,
            self.snapped_drift.to_start,
            self.raw_drift.to_start,
            self.agreement,
        )
        drift = tuple(
            Row((Cell(str(step)), *(Cell(format_number(value, ".3f"), value) for value in values)))
            for step, values in enumerate(zip(*series, strict=True), 1)
        )
        headers = ("nearest, snapped", "nearest, raw", "start, snapped", "start, raw", "snapped vs raw")
        fed_back = "the chosen chunk" if self.snap else "the raw prediction"
        return View(
            (
                Table("Continuation", MATCH_COLUMNS, rows),
                Table("Drift (cosine of the prediction)", columns_of("step", *headers), drift),
                Line(f"{self.model} read {len(self.context)} chunks, then {fed_back} of each step", style="note"),
                *(self.decoded.blocks("step") if self.decoded else ()),
            )
        )


@dataclass
class _Rollout:
    """One way to continue: its context, the chunks that it chose, and its predictions."""

    context_SD: NDArray[np.float32]
    snap: bool
    matches: list[Match] = field(default_factory=list)
    predictions: list[NDArray[np.float32]] = field(default_factory=list)
    to_nearest: list[float] = field(default_factory=list)

    def drift(self, start_D: NDArray[np.float32]) -> Drift:
        """Return the drift from the mean `start_D` of the given texts."""
        to_start = tuple(float(prediction_D @ start_D) for prediction_D in self.predictions)
        return Drift(tuple(self.to_nearest), to_start)


def continue_text(
    model: LatentVectorModel,
    texts: Sequence[str],
    index: Index | Store | str | Path,
    steps: int,
    *,
    where: str = "",
    snap: bool,
    decoder: Decoder | str | None = None,
) -> Continuation:
    """Return a continuation of `steps` chunks; see `LatentVectorModel.generate`."""
    opened = open_index(index, where)
    require_same_space(model, opened)
    return continue_context(model, opened, *read_last(model, texts), steps, snap=snap, decoder=decoder)


def continue_context(
    model: LatentVectorModel,
    opened: Index,
    read: tuple[str, ...],
    context_SD: NDArray[np.float32],
    steps: int,
    *,
    snap: bool,
    decoder: Decoder | str | None = None,
) -> Continuation:
    """Return a continuation of `steps` chunks after the texts `read` with the vectors `context_SD`."""
    if steps < 1:
        raise InputError(f"steps is {steps}, but must be at least 1.")
    excluded = equal_rows(opened, read, context_SD, *opened.search(context_SD, NEIGHBORS))
    start_D = context_SD.mean(axis=0)
    start_D /= max(float(np.linalg.norm(start_D)), 1e-12)
    # Both roll-outs always run: only next to each other does their drift mean something.
    rollouts = _Rollout(context_SD, snap=True), _Rollout(context_SD, snap=False)
    for step in range(1, min(steps, len(opened) - len(excluded)) + 1):
        for rollout in rollouts:
            _advance(model, opened, rollout, excluded, step)
    snapped, raw = rollouts
    agreement = (float(a @ b) for a, b in zip(snapped.predictions, raw.predictions, strict=True))
    chosen = snapped if snap else raw
    chunks = tuple(chosen.matches)
    decoded = None
    if decoder is not None and chunks:
        decoded = decode_predictions(model, opened, decoder, read, np.stack(chosen.predictions))
    drifts = snapped.drift(start_D), raw.drift(start_D)
    return Continuation(model.source, opened.name, read, snap, chunks, *drifts, tuple(agreement), decoded)


def _advance(model: LatentVectorModel, index: Index, rollout: _Rollout, excluded: set[int], step: int) -> None:
    """Choose the next chunk of a roll-out, and feed it or the prediction back."""
    prediction_1D = np.asarray(model.predict(rollout.context_SD))
    outputs_2D = np.concatenate([np.asarray(model.retrieval_vectors(rollout.context_SD)), prediction_1D])
    # No chunk appears twice: a roll-out has chosen step − 1 chunks, so one of `step` results is new.
    rows_2K, scores_2K = index.search(outputs_2D, step, excluded)
    chosen = {match.row for match in rollout.matches}
    row, score = next(
        (row, score) for row, score in zip(rows_2K[0].tolist(), scores_2K[0].tolist(), strict=True) if row not in chosen
    )
    rollout.matches.append(make_match(step, score, index.chunks([row])[0]))
    rollout.predictions.append(prediction_1D[0])
    rollout.to_nearest.append(float(scores_2K[1, 0]))
    fed_back_1D = index.vectors([row]) if rollout.snap else prediction_1D
    rollout.context_SD = np.concatenate([rollout.context_SD, fed_back_1D])[-model.context_length :]
