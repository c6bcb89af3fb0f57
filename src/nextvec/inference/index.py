"""The exact index of a store, and how indexes are opened by name.

Letters in names: Q queries, N chunks of the index, B chunks of a block, D dimensions, K results.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.space import Space
from nextvec.data.store import CHUNKS, Store, open_store
from nextvec.errors import InputError, SpaceError
from nextvec.inference.index_types import Index, IndexedChunk, spread
from nextvec.inference.store_filter import matching_rows
from nextvec.inference.table_name import is_table_name

MAX_COPY_BYTES = 2**30
"""Maximum size of a float32 copy of float16 vectors: 700,000 of 384-D. Converting takes four times a search."""
BLOCK_NUMBERS = 2**20
"""Numbers of a block of vectors of a larger index, which is converted and multiplied while it is in the CPU's cache."""
CACHED_BLOCKS = 64
"""Blocks of texts in memory."""


class StoreIndex:
    """The exact index of a store: one matrix product per search, in blocks if the index is large.

    Float32 vectors stay memory-mapped. Of float16 vectors, the first search keeps a float32 copy if it is small enough.
    """

    def __init__(self, store: Store, is_member: NDArray[np.bool_] | None = None) -> None:
        """Make an index of a store's chunks, or of those that `is_member` (N,) marks."""
        self.store = store
        self._is_member = is_member
        # A cached bound method would keep the index alive; this cache belongs to it.
        self._read_texts = lru_cache(CACHED_BLOCKS)(self._read_texts_of_group)
        self._file: Any = None
        self._group_ends = np.empty(0, np.int64)

    @property
    def space(self) -> Space:
        """Embedding space of the store."""
        return self.store.space

    @property
    def name(self) -> str:
        """The path of the store."""
        return f"store {self.store.name}"

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.store.vectors) if self._is_member is None else int(self._is_member.sum())

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: Collection[int] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows and cosines (Q, K) of the nearest chunks to the queries (Q, D); see `Index.search`."""
        if queries.ndim != 2 or queries.shape[1] != self.store.dimensions:
            raise SpaceError(
                f"{self.name}: has {self.store.dimensions}-D vectors, but the queries have the shape {queries.shape}. "
                "Use an index of the model's space."
            )
        if k < 1:
            raise InputError(f"k is {k}, but must be at least 1.")
        with torch.inference_mode():
            cosines_QN = self._cosines(torch.from_numpy(np.ascontiguousarray(queries, np.float32)))
            excluded = torch.tensor(sorted(exclude), dtype=torch.int64)
            cosines_QN[:, excluded] = -torch.inf
            available = len(self) - len(excluded)
            if self._is_member is not None:
                cosines_QN[:, ~torch.from_numpy(self._is_member)] = -torch.inf
                available = len(self) - int(self._is_member[excluded.numpy()].sum())
            scores_QK, rows_QK = cosines_QN.topk(min(k, max(available, 0)), dim=1)
        return rows_QK.numpy(), scores_QK.numpy()

    def _cosines(self, queries_QD: Tensor) -> Tensor:
        """Return the cosines (Q, N) of unit queries with all chunks."""
        vectors_ND = self._matrix
        queries_DQ = queries_QD.T.contiguous()
        cosines_NQ = torch.empty(len(vectors_ND), len(queries_QD))
        is_float32 = vectors_ND.dtype == torch.float32
        size = len(vectors_ND) if is_float32 else max(1, BLOCK_NUMBERS // self.store.dimensions)
        for start in range(0, len(vectors_ND), size):
            rows = slice(start, start + size)
            torch.mm(vectors_ND[rows].float(), queries_DQ, out=cosines_NQ[rows])
        return cosines_NQ.T.contiguous()

    @cached_property
    def _matrix(self) -> Tensor:
        """The vectors (N, D) to multiply: in float32 if they are stored so or the copy is small enough."""
        vectors_ND = torch.from_numpy(self.store.vectors)
        return vectors_ND.float() if 4 * vectors_ND.numel() <= MAX_COPY_BYTES else vectors_ND

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N rows, without the rounding of float16 in their length."""
        vectors_ND = self.store.vectors[np.asarray(rows, np.int64)].astype(np.float32)
        unit_ND: NDArray[np.float32] = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return unit_ND

    def chunks(self, rows: Sequence[int]) -> list[IndexedChunk]:
        """Return the texts of rows and their places in their documents."""
        documents = self.store.documents
        numbers = np.searchsorted(documents.first_row, np.asarray(rows, np.int64), side="right") - 1
        return [
            IndexedChunk(
                row=int(row),
                text=self._text(int(row)),
                document=str(documents.ids[number]),
                title=str(documents.titles[number]),
                position=int(row - documents.first_row[number]),
            )
            for row, number in zip(rows, numbers.tolist(), strict=True)
        ]

    def sample(self, count: int) -> list[int]:
        """Return at most `count` rows, spread over the index."""
        rows = np.arange(len(self.store.vectors)) if self._is_member is None else np.flatnonzero(self._is_member)
        return [int(row) for row in spread(rows, count)]

    def filter(self, where: str) -> StoreIndex:
        """Return the index of the documents that match an SQL condition; see `matching_rows`."""
        is_match = matching_rows(self.store, where)
        return StoreIndex(self.store, is_match if self._is_member is None else is_match & self._is_member)

    def _text(self, row: int) -> str:
        """Return the text of one row; empty if the store has no texts."""
        if not self.store.has_texts:
            return ""
        self._open_texts()
        group = int(np.searchsorted(self._group_ends, row, side="right"))
        first = int(self._group_ends[group - 1]) if group else 0
        return str(self._read_texts(group)[row - first])

    def _open_texts(self) -> None:
        if self._file is None:
            import pyarrow.parquet as pq

            self._file = pq.ParquetFile(self.store.path / CHUNKS, memory_map=True)
            metadata = self._file.metadata
            self._group_ends = np.cumsum([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)])

    def _read_texts_of_group(self, group: int) -> Any:
        return self._file.read_row_group(group, columns=["text"])["text"]


def open_index(source: Index | Store | str | Path, where: str = "") -> Index:
    """Return the exact index of a store, the index of a LanceDB table (``lancedb:DIR#TABLE``), or an index unchanged.

    `where` keeps only the chunks that match an SQL condition, such as ``source = 'x'``. Raises StoreError if the store
    or table cannot be opened, InputError for a condition that is not valid.
    """
    index: Index
    if isinstance(source, str) and is_table_name(source):
        from nextvec.inference.lancedb_index import open_table_index

        index = open_table_index(source)
    elif isinstance(source, str | Path):
        index = StoreIndex(open_store(source))
    else:
        index = StoreIndex(source) if isinstance(source, Store) else source
    return index.filter(where) if where else index
