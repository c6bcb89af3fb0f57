"""How long the documents of a synthetic store are: lengths that meet given totals exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import InputError

Lengths = NDArray[np.int64]

CONTEXT = 5
"""The context length that sizes are given for."""

LENGTH_SPREAD = 0.8
"""Standard deviation of the logarithm of a document's length."""


def solve_lengths(documents: int, vectors: int, windows: int | None) -> Lengths:
    """Lengths of documents with exactly so many vectors and windows in all (M,), not shuffled.

    Documents without a window lack up to 4 vectors of a full context. How much they lack together follows from the
    three numbers; how many they are is free between bounds, and chosen so that they lack 2.5 on average where possible.
    """
    require(documents >= 1, f"documents {documents}: 1 or more")
    if windows is None:
        lack = int((1 + np.arange(documents // 10) % 4).sum())
        windows = vectors - CONTEXT * documents + lack
    lack = windows - vectors + CONTEXT * documents
    fewest, most = max(-(-lack // 4), documents - windows), documents - 1
    require(
        lack >= 0 and fewest <= most,
        f"{documents} documents of {vectors} vectors can't make {windows} windows of context {CONTEXT}: "
        f"take from {max(vectors - CONTEXT * documents, 1)} to {vectors - documents - CONTEXT + 1}, or more vectors",
    )
    short = min(max(round(lack / 2.5), fewest), most)
    lacks = 1 + np.arange(short) % 4
    while missing := lack - int(lacks.sum()):
        lacks[lacks.argmin() if missing > 0 else lacks.argmax()] += np.sign(missing)
    return np.concatenate([CONTEXT - lacks, long_lengths(documents - short, windows)])


def long_lengths(documents: int, windows: int) -> Lengths:
    """Lengths (M,) of documents that make exactly so many windows, at least one each: log-normal quantiles."""
    from scipy.special import ndtri

    require(0 <= documents <= windows, f"{documents} documents can't make {windows} windows, at least one each")
    weights = np.exp(LENGTH_SPREAD * ndtri((np.arange(documents) + 0.5) / max(documents, 1)))
    wanted = weights * ((windows - documents) / max(weights.sum(), 1e-12))
    lengths: Lengths = np.floor(wanted).astype(np.int64)
    # the largest remainders get what rounding down has left over
    lengths[np.argsort(lengths - wanted, kind="stable")[: windows - documents - int(lengths.sum())]] += 1
    lengths += CONTEXT + 1
    return lengths


def require(condition: bool, what: str) -> None:
    """Raise InputError with `what` is wrong unless the condition holds."""
    if not condition:
        raise InputError(f"synthetic store: {what}")
