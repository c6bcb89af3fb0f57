"""Find windows that cross the borders of documents, as an exporter makes them that slides over all texts at once.

Such windows are linked to one long chain. With labels, a border is where the label changes along a chain. Without
labels, a border is where the chunks before and after it are as different as chunks from unrelated places of the chain;
borders are used only if this separates them clearly.

Letters in names: W windows, N vectors of a chain, S context length, T = S + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.npz.relink import Chains, Ints, link_windows

MIN_CHAIN_VECTORS = 60
"""Shortest chain in which borders are searched: enough for about ten documents."""
BORDER_WIDTH = 3
"""Number of chunks on each side of a possible border that are compared."""
MIN_RECALL, MIN_PRECISION = 0.9, 0.95
"""Borders are used only if this share of them is found, and this share of what is found is a border."""
_PAIRS = 20_000
"""Number of random places that are compared to learn how different unrelated chunks are."""


def find_crossing(vectors_WT: NDArray[np.int32], label_W: Ints) -> NDArray[np.bool_]:
    """Return which windows (W,) have context vectors of another document, for the document of each target `label_W`.

    A document that begins where another one ends begins with a chain that continues a window of the other document. Its
    first S windows cross the border.
    """
    within, across = link_windows(vectors_WT, label_W), link_windows(vectors_WT, np.zeros_like(label_W))
    # The first window of each chain within a document; does it continue a window of another document?
    is_head_W = within.position_W == 0
    continues_C = np.zeros(len(within), bool)
    continues_C[within.chain_W[is_head_W]] = across.position_W[is_head_W] > 0
    crossing_W: NDArray[np.bool_] = continues_C[within.chain_W] & (within.position_W < vectors_WT.shape[1] - 1)
    return crossing_W


def find_foreign_context(vectors_WT: NDArray[np.int32], label_W: Ints) -> NDArray[np.bool_]:
    """Return which windows (W,) may begin in another document, for windows that slide over borders.

    This finds crossing windows next to a gap, where no link shows the border. `label_W` is the document of each target.
    """
    # Pairs of (vector, document) that are known: a target, or a vector that nothing precedes.
    documents = int(label_W.max()) + 1
    pairs_WT = vectors_WT.astype(np.int64) * documents + label_W[:, None]
    is_start_W = ~np.isin(vectors_WT[:, 0], vectors_WT[:, 1:])
    known = np.unique(np.concatenate([pairs_WT[:, -1], pairs_WT[is_start_W, 0]]))
    # Between a vector of a document and a target of the same document, all vectors are of that document.
    is_inside_WT = np.logical_or.accumulate(np.isin(pairs_WT, known), axis=1)
    foreign_W: NDArray[np.bool_] = ~np.isin(pairs_WT[:, 0], np.unique(pairs_WT[is_inside_WT]))
    return foreign_W


def find_content_borders(vectors_ND: NDArray[Any]) -> Ints | None:
    """Return the rows of a chain's vectors (N, D) that begin a document; None if borders can't be recognized."""
    if len(vectors_ND) < MIN_CHAIN_VECTORS:
        return None
    score_N = _similarity_across(vectors_ND)
    # How similar are unrelated places? Borders are as different as these, rows within documents are not.
    rng = np.random.default_rng(0)
    first, second = rng.integers(BORDER_WIDTH, len(vectors_ND) - BORDER_WIDTH, (2, _PAIRS))
    unrelated = np.full(_PAIRS, -np.inf, np.float32)
    for before in range(1, BORDER_WIDTH + 1):
        for after in range(BORDER_WIDTH):
            pairs = _cosines(vectors_ND, first - before, second + after)
            unrelated = np.maximum(unrelated, pairs)
    inner_N = score_N[1:]
    # Below the median of unrelated places are half of the borders, and hardly a row within a document.
    borders = 2 * int((inner_N <= np.quantile(unrelated, 0.5)).sum())
    best: Ints | None = None
    for recall in (0.99, 0.97, 0.95, MIN_RECALL):
        is_border_N = score_N <= np.quantile(unrelated, recall)
        count = int(is_border_N[1:].sum())
        if borders >= 2 and recall * borders >= MIN_PRECISION * count:
            best = np.flatnonzero(is_border_N)
            break
    if best is None:
        return None
    best = best[best > 0]
    # Documents of at least two chunks: several candidates next to each other are not borders.
    return None if not len(best) or np.median(np.diff(best, prepend=0)) < BORDER_WIDTH else best


def _similarity_across(vectors_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Return for each row (N,) the highest cosine of one of the 3 rows before it and one of the 3 rows from it on."""
    rows = len(vectors_ND)
    score_N = np.full(rows, np.inf, np.float32)
    index = np.arange(1, rows)
    best = np.full(rows - 1, -np.inf, np.float32)
    for lag in range(1, 2 * BORDER_WIDTH):
        cosine_N = np.full(rows, -np.inf, np.float32)
        cosine_N[lag:] = _cosines(vectors_ND, np.arange(rows - lag), np.arange(lag, rows))
        # Pairs at this distance that have the row between them: the later one is 0 to 2 rows after it.
        for after in range(max(0, lag - BORDER_WIDTH), min(lag, BORDER_WIDTH)):
            inside = index + after < rows
            best[inside] = np.maximum(best[inside], cosine_N[(index + after)[inside]])
    score_N[1:] = best
    return score_N


def _cosines(vectors_ND: NDArray[Any], first: Ints, second: Ints) -> NDArray[np.float32]:
    """Return the inner products of pairs of rows, a block at a time; rows are of unit length."""
    cosines = np.empty(len(first), np.float32)
    for start in range(0, len(first), 8192):
        rows = slice(start, start + 8192)
        pairs = vectors_ND[first[rows]].astype(np.float32), vectors_ND[second[rows]].astype(np.float32)
        cosines[rows] = np.einsum("nd,nd->n", *pairs)
    return cosines


def label_by_content(chains: Chains, vectors_of: Callable[[Ints], NDArray[Any]], min_windows: int) -> tuple[Ints, int]:
    """Number the documents of windows by the borders in every chain with at least `min_windows` windows.

    `vectors_of` returns the targets of windows as unit vectors. Returns the document (W,) of each target, in which
    other chains are one document each, and the number of long chains in which no border was recognized.
    """
    document_W, unclear = chains.chain_W.copy(), 0
    for chain in np.flatnonzero(chains.windows_C >= max(min_windows, MIN_CHAIN_VECTORS)):
        members = np.flatnonzero(chains.chain_W == chain)
        members = members[np.argsort(chains.position_W[members])]
        borders = find_content_borders(vectors_of(members))
        if borders is None:
            unclear += 1
        else:
            # Each border begins a document with a new number.
            begins = np.zeros(len(members), np.int64)
            begins[borders] = np.arange(len(borders)) + document_W.max() + 1
            later = np.maximum.accumulate(begins)
            document_W[members] = np.where(later > 0, later, chain)
    return document_W, unclear
