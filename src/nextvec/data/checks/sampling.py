"""The figures behind the preflight: one pass over all rows, and whole documents of a fixed sample.

An ood set of its own may be measured with a store: it takes the place of the store's ood split.

All figures are plain values, so that the rules of `check.py` and `verdicts.py` can be tried on figures from anywhere.

Letters in names: N rows of the store, R rows of a sample, M documents, Q queries, D dimensions.

Fixed samples of whole documents: what the preflight measures directions and order on.

Letters in names: R rows of a sample, M documents, D dimensions, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable

UNITS = 1024
"""Most units that a sample's documents are gathered into: enough for noise floors, few enough to be quick."""

_SAMPLE_VALUES = 2**26  # most numbers of a sample: 256 MiB as float32


@dataclass(frozen=True)
class Sample:
    """R rows of whole documents of a split, documents in a random order, the rows of each in their own."""

    vectors_RD: NDArray[np.float32]
    """(R, D) at length 1; zero where a row is zero, NaN or infinite."""
    usable_R: NDArray[np.bool_]
    """(R,) whether the row has a direction."""
    document_R: NDArray[np.int64]
    """(R,) the number of the document."""
    unit_R: NDArray[np.int64]
    """(R,) a number from 0 for what may be taken as independent: the group of documents, or several groups."""

    @property
    def directions_RD(self) -> NDArray[np.float32]:  # noqa: N802
        """The rows that have a direction."""
        return self.vectors_RD if self.usable_R.all() else self.vectors_RD[self.usable_R]

    @property
    def units(self) -> int:
        """How many units there are."""
        return int(self.unit_R.max()) + 1 if len(self.unit_R) else 0


def draw_sample(vectors: NDArray[Any], documents: DocumentTable, split: str, size: int) -> Sample:
    """At most `size` rows of a split (and 256 MiB), always the same ones."""
    rows_R, document_R = sample_documents(documents, split, min(size, _SAMPLE_VALUES // vectors.shape[1]))
    sampled_RD, usable_R = unit_rows(vectors[rows_R])
    unit_R = np.unique(documents.group[document_R], return_inverse=True)[1] % UNITS
    return Sample(sampled_RD, usable_R, document_R, unit_R.astype(np.int64))


def sample_documents(documents: DocumentTable, split: str, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of whole documents of a split, at most `size` (the last document is cut), and the document of each row."""
    chosen_M = np.flatnonzero(documents.splits == SPLITS.index(split))
    order_M = np.random.Generator(np.random.Philox(key=np.array([0, 2**63 + 2], np.uint64))).permutation(chosen_M)
    before_M = np.cumsum(documents.rows[order_M]) - documents.rows[order_M]
    order_M, before_M = order_M[before_M < size], before_M[before_M < size]
    rows_M = np.minimum(documents.rows[order_M], size - before_M)
    offset_R = np.arange(int(rows_M.sum())) - np.repeat(before_M, rows_M)
    return np.repeat(documents.first_row[order_M], rows_M) + offset_R, np.repeat(order_M, rows_M)


def unit_rows(vectors_RD: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The rows at length 1 as float32, and which have a direction (R,); those that have none become zero."""
    rows_RD = vectors_RD.astype(np.float32)
    lengths_R = row_lengths(rows_RD)
    usable_R = np.isfinite(lengths_R) & (lengths_R > 0)
    rows_RD[~usable_R] = 0
    rows_RD /= np.where(usable_R, lengths_R, 1)[:, None]
    return rows_RD, usable_R


def row_lengths(vectors_RD: NDArray[np.float32]) -> NDArray[np.float32]:
    """(R,) lengths; NaN or infinite where a number of the row is."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths: NDArray[np.float32] = np.sqrt(np.einsum("rd,rd->r", vectors_RD, vectors_RD))
    return lengths
