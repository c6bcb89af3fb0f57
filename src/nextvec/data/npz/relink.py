"""From windows back to documents: which windows follow each other, and which belong together.

A file of windows repeats each vector up to S + 1 times and has forgotten the documents. Two windows whose S last and S
first vectors are the same follow each other; following windows make a *chain*, and a chain of L windows is L + S
vectors of one document in their order. Chains that share a vector anywhere are one *group*, so that a split can't put
the same vector on both sides.

Everything here works on numbers of vectors (equal numbers = equal bytes), never on vectors.
Letters: W windows, T = S + 1 vectors of a window, V distinct vectors, C chains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Chains:
    """The chains of W windows, numbered in the order of their earliest window."""

    chain_W: Ints
    """(W,) the chain of each window."""
    position_W: Ints
    """(W,) its place in the chain, from 0."""
    windows_C: Ints
    """(C,) windows of each chain."""

    def __len__(self) -> int:
        return len(self.windows_C)


def digest_rows(block: NDArray[Any]) -> NDArray[np.uint8]:
    """A digest of each vector's bytes: (…, D) → (…, 16)."""
    row_bytes = block.shape[-1] * block.itemsize
    content = block.data.cast("B")
    digests = [
        hashlib.blake2b(content[start : start + row_bytes], digest_size=DIGEST_BYTES).digest()
        for start in range(0, len(content), row_bytes)
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(*block.shape[:-1], DIGEST_BYTES)


def number_vectors(digests: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Numbers for digests (M, 16): (M,) equal where digests are equal, and the V distinct digests (V, 16) by number.

    Numbers follow the digests' order, so that they depend on the content and not on where it stands.
    """
    high, low = np.ascontiguousarray(digests).view(">u8").T
    order = np.lexsort((low, high))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.cumsum(is_new) - 1
    return numbers, digests[order[is_new]]


def link_windows(vectors_WT: NDArray[np.int32], label_W: Ints) -> Chains:
    """Chains of windows; windows of different labels (files, given documents) never follow each other.

    Every window has at most one successor, and with a given context S a chain holds its own windows and no other.
    Where several could follow, the next one in the file does if it can, else the earliest that is free. A ring is
    opened before its earliest window.
    """
    predecessor_W = _predecessors(*_overlaps(vectors_WT, label_W))
    head_W, position_W = _walk_back(predecessor_W)
    first_C, chain_W = _number_by_first(head_W)
    return Chains(chain_W, position_W, np.bincount(chain_W, minlength=len(first_C)))


def group_chains(vectors_WT: NDArray[np.int32], chains: Chains, file_W: Ints, document_W: Ints) -> tuple[Ints, int]:
    """The group of each chain (C,), numbered by first chain, and how many given documents share a group with another.

    Chains of one file that share a vector, or a given document (`document_W`, -1 where none is given), are one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # One graph of chains, vectors (of each file), and given documents; an edge for each "is in".
    vectors = int(vectors_WT.max()) + 1
    vector_WT = vectors_WT + (len(chains) + file_W * vectors)[:, None]
    first_document = len(chains) + (int(file_W.max()) + 1) * vectors
    given_W = document_W >= 0
    one = np.concatenate([np.repeat(chains.chain_W, vectors_WT.shape[1]), chains.chain_W[given_W]])
    other = np.concatenate([vector_WT.ravel(), first_document + document_W[given_W]])
    nodes = first_document + int(document_W.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1].astype(np.int64)
    documents_of = np.bincount(component[first_document:], minlength=int(component.max()) + 1)
    sharing = int(documents_of[documents_of > 1].sum())
    return _number_by_first(component[: len(chains)])[1], sharing


def _overlaps(vectors_WT: NDArray[np.int32], label_W: Ints) -> tuple[Ints, Ints]:
    """Numbers (W,) for each window's S first and S last vectors: equal where label and vectors are equal."""
    windows, vectors = len(vectors_WT), int(vectors_WT.max()) + 1
    overlaps = np.vstack([vectors_WT[:, :-1], vectors_WT[:, 1:]])
    numbers = np.concatenate([label_W, label_W])
    for column in overlaps.T:  # one column more each time, and small numbers again: never beyond 64 bits
        numbers = np.unique(numbers, return_inverse=True)[1] * vectors + column
    numbers = np.unique(numbers, return_inverse=True)[1]
    return numbers[:windows], numbers[windows:]


def _predecessors(begin_W: Ints, end_W: Ints) -> Ints:
    """The window before each one (W,), -1 for none: its end is the other's begin, each used once, no rings."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    windows = len(begin_W)
    predecessor_W = np.full(windows, -1)
    follows = np.flatnonzero(end_W[:-1] == begin_W[1:])
    predecessor_W[follows + 1] = follows
    # Of what is left, the i-th window with an end meets the i-th with the same begin.
    is_last = np.ones(windows, bool)
    is_last[follows] = False
    last, first = np.flatnonzero(is_last), np.flatnonzero(predecessor_W < 0)
    _, at_last, at_first = np.intersect1d(
        _with_rank(end_W[last], windows), _with_rank(begin_W[first], windows), assume_unique=True, return_indices=True
    )
    predecessor_W[first[at_first]] = last[at_last]
    linked = np.flatnonzero(predecessor_W >= 0)
    links = coo_array((np.ones(len(linked), np.int8), (linked, predecessor_W[linked])), shape=(windows, windows))
    component_W = connected_components(links, directed=False)[1]
    earliest = np.unique(component_W, return_index=True)[1]
    is_ring = np.ones(len(earliest), bool)
    is_ring[component_W[predecessor_W < 0]] = False
    predecessor_W[earliest[is_ring]] = -1
    return predecessor_W


def _with_rank(keys: Ints, limit: int) -> Ints:
    """Keys made distinct: key · limit + how many equal keys come before. Ranks stay below `limit`."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    ranks = np.empty_like(keys)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return keys * limit + ranks


def _walk_back(predecessor_W: Ints) -> tuple[Ints, Ints]:
    """The first window of each window's chain (W,) and its distance from it (W,), by doubling the steps."""
    has_one = predecessor_W >= 0
    ancestor = np.where(has_one, predecessor_W, np.arange(len(predecessor_W)))
    distance = has_one.astype(np.int64)
    while (step := distance[ancestor]).any():
        distance = distance + step
        ancestor = ancestor[ancestor]
    return ancestor, distance


def _number_by_first(labels: Ints) -> tuple[Ints, Ints]:
    """Labels renumbered in the order of their first places: (first place of each number, number of each label)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return first[order], number[inverse]
