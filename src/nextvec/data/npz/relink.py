"""Recover documents from overlapping windows.

A file of windows repeats each vector up to S + 1 times and may lack the documents. If the last S vectors of a window
equal the first S of another, the other is its successor; consecutive windows form a *chain*, and a chain of L windows
is L + S vectors of one document in order. Chains that share a vector form one *group*, so that a split never has the
same vector on both sides.

All functions work on numbers of vectors (equal numbers mean equal bytes), never on vectors.
Letters in names: W windows, T = S + 1 vectors of a window, V distinct vectors, C chains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Chains:
    """The chains of W windows, numbered in the order of their earliest window."""

    chain_W: Ints
    """(W,) the chain of each window."""
    position_W: Ints
    """(W,) its position in the chain, from 0."""
    windows_C: Ints
    """(C,) number of windows of each chain."""

    def __len__(self) -> int:
        return len(self.windows_C)


def digest_rows(block: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a digest of each vector's bytes: (…, D) → (…, 16)."""
    # Hash slices of one buffer, without making an array for each vector.
    row_bytes = block.shape[-1] * block.itemsize
    content = block.data.cast("B")
    digests = [
        hashlib.blake2b(content[start : start + row_bytes], digest_size=DIGEST_BYTES).digest()
        for start in range(0, len(content), row_bytes)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(*block.shape[:-1], DIGEST_BYTES)


def number_vectors(digests: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Number digests (M, 16): returns numbers (M,), equal for equal digests, and the distinct digests (V, 16).

    Numbers are in the order of the digests, so they depend on the content alone, not on its order in the file.
    """
    # Sort digests as two big-endian integers, which have the order of their bytes; equal ones are then adjacent.
    high, low = np.ascontiguousarray(digests).view(">u8").T
    order = np.lexsort((low, high))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.cumsum(is_new) - 1
    return numbers, digests[order[is_new]]


def link_windows(vectors_WT: NDArray[np.int32], label_W: Ints) -> Chains:
    """Link windows to chains; windows with different labels (files or documents) are never linked.

    Every window has at most one successor. Among several candidates, the next window of the file is preferred, then the
    earliest that has no predecessor. A ring is cut before its earliest window.
    """
    predecessor_W = _predecessors(*_overlaps(vectors_WT, label_W))
    head_W, position_W = _walk_back(predecessor_W)
    first_C, chain_W = _number_by_first(head_W)
    return Chains(chain_W, position_W, np.bincount(chain_W, minlength=len(first_C)))


def group_chains(
    vectors_WT: NDArray[np.int32], chains: Chains, file_W: Ints, document_W: Ints, padding: int = -1
) -> tuple[Ints, int]:
    """Return the group of each chain (C,), and the number of known documents that share a group with another.

    Chains of one file that share a vector, or a document (`document_W`, -1 if unknown), are one group. Groups are
    numbered in the order of their first chain. `padding` is the number of the vector that fills short contexts.
    """
    # Connected components of a graph whose nodes are chains, vectors of each file, and documents; each chain has an
    # edge to its vectors and its documents.
    vectors = int(vectors_WT.max()) + 1
    vector_WT = vectors_WT + (len(chains) + file_W * vectors)[:, None]
    first_document = len(chains) + (int(file_W.max()) + 1) * vectors
    # Edges from a chain to the vectors of its windows, and to its documents if known.
    is_known_W = document_W >= 0
    start = np.concatenate([np.repeat(chains.chain_W, vectors_WT.shape[1]), chains.chain_W[is_known_W]])
    end = np.concatenate([vector_WT.ravel(), first_document + document_W[is_known_W]])
    if padding >= 0:
        is_vector = np.concatenate([vectors_WT.ravel() != padding, np.ones(int(is_known_W.sum()), bool)])
        start, end = start[is_vector], end[is_vector]
    nodes = first_document + int(document_W.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1].astype(np.int64)
    # Components with two or more documents: these share a vector.
    documents_of = np.bincount(component[first_document:], minlength=int(component.max()) + 1)
    sharing = int(documents_of[documents_of > 1].sum())
    return _number_by_first(component[: len(chains)])[1], sharing


def _overlaps(vectors_WT: NDArray[np.int32], label_W: Ints) -> tuple[Ints, Ints]:
    """Number (W,) each window's S first and S last vectors: equal where label and vectors are equal."""
    windows, vectors = len(vectors_WT), int(vectors_WT.max()) + 1
    # Number the first and the last S vectors together, column by column, so that equal sequences get equal numbers.
    overlaps = np.vstack([vectors_WT[:, :-1], vectors_WT[:, 1:]])
    numbers = np.concatenate([label_W, label_W])
    for column in overlaps.T:  # renumbering after each column keeps the products within 64 bits
        numbers = np.unique(numbers, return_inverse=True)[1] * vectors + column
    numbers = np.unique(numbers, return_inverse=True)[1]
    return numbers[:windows], numbers[windows:]


def _predecessors(begin_W: Ints, end_W: Ints) -> Ints:
    """Return the predecessor of each window (W,), -1 for none: its end equals the window's begin; no rings."""
    windows = len(begin_W)
    predecessor_W = np.full(windows, -1)
    # Prefer windows that are adjacent in the file.
    follows = np.flatnonzero(end_W[:-1] == begin_W[1:])
    predecessor_W[follows + 1] = follows
    # Among the rest, link the i-th window with an end to the i-th window with the same begin.
    is_last = np.ones(windows, bool)
    is_last[follows] = False
    last, first = np.flatnonzero(is_last), np.flatnonzero(predecessor_W < 0)
    _, at_last, at_first = np.intersect1d(
        _with_rank(end_W[last], windows), _with_rank(begin_W[first], windows), assume_unique=True, return_indices=True
    )
    predecessor_W[first[at_first]] = last[at_last]
    # Cut rings: components in which every window has a predecessor.
    linked = np.flatnonzero(predecessor_W >= 0)
    links = coo_array((np.ones(len(linked), np.int8), (linked, predecessor_W[linked])), shape=(windows, windows))
    component_W = connected_components(links, directed=False)[1]
    earliest = np.unique(component_W, return_index=True)[1]
    is_ring = np.ones(len(earliest), bool)
    is_ring[component_W[predecessor_W < 0]] = False
    predecessor_W[earliest[is_ring]] = -1
    return predecessor_W


def _with_rank(keys: Ints, limit: int) -> Ints:
    """Make keys distinct: key · limit + number of equal keys before it, which is below `limit`."""
    order = np.argsort(keys, kind="stable")
    # A stable sort keeps equal keys in order; the rank is the distance from the first of them.
    sorted_keys = keys[order]
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    ranks = np.empty_like(keys)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return keys * limit + ranks


def _walk_back(predecessor_W: Ints) -> tuple[Ints, Ints]:
    """Return the first window of each window's chain (W,) and the distance to it (W,), by pointer doubling."""
    # Each round doubles the distance to the known ancestor, so chains of L windows take log2(L) rounds.
    has_predecessor = predecessor_W >= 0
    ancestor = np.where(has_predecessor, predecessor_W, np.arange(len(predecessor_W)))
    distance = has_predecessor.astype(np.int64)
    while (step := distance[ancestor]).any():
        distance = distance + step
        ancestor = ancestor[ancestor]
    return ancestor, distance


def _number_by_first(labels: Ints) -> tuple[Ints, Ints]:
    """Renumber labels by first occurrence; return (first position of each number, number of each label)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return first[order], number[inverse]
