"""The table of a store's documents: numbers in memory, texts read from documents.parquet when someone asks.

A document takes 17 bytes of memory: 50 million of them 0.85 GB. Ids, titles and sources are read by row group, the
unit in which a Parquet file is written and compressed.

Letters in names: M documents, B documents of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SPLITS
from nextvec.errors import StoreError, one_line

ROW_GROUP = 2**16
"""Documents in a row group: about 2 MB of ids, which are read in 5 ms."""
CACHED_GROUPS = 16
"""Row groups of a column that stay in memory: all of a store of a million documents."""


@dataclass(frozen=True)
class DocumentTable:
    """The documents of a store, one entry each, in row order (M documents)."""

    ids: Sequence[str]
    titles: Sequence[str]
    sources: Sequence[str]
    splits: NDArray[np.int8]
    """(M,) index into SPLITS."""
    first_row: NDArray[np.int64]
    """(M,) row of the document's first vector."""
    rows: NDArray[np.integer[Any]]
    """(M,) number of vectors."""
    group: NDArray[np.integer[Any]]
    """(M,) number of the document's group."""

    def __len__(self) -> int:
        return len(self.first_row)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Return the rows (R,) of all documents of a split, ascending."""
        is_split_M = self.splits == SPLITS.index(split)
        first, rows = self.first_row[is_split_M], self.rows[is_split_M]
        # Row numbers jump where documents of other splits were left out.
        jumps = first - (np.cumsum(rows) - rows)
        numbers: NDArray[np.int64] = np.repeat(jumps, rows) + np.arange(rows.sum())
        return numbers


class StoredTexts(Sequence[str]):
    """A column of texts of a Parquet file, read by row group. Raises StoreError if a row group can't be read."""

    def __init__(self, file: Path, column: str, ends: tuple[int, ...]) -> None:
        self._file, self._column, self._ends = file, column, ends
        self._read = lru_cache(CACHED_GROUPS)(self._read_group)

    def _read_group(self, group: int) -> Any:
        """Return the texts of a row group as an Arrow array."""
        try:
            return parquet().ParquetFile(self._file).read_row_group(group, columns=[self._column])[self._column]
        except (OSError, KeyError, ValueError) as error:
            raise _unreadable(self._file, error) from error

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # raises IndexError, and counts a negative number from the end
        group = int(np.searchsorted(self._ends, number, side="right"))
        text: str = self._read(group)[number - (self._ends[group - 1] if group else 0)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for group in range(len(self._ends)):
            yield from self._read(group).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StoredTexts({str(self._file)!r}, {self._column!r}, {len(self)} texts)"

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredTexts, (self._file, self._column, self._ends)


def read_documents(file: Path, vectors: int) -> DocumentTable:
    """Read documents.parquet of a store with that many vectors. Raises StoreError if it is damaged."""
    where = f"store {file.parent}: {file.name}"
    try:
        source = parquet().ParquetFile(file)
        columns = _read_numbers(source, vectors)
        sizes = [source.metadata.row_group(group).num_rows for group in range(source.num_row_groups)]
        names = [source.schema_arrow.field(name).name for name in ("id", "title", "source")]
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(file, error) from error
    if columns is None:
        raise StoreError(f"{where} does not cover the rows in order. Build the store again.")
    first_M, rows_M = columns[1], columns[2]
    total = int(first_M[-1]) + int(rows_M[-1]) if len(rows_M) else 0
    if total != vectors:
        raise StoreError(f"{where} has {total} rows, but there are {vectors} vectors. Build the store again.")
    ends = tuple(np.cumsum(sizes).tolist())
    ids, titles, sources = (StoredTexts(file, name, ends) for name in names)
    return DocumentTable(ids, titles, sources, *columns)


def _read_numbers(source: Any, vectors: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Return split, first row, rows and group of the documents; None if they do not cover the rows in order."""
    count = source.metadata.num_rows
    # The smallest types that hold the values: with a table of 50 million documents, they save half of the memory.
    split_M, first_M = np.empty(count, np.int8), np.empty(count, np.int64)
    rows_M = np.empty(count, np.int32 if vectors < 2**31 else np.int64)
    group_M: NDArray[Any] = np.empty(count, np.int32)
    start = row = 0
    names = ["split", "first_row", "rows", "group"]
    # By row group: `iter_batches` would keep the columns of all row groups in memory, 0.7 GB of that table.
    for group in range(source.num_row_groups):
        table = source.read_row_group(group, columns=names, use_threads=False).combine_chunks()
        if not len(table):
            continue
        split, first_B, rows_B, group_B = (table[name].chunk(0) for name in names)
        first_B, rows_B, group_B = (column.to_numpy() for column in (first_B, rows_B, group_B))
        # Documents must cover the rows 0 … N - 1 in order: windows are found by arithmetic on these columns.
        expected_B = row + np.cumsum(rows_B) - rows_B
        if rows_B.min() < 1 or (first_B != expected_B).any():
            return None
        if group_M.dtype == np.int32 and group_B.max() >= 2**31:
            group_M = group_M.astype(np.int64)
        block = slice(start, start + len(rows_B))
        encoded = split.dictionary_encode()
        numbers = np.array([SPLITS.index(name) for name in encoded.dictionary.to_pylist()], np.int8)
        split_M[block] = numbers[encoded.indices.to_numpy()]
        first_M[block], rows_M[block], group_M[block] = first_B, rows_B, group_B
        start, row = block.stop, int(first_B[-1] + rows_B[-1])
    return split_M, first_M, rows_M, group_M


def _unreadable(file: Path, error: Exception) -> StoreError:
    """Return the error of a file that Arrow refuses."""
    return StoreError(f"store {file.parent}: {file.name} can't be read ({one_line(error)}). Build the store again.")


def parquet() -> Any:
    """Return `pyarrow.parquet`, imported on first use: a report opens no store and need not load it."""
    import pyarrow.parquet as pq

    return pq
