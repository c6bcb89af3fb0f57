"""Find exact duplicates, by a hash of every row, and near duplicates, by the cosine of sampled rows.

For near duplicates, up to MAX_QUERIES rows of each split are multiplied with up to MAX_CANDIDATES rows, block by block.
The candidates are many because the queries are few: if every row has one near duplicate, a search among a twentieth of
the rows would find a twentieth of them.

Letters in names: N rows of a store, R rows of a split, Q queries, B rows of a block, D dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.findings import Statistics
from nextvec.data.checks.sampling import row_lengths, unit_rows
from nextvec.data.store import DocumentTable, Store

NEAR_COSINE = 0.98
"""Cosine above which two chunks are near duplicates: such pairs differ in a few words."""
MAX_QUERIES = 500
"""Maximum number of rows of a split, evenly spaced, whose near duplicates are searched."""
MAX_CANDIDATES = 500_000
"""Maximum number of rows, evenly spaced, among which near duplicates are searched."""

BLOCK_ROWS = 8192


class Rows(Protocol):
    """An array (N, D), or an object that reads its rows from files when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | NDArray[np.int64], /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class RowScan:
    """The result of one pass over all rows of a store."""

    norm_N: NDArray[np.float32]
    """(N,) lengths; NaN or infinite if a value of the row is."""
    hash_N: NDArray[np.uint64]
    """(N,) hashes; equal rows have equal hashes."""


def scan_rows(vectors: NDArray[Any]) -> RowScan:
    """Compute the length and the hash of every row of `vectors` (N, D) in one pass."""
    norm_N = np.empty(len(vectors), np.float32)
    hash_N = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows_BD = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS])
        block = slice(start, start + len(rows_BD))
        norm_N[block] = row_lengths(rows_BD.astype(np.float32))
        hash_N[block] = hash_rows(rows_BD)
    return RowScan(norm_N, hash_N)


def hash_rows(vectors: Rows) -> NDArray[np.uint64]:
    """Return a hash of every row of `vectors` (N, D); equal rows have equal hashes (N,)."""
    hash_N = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        # Hash half-precision values, so that a float16 store and a float32 file with the same vectors match.
        halves_BD = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]).astype(np.float16, copy=False)
        digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in halves_BD)
        hash_N[start : start + len(halves_BD)] = np.frombuffer(digests, np.uint64)
    return hash_N


class SplitRows:
    """The rows of a split and their hashes."""

    def __init__(self, documents: DocumentTable, scan: RowScan, split: str) -> None:
        self.documents = documents
        self.rows_R = documents.rows_of(split)
        self.hash_R = scan.hash_N[self.rows_R]
        self._sorted_R = np.sort(self.hash_R)  # binary search is several times faster than numpy's set functions

    def count(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return how many rows of this split have each of the hashes."""
        # In the sorted hashes, equal rows are adjacent: their number is the distance between the two ends.
        first, last = (np.searchsorted(self._sorted_R, hashes, side) for side in ("left", "right"))
        counts: NDArray[np.int64] = last - first
        return counts

    @property
    def duplicates(self) -> int:
        """Number of rows that equal an earlier row of this split."""
        return int((self._sorted_R[1:] == self._sorted_R[:-1]).sum())


def count_duplicates(split_rows: SplitRows, train: SplitRows | None) -> Statistics:
    """Count the rows that duplicate another row of their split and, unless `train` is None, the rows also in train."""
    statistics: Statistics = {"duplicates": split_rows.duplicates}
    if train is not None:
        # A row of val or ood whose hash occurs in train is a leak; the first becomes the example of the message.
        is_leaked_R = train.count(split_rows.hash_R) > 0
        statistics.update(in_train=int(is_leaked_R.sum()), in_train_example=None)
        if is_leaked_R.any():
            first = int(is_leaked_R.argmax())
            original = int((train.hash_R == split_rows.hash_R[first]).argmax())
            copy = describe_row(split_rows.documents, int(split_rows.rows_R[first]))
            statistics["in_train_example"] = f"{copy} and {describe_row(train.documents, int(train.rows_R[original]))}"
    return statistics


def describe_row(documents: DocumentTable, row: int) -> str:
    """Return a row's number and document for a message."""
    # The row's document is the last that starts at or before it.
    document = int(np.searchsorted(documents.first_row, row, side="right")) - 1
    return f"row {row} (document '{documents.ids[document]}')"


def measure_near_duplicates(
    stores: dict[str, Store], scans: dict[Path, RowScan], means: dict[str, NDArray[np.float64]]
) -> dict[str, Statistics]:
    """Count, for each split in `means`, the sampled rows with a near duplicate in another group, or in train.

    Exact duplicates are counted by `count_duplicates` and left out here. `random_cosine` is the mean cosine of a row of
    the split and a row of train: the inner product of the splits' mean vectors `means` (D,).
    """
    searches = {split: _Search(stores[split], scans[stores[split].path], split) for split in means}
    train = searches["train"]
    # One pass over train serves the queries of all splits. Only for train's own queries may the group be the same.
    no_group = {split: np.full(len(search.group_Q), -1) for split, search in searches.items() if split != "train"}
    in_train_Q = train.find(
        np.concatenate([search.queries_QD for search in searches.values()]),
        np.concatenate([no_group.get(split, search.group_Q) for split, search in searches.items()]),
    )
    ends = np.cumsum([len(search.group_Q) for search in searches.values()])
    statistics: dict[str, Statistics] = {}
    for (split, search), match_Q in zip(searches.items(), np.split(in_train_Q, ends[:-1]), strict=True):
        # Near duplicates within the split. Exact duplicates are marked as unmatched, because they are counted
        # elsewhere.
        inside_Q = match_Q if split == "train" else search.find(search.queries_QD, search.group_Q)
        is_copy_Q = search.split_rows.count(search.hash_Q) > 1
        statistics[split] = {
            "random_cosine": round(float(means[split] @ means["train"]), 4),
            "near_duplicates": search.summarize(np.where(is_copy_Q, -1, inside_Q), search),
        }
        if split != "train":
            is_copy_Q = train.split_rows.count(search.hash_Q) > 0
            statistics[split]["near_in_train"] = search.summarize(np.where(is_copy_Q, -1, match_Q), train)
    return statistics


class _Search:
    """A split's queries and the candidates among which near duplicates are searched."""

    def __init__(self, store: Store, scan: RowScan, split: str) -> None:
        self.store, self.split_rows = store, SplitRows(store.documents, scan, split)
        group_N = np.repeat(store.documents.group, store.documents.rows)
        # Few queries, because each is compared with all candidates; evenly spaced, so that every source contributes.
        self.query_rows_Q = _evenly_spaced(self.split_rows.rows_R, MAX_QUERIES)
        self.queries_QD, _ = unit_rows(store.vectors[self.query_rows_Q])
        self.group_Q, self.hash_Q = group_N[self.query_rows_Q], scan.hash_N[self.query_rows_Q]
        self.candidates = _evenly_spaced(self.split_rows.rows_R, MAX_CANDIDATES)
        self._candidate_groups = group_N[self.candidates]

    def find(self, queries_QD: NDArray[np.float32], group_Q: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the near duplicates of queries among this split's candidates; see `find_near_duplicates`."""
        return find_near_duplicates(queries_QD, group_Q, self.store.vectors, self.candidates, self._candidate_groups)

    def summarize(self, match_Q: NDArray[np.int64], other: _Search) -> Statistics:
        """Count the queries with a match (not -1) among the candidates of `other`, and describe the first."""
        matched = np.flatnonzero(match_Q >= 0)
        example = None
        if len(matched):
            query = describe_row(self.store.documents, int(self.query_rows_Q[matched[0]]))
            example = f"{query} and {describe_row(other.store.documents, int(match_Q[matched[0]]))}"
        return {
            "queries": len(match_Q),
            "candidates": len(other.candidates),
            "rows": len(other.split_rows.rows_R),
            "count": len(matched),
            "example": example,
        }


def find_near_duplicates(
    queries_QD: NDArray[np.float32],
    group_Q: NDArray[np.int64],
    vectors: Rows,
    candidates: NDArray[np.int64],
    candidate_groups: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return for each query a candidate row of `vectors` with a cosine above NEAR_COSINE; -1 if there is none.

    Queries are unit vectors or zero. A candidate in the query's own group does not count.
    """
    match_Q = np.full(len(queries_QD), -1, np.int64)
    for start in range(0, len(candidates), BLOCK_ROWS):
        # Only queries without a match so far are compared with this block.
        open_Q = np.flatnonzero(match_Q < 0)
        block_BD, _ = unit_rows(vectors[candidates[start : start + BLOCK_ROWS]])
        is_near_QB = queries_QD[open_Q] @ block_BD.T > NEAR_COSINE
        # flatnonzero and divmod are many times faster than nonzero on a large matrix with few hits.
        query, row = np.divmod(np.flatnonzero(is_near_QB), len(block_BD))
        query = open_Q[query]
        # Chunks of one document may well repeat each other; only another group counts.
        is_other = group_Q[query] != candidate_groups[start + row]
        match_Q[query[is_other]] = candidates[start + row[is_other]]
    return match_Q


def _evenly_spaced(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most `count` of the rows, evenly spaced."""
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
