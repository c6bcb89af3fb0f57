"""Repeats: rows that are the same as another, by their hashes; and rows that say almost the same, on a fixed sample.

Near twins are found exactly and quickly. Split two unit vectors into what lies in K orthonormal directions and the
rest, of lengths r and s. By Cauchy and Schwarz their cosine is at most (inner product of the first parts) + r·s, which
is one inner product of K + 1 numbers. Only pairs for which that bound is above NEAR are looked at in full: with the
strongest directions these are few. A few rows are looked for among all rows, not among a sample of them: where every
row has one twin, a sample of a twentieth would show a twentieth of the twins.

Letters in names: N rows of a store, Q queries, B rows of a block, D dimensions, K directions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.sampling import row_lengths, unit_rows
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable, Store

Figures = dict[str, Any]

NEAR = 0.98
"""Cosine above which two chunks say almost the same."""
QUERIES = 500
"""Rows of a split that twins are looked for, evenly spaced."""
SEARCHED = 500_000
"""Most rows that twins are looked for among, evenly spaced."""
BOUND_DIRECTIONS = 32
"""Directions of the bound."""

_BLOCK = 8192
_ROUNDING = 1e-4  # of float32 inner products of unit vectors
_PAIRS = 2**15  # candidate pairs that are compared at once


@dataclass(frozen=True)
class Scan:
    """What one pass over all rows gives."""

    norm: NDArray[np.float32]
    """(N,) lengths; NaN or infinite where a number of the row is."""
    digest: NDArray[np.uint64]
    """(N,) hashes: rows of the same bytes have the same."""


def scan_rows(vectors: NDArray[Any]) -> Scan:
    """One pass over all rows (N, D)."""
    norm = np.empty(len(vectors), np.float32)
    digest = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), _BLOCK):
        rows = np.ascontiguousarray(vectors[start : start + _BLOCK])
        norm[start : start + len(rows)] = row_lengths(rows.astype(np.float32))
        # In half precision, so that a float16 store and a float32 file show the vectors that they share.
        halves = rows.astype(np.float16, copy=False)
        digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in halves)
        digest[start : start + len(rows)] = np.frombuffer(digests, np.uint64)
    return Scan(norm, digest)


@dataclass(frozen=True)
class Digests:
    """The hashes of a split's rows, and where they are."""

    rows: NDArray[np.int64]
    digest: NDArray[np.uint64]
    documents: DocumentTable

    @cached_property
    def ordered(self) -> NDArray[np.uint64]:
        """The hashes, sorted: numpy's own set functions take several times as long."""
        return np.sort(self.digest)

    def count(self, digest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many of these rows have each of some hashes."""
        counts: NDArray[np.int64] = np.searchsorted(self.ordered, digest, "right") - np.searchsorted(
            self.ordered, digest
        )
        return counts

    @property
    def repeats(self) -> int:
        """How many of these rows repeat another of them."""
        return int((self.ordered[1:] == self.ordered[:-1]).sum())


def digests(scan: Scan, documents: DocumentTable, split: str) -> Digests:
    """The hashes of the rows of a split."""
    rows = np.flatnonzero(np.repeat(documents.splits, documents.rows) == SPLITS.index(split))
    return Digests(rows, scan.digest[rows], documents)


def count_repeats(scan: Scan, documents: DocumentTable, split: str, train: Digests) -> Figures:
    """Rows that repeat another row of their split, and rows that are in train too, with an example."""
    own = digests(scan, documents, split)
    figures: Figures = {"repeats": own.repeats}
    if split != "train":
        leaked = train.count(own.digest) > 0
        figures.update(in_train=int(leaked.sum()), in_train_example=None)
        if leaked.any():
            first = int(leaked.argmax())
            twin = int((train.digest == own.digest[first]).argmax())
            places = (place(documents, int(own.rows[first])), place(train.documents, int(train.rows[twin])))
            figures["in_train_example"] = " and ".join(places)
    return figures


def place(documents: DocumentTable, row: int) -> str:
    """Where a row is, in words."""
    document = int(np.searchsorted(documents.first_row, row, side="right")) - 1
    return f"row {row} (document '{documents.ids[document]}')"


def measure_near(
    homes: dict[str, Store],
    scans: dict[Path, Scan],
    means: dict[str, NDArray[np.float64]],
    directions_DK: NDArray[np.float32],
) -> dict[str, Figures]:
    """Of some rows of each split: how many have a near twin in a document of another group of the split, or in train.

    Exact repeats are counted elsewhere and left out here. `random_cosine` is the mean cosine with any row of train, of
    train itself with another of it: the inner product of `means` (D,). `directions_DK` are train's strongest ones.
    """
    directions_DK = directions_DK[:, -BOUND_DIRECTIONS:]
    train = digests(scans[homes["train"].path], homes["train"].documents, "train")
    queries = {split: _Queries(homes[split], scans[homes[split].path], split, train) for split in means}
    figures: dict[str, Figures] = {}
    # One pass over train for the queries of all splits; -1 is the group of no row.
    groups = [own.group_Q if split == "train" else np.full(len(own.group_Q), -1) for split, own in queries.items()]
    twins = queries["train"].find(
        np.concatenate([own.vectors_QD for own in queries.values()]), np.concatenate(groups), directions_DK
    )
    ends = np.cumsum([len(own.group_Q) for own in queries.values()])
    for (split, own), in_train_Q in zip(queries.items(), np.split(twins, ends[:-1]), strict=True):
        inside_Q = in_train_Q if split == "train" else own.find(own.vectors_QD, own.group_Q, directions_DK)
        figures[split] = {
            "random_cosine": round(float(means[split] @ means["train"]), 4),
            "near_repeats": own.tell(np.where(own.repeated_Q, -1, inside_Q), own),
        }
        if split != "train":
            figures[split]["near_in_train"] = own.tell(np.where(own.leaked_Q, -1, in_train_Q), queries["train"])
    return figures


class _Queries:
    """Some rows of a split, evenly spaced, and all of its rows (or many, evenly spaced) to find twins among."""

    def __init__(self, home: Store, scan: Scan, split: str, train: Digests) -> None:
        self.home, own = home, digests(scan, home.documents, split)
        self.group_N = np.repeat(home.documents.group, home.documents.rows)
        self.rows, self.searched = own.rows, spaced(own.rows, SEARCHED)
        self.rows_Q = spaced(own.rows, QUERIES)
        self.group_Q = self.group_N[self.rows_Q]
        self.vectors_QD, _ = unit_rows(home.vectors[self.rows_Q])
        digest_Q = scan.digest[self.rows_Q]
        self.repeated_Q, self.leaked_Q = own.count(digest_Q) > 1, train.count(digest_Q) > 0

    def find(
        self, queries_QD: NDArray[np.float32], group_Q: NDArray[np.int64], directions_DK: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """The near twins of queries among the rows of this split, as `find_twins` gives them."""
        rows = self.searched
        return find_twins(queries_QD, group_Q, self.home.vectors, rows, self.group_N[rows], directions_DK)

    def tell(self, twin_Q: NDArray[np.int64], other: _Queries) -> Figures:
        """How many of the queries have a twin among the rows of `other`, and the first of them."""
        found = np.flatnonzero(twin_Q >= 0)
        example = None
        if len(found):
            one = place(self.home.documents, int(self.rows_Q[found[0]]))
            example = f"{one} and {place(other.home.documents, int(twin_Q[found[0]]))}"
        return {
            "queries": len(twin_Q),
            "searched": len(other.searched),
            "rows": len(other.rows),
            "found": len(found),
            "example": example,
        }


def find_twins(
    queries_QD: NDArray[np.float32],
    group_Q: NDArray[np.int64],
    vectors: NDArray[Any],
    rows: NDArray[np.int64],
    group: NDArray[np.int64],
    directions_DK: NDArray[np.float32],
) -> NDArray[np.int64]:
    """For each query (unit length or zero) one of `rows` of `vectors` with a cosine above NEAR; -1 where there is none.

    `group` is that of each of `rows`; a row of the query's own group is no twin. `directions_DK` are orthonormal.
    """
    twin_Q = np.full(len(queries_QD), -1, np.int64)
    bound_QK = _bounding(queries_QD, directions_DK)
    for start in range(0, len(rows), _BLOCK):
        left = np.flatnonzero(twin_Q < 0)
        block_BD, _ = unit_rows(vectors[rows[start : start + _BLOCK]])
        group_B = group[start : start + _BLOCK]
        candidates = bound_QK[left] @ _bounding(block_BD, directions_DK).T > NEAR - _ROUNDING
        query_N, row_N = np.divmod(np.flatnonzero(candidates), len(block_BD))
        for part in range(0, len(query_N), _PAIRS):
            query, row = left[query_N[part : part + _PAIRS]], row_N[part : part + _PAIRS]
            other = group_Q[query] != group_B[row]
            query, row = query[other], row[other]
            near = np.einsum("nd,nd->n", queries_QD[query], block_BD[row]) > NEAR
            twin_Q[query[near]] = rows[start + row[near]]
    return twin_Q


def _bounding(vectors_BD: NDArray[np.float32], directions_DK: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, K + 1) what lies in the directions, and the length of the rest; zero for a zero row."""
    inside_BK = vectors_BD @ directions_DK
    squared_B = np.einsum("bd,bd->b", vectors_BD, vectors_BD) - np.einsum("bk,bk->b", inside_BK, inside_BK)
    return np.column_stack([inside_BK, np.sqrt(np.maximum(squared_B, 0))])


def spaced(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of some rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
