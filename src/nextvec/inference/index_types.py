"""What every index of chunks offers: nearest vectors, the texts behind them, and filters.

Letters in names: Q queries, N rows, D dimensions, K results.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.space import Space


@dataclass(frozen=True)
class IndexedChunk:
    """A chunk of an index."""

    row: int
    text: str
    """Empty if the index has no texts."""
    document: str
    """Id of the document; empty if it is unknown."""
    title: str
    position: int | None
    """Number of chunks before it in its document; None if it is unknown."""


class Index(Protocol):
    """A searchable set of chunks with their vectors."""

    @property
    def space(self) -> Space:
        """Embedding space of the vectors."""

    @property
    def name(self) -> str:
        """The index's origin, for messages."""

    def __len__(self) -> int:
        """Return the number of chunks."""

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: Collection[int] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows and cosines (Q, K) of the nearest chunks to the queries (Q, D), the nearest first.

        Rows in `exclude` are left out. K is k, or fewer if the index has fewer chunks.
        """

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N rows."""

    def chunks(self, rows: Sequence[int]) -> list[IndexedChunk]:
        """Return the texts of rows and their places in their documents."""

    def sample(self, count: int) -> list[int]:
        """Return at most `count` rows, spread over the index."""

    def filter(self, where: str) -> Index:
        """Return the index of the chunks that match an SQL condition, such as ``source = 'x'``; rows stay the same.

        Raises InputError if the condition is not valid.
        """


def spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most `count` of the rows, at equal distances."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=np.int64)]
