"""Fixed samples of whole documents, on which directions, coherence and order are measured.

The vectors of a sample stay in the store's files. Whatever needs all of them reads them in blocks: the samples of
three splits in float32 would take more memory than training does.

Letters in names: R rows of a sample, B rows of a block, M documents, D dimensions, K distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable

MAX_UNITS = 1024
"""Maximum number of independent units of a sample: enough to estimate noise floors, few enough to be fast."""

_MAX_SAMPLE_VALUES = 2**26
"""Maximum number of values of a sample, so that a check of any store takes seconds."""
BLOCK_ROWS = 8192
"""Rows that are read at once."""


class UnitRows:
    """R rows of a store, read from its files and scaled to unit length when they are indexed."""

    def __init__(self, vectors: NDArray[Any], rows_R: NDArray[np.int64]) -> None:
        self._vectors, self._rows_R = vectors, rows_R
        self.shape = len(rows_R), vectors.shape[1]

    def __len__(self) -> int:
        return len(self._rows_R)

    def __getitem__(self, index: slice | NDArray[Any]) -> NDArray[np.float32]:
        """Return unit vectors; zero if the stored row is zero, NaN or infinite."""
        return unit_rows(self._vectors[self._rows_R[index]])[0]


@dataclass(frozen=True)
class Sample:
    """R rows of whole documents of a split; documents are in random order, the rows of each in their own order."""

    vectors_RD: UnitRows | NDArray[np.float32]
    """(R, D) unit vectors; zero if the stored row is zero, NaN or infinite. Index it a block at a time."""
    usable_R: NDArray[np.bool_]
    """(R,) whether the stored row is finite and not zero."""
    document_R: NDArray[np.int64]
    """(R,) number of the row's document."""
    unit_R: NDArray[np.int64]
    """(R,) number, from 0, of the row's independent unit: one group of documents, or several."""

    @property
    def units(self) -> int:
        """Number of independent units."""
        return int(self.unit_R.max()) + 1 if len(self.unit_R) else 0


def draw_sample(vectors: NDArray[Any], documents: DocumentTable, split: str, size: int) -> Sample:
    """Return a fixed sample of at most `size` rows of a split."""
    # Whole documents, because order and coherence are measured between neighbors.
    rows_R, document_R = sample_documents(documents, split, min(size, _MAX_SAMPLE_VALUES // vectors.shape[1]))
    usable_R = np.empty(len(rows_R), np.bool_)
    for start in range(0, len(rows_R), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        lengths_B = row_lengths(vectors[rows_R[block]].astype(np.float32))
        usable_R[block] = np.isfinite(lengths_B) & (lengths_B > 0)
    # Number the groups from 0. If there are more than MAX_UNITS, several share a unit.
    unit_R = np.unique(documents.group[document_R], return_inverse=True)[1] % MAX_UNITS
    return Sample(UnitRows(vectors, rows_R), usable_R, document_R, unit_R.astype(np.int64))


def usable_blocks(sample: Sample) -> Iterator[NDArray[np.float32]]:
    """Yield the unit vectors (B, D) of the usable rows of a sample, in blocks."""
    rows = np.flatnonzero(sample.usable_R)
    for start in range(0, len(rows), BLOCK_ROWS):
        yield sample.vectors_RD[rows[start : start + BLOCK_ROWS]]


def shifted_cosines(sample: Sample, distances: Sequence[int]) -> NDArray[np.float32]:
    """Return (K, R) cosines of each row with the row that is `distance` rows later; 0 if there is no such row."""
    rows = len(sample.document_R)
    cosines_KR = np.zeros((len(distances), rows), np.float32)
    for start in range(0, rows, BLOCK_ROWS):
        # Read a block and the rows after it once, for all distances.
        block_BD = sample.vectors_RD[start : start + BLOCK_ROWS + max(distances)]
        for cosines_R, distance in zip(cosines_KR, distances, strict=True):
            count = min(BLOCK_ROWS, len(block_BD) - distance)
            if count > 0:
                pairs = block_BD[:count], block_BD[distance : distance + count]
                cosines_R[start : start + count] = np.einsum("rd,rd->r", *pairs)
    return cosines_KR


def sample_documents(documents: DocumentTable, split: str, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return at most `size` rows (R,) of whole documents of a split, and each row's document (R,).

    The last document is cut to reach `size`.
    """
    # Shuffle the split's documents with a fixed key, so that every check of a store measures the same rows.
    split_M = np.flatnonzero(documents.splits == SPLITS.index(split))
    order_M = np.random.Generator(np.random.Philox(key=np.array([0, 2**63 + 2], np.uint64))).permutation(split_M)
    # Rows of the documents before each one; documents that start beyond `size` are left out.
    before_M = np.cumsum(documents.rows[order_M]) - documents.rows[order_M]
    order_M, before_M = order_M[before_M < size], before_M[before_M < size]
    # Expand documents to rows: the first row of each plus 0, 1, 2 …
    rows_M = np.minimum(documents.rows[order_M], size - before_M)
    offset_R = np.arange(int(rows_M.sum())) - np.repeat(before_M, rows_M)
    return np.repeat(documents.first_row[order_M], rows_M) + offset_R, np.repeat(order_M, rows_M)


def unit_rows(vectors_RD: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the rows scaled to unit length as float32, and which are usable (R,); the others become zero."""
    rows_RD = vectors_RD.astype(np.float32)
    lengths_R = row_lengths(rows_RD)
    usable_R = np.isfinite(lengths_R) & (lengths_R > 0)
    rows_RD[~usable_R] = 0
    rows_RD /= np.where(usable_R, lengths_R, 1)[:, None]
    return rows_RD, usable_R


def row_lengths(vectors_RD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row (R,); NaN or infinite if a value of the row is."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths: NDArray[np.float32] = np.sqrt(np.einsum("rd,rd->r", vectors_RD, vectors_RD))
    return lengths
