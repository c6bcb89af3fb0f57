"""Measure whether targets follow their contexts: not inside them, not at their wrong end, not of another document.

The windows of a file whose overlaps can't be linked are documents of S + 1 rows (*lone windows*). Among these, order is
measured by cosines: adjacent chunks are the most similar. If the target is more similar to the oldest context vector
than to the last, contexts are newest first. If a share f of the targets is of other documents, the mean cosine of
target and last context vector falls from a, that of adjacent context vectors, to (1 - f) a + f r, where r is that of
unrelated rows.

Letters in names: R rows of a sample, W windows, U units of documents, S context length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.findings import Statistics
from nextvec.data.checks.sampling import Sample, shifted_cosines

EQUAL_COSINE = 1 - 1e-6
"""Cosine from which two vectors are equal up to rounding of float32 and float16."""
NEAR_TARGET_COSINE = 0.999
"""Cosine from which a target repeats a context vector: the same text encoded twice, or with noise."""
MAX_RELATIVE_DISTANCE = 0.1
"""1 - cosine of a near copy, as a fraction of the median 1 - cosine of adjacent context vectors."""
MIN_USUAL_DISTANCE = 0.02
"""Median 1 - cosine of adjacent context vectors below which documents are nearly constant."""
MIN_LONE_WINDOWS = 30
"""Least number of lone windows on which order is measured."""


def measure_targets(sample: Sample, context: int) -> Statistics | None:
    """Return how many windows of a sample repeat a context vector as target, and the order of lone windows.

    None if no document of the sample has a window of `context` vectors.
    """
    if len(sample.document_R) <= context:
        return None
    # Windows: rows with `context` rows of the same document before them, all usable.
    is_window_R = np.zeros(len(sample.document_R), bool)
    is_window_R[context:] = sample.document_R[context:] == sample.document_R[:-context]
    for distance in range(context + 1):
        is_window_R[distance:] &= sample.usable_R[: len(is_window_R) - distance]
    target_W = np.flatnonzero(is_window_R)
    if not len(target_W):
        return None
    # The cosine of each target with each of its context vectors, the last one first.
    cosines_SR = shifted_cosines(sample, range(1, context + 1))
    cosine_WS = np.stack([cosines_SR[distance - 1, target_W - distance] for distance in range(1, context + 1)], axis=1)
    # A near copy is much closer than adjacent chunks are. In nearly constant documents, which the rule on coherence
    # reports, a high cosine means nothing.
    highest_W, usual = cosine_WS.max(axis=1), 1.0
    if context > 1:
        usual = float(1 - np.median(cosines_SR[0, target_W - 2]))
    is_near_W = (highest_W >= NEAR_TARGET_COSINE) & (1 - highest_W <= MAX_RELATIVE_DISTANCE * usual)
    is_near_W &= usual >= MIN_USUAL_DISTANCE
    return {
        "windows": len(target_W),
        "equal": int((is_near_W & (highest_W >= EQUAL_COSINE)).sum()),
        "near": int(is_near_W.sum()),
        "lone": _measure_lone(sample, target_W, cosine_WS, cosines_SR[0]),
    }


def _measure_lone(
    sample: Sample, target_W: NDArray[np.intp], cosine_WS: NDArray[np.float32], adjacent_R: NDArray[np.float32]
) -> Statistics | None:
    """Measure the order of the documents with a single window; None if there are too few.

    `adjacent_R` are the cosines of each row with the next one.
    """
    context = cosine_WS.shape[1]
    # A lone window ends its document, and the row before its context is of another document.
    rows = len(sample.document_R)
    follows_W = np.where(target_W + 1 < rows, sample.document_R[np.minimum(target_W + 1, rows - 1)], -1)
    before_W = np.where(target_W > context, sample.document_R[target_W - context - 1], -1)
    document_W = sample.document_R[target_W]
    lone_W = (follows_W != document_W) & (before_W != document_W)
    if context < 2 or lone_W.sum() < MIN_LONE_WINDOWS:
        return None
    target_W, cosine_WS, unit_W = target_W[lone_W], cosine_WS[lone_W], sample.unit_R[target_W[lone_W]]
    # Mean cosine of adjacent context vectors, and of a target and a last context vector of another window.
    adjacent_W = np.mean([adjacent_R[target_W - distance - 1] for distance in range(1, context)], axis=0)
    unrelated_W = _cosines(sample, target_W, np.roll(target_W, len(target_W) // 2) - 1)
    contrast = float(adjacent_W.mean() - unrelated_W.mean())
    drop, drop_error = _mean(adjacent_W - cosine_WS[:, 0], unit_W)
    reverse, reverse_error = _mean(cosine_WS[:, -1] - cosine_WS[:, 0], unit_W)
    return {
        "windows": len(target_W),
        "oldest_minus_last": round(reverse, 4),
        "oldest_minus_last_t": round(reverse / max(reverse_error, 1e-9), 2),
        "foreign_share": round(drop / contrast, 4) if contrast > 0.02 else None,
        "foreign_share_error": round(drop_error / contrast, 4) if contrast > 0.02 else None,
    }


def _cosines(sample: Sample, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """Return the cosines of pairs of rows, a block at a time."""
    cosines = np.empty(len(first), np.float32)
    for start in range(0, len(first), 8192):
        rows = slice(start, start + 8192)
        cosines[rows] = np.einsum("nd,nd->n", sample.vectors_RD[first[rows]], sample.vectors_RD[second[rows]])
    return cosines


def _mean(values_W: NDArray[Any], unit_W: NDArray[np.int64]) -> tuple[float, float]:
    """Return the mean of values and its standard error; the windows of a unit are not independent."""
    mean = float(values_W.mean(dtype=np.float64))
    deviation_U = np.bincount(unit_W, values_W - mean)
    return mean, float(np.sqrt(np.square(deviation_U).sum())) / len(values_W)
