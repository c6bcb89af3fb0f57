"""The index of a LanceDB table: nearest vectors by its approximate index, filters, and the texts behind rows.

A row is LanceDB's row id at the version at which the table was opened. A later change of the table makes another
version, so that the rows of an open index never change.

Letters in names: Q queries, N rows, D dimensions, K results.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextvec.data.space import Space
from nextvec.errors import InputError, SpaceError, StoreError
from nextvec.inference.index_types import IndexedChunk, spread
from nextvec.inference.lancedb_columns import space_of_columns
from nextvec.inference.lancedb_table import (
    DIGEST,
    VECTOR,
    complete_version,
    connect,
    is_built_by_nextvec,
    lancedb_errors,
    open_latest,
    reason_of,
    space_of,
)
from nextvec.inference.store_filter import filter_error, require_one_condition
from nextvec.inference.table_name import COLUMN_ROLES, TableName, parse_table_name

MIN_PROBES, PROBED_SHARE = 40, 0.1
"""Partitions of the approximate index that a search reads: a tenth of the square root of the rows, at least 40."""
REFINE_FACTOR = 2
"""Candidates per result whose stored vectors are compared exactly."""
MAX_EXACT_ROWS = 20_000
"""A filter that keeps at most so many rows is searched exactly: the approximate index would find too few of them."""


class LanceIndex:
    """The index of a LanceDB table at one version. Its searches are exact if the table has no vector index."""

    def __init__(self, table: Any, name: TableName, space: Space, columns: dict[str, str], where: str = "") -> None:
        """Make an index of the rows of a checked-out table that match `where`; `columns` maps roles to columns."""
        self._table, self._name, self._space, self._columns = table, name, space, columns
        self._where = where
        with lancedb_errors(name):
            self._count = int(table.count_rows(where or None))
            self._metric = _metric_of(table, columns["vector"])
            self._probes = max(MIN_PROBES, round(PROBED_SHARE * int(table.count_rows()) ** 0.5))

    @property
    def space(self) -> Space:
        """Embedding space of the vectors."""
        return self._space

    @property
    def name(self) -> str:
        """The name of the table."""
        return str(self._name)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self._count

    def search(
        self, queries: NDArray[np.float32], k: int, exclude: Collection[int] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows and cosines (Q, K) of the nearest chunks to the queries (Q, D); see `Index.search`."""
        if queries.ndim != 2 or queries.shape[1] != self._space.dimensions:
            raise SpaceError(
                f"{self.name}: has {self._space.dimensions}-D vectors, but the queries have the shape {queries.shape}. "
                "Use an index of the model's space."
            )
        if k < 1:
            raise InputError(f"k is {k}, but must be at least 1.")
        # Excluded rows are dropped from a longer list of results.
        excluded = np.fromiter(exclude, np.int64, len(exclude))
        count = min(k, max(len(self) - len(excluded), 0))
        rows_QK, scores_QK = np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
        if count == 0 or not len(queries):
            return rows_QK, scores_QK
        is_exact = bool(self._where) and len(self) <= MAX_EXACT_ROWS
        results = self._nearest(queries, count + len(excluded), is_exact)
        for query, (rows_N, scores_N) in enumerate(results):
            is_kept = ~np.isin(rows_N, excluded)
            if is_kept.sum() < count:
                # The partitions that were read have too few rows that match.
                rows_N, scores_N = self._nearest(queries[query : query + 1], count + len(excluded), True)[0]
                is_kept = ~np.isin(rows_N, excluded)
            rows_QK[query], scores_QK[query] = rows_N[is_kept][:count], scores_N[is_kept][:count]
        return rows_QK, scores_QK

    def _nearest(
        self, queries: NDArray[np.float32], count: int, is_exact: bool
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return rows and cosines of up to `count` nearest chunks per query, the nearest first."""
        column = self._columns["vector"]
        with lancedb_errors(self._name):
            search = self._table.search(queries, vector_column_name=column).distance_type(self._metric).limit(count)
            search = search.select([column, "_distance"]).with_row_id(True)
            if self._where:
                search = search.where(self._where, prefilter=True)
            if is_exact:
                search = search.bypass_vector_index()
            else:
                search = search.nprobes(self._probes).refine_factor(REFINE_FACTOR)
            found = search.to_arrow()
        rows = found["_rowid"].to_numpy().astype(np.int64)
        vectors = _as_matrix(found[column], self._space.dimensions)
        numbers = found["query_index"].to_numpy() if "query_index" in found.column_names else np.zeros(len(rows), int)
        results = []
        for number, query_D in enumerate(queries):
            own = np.flatnonzero(numbers == number)
            # Cosines of the stored vectors, so that scores do not depend on the index or its metric.
            scores = vectors[own] @ query_D
            order = np.argsort(-scores, kind="stable")
            results.append((rows[own][order], scores[order]))
        return results

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N rows."""
        column = self._columns["vector"]
        taken = self._take(rows, [column])
        vectors_ND = _as_matrix(taken[column], self._space.dimensions)
        unit_ND: NDArray[np.float32] = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return unit_ND

    def chunks(self, rows: Sequence[int]) -> list[IndexedChunk]:
        """Return the texts of rows and their places in their documents."""
        columns = {role: column for role, column in self._columns.items() if role != "vector"}
        taken = self._take(rows, sorted(set(columns.values())))
        values = {role: taken[column].to_pylist() for role, column in columns.items()}

        def text_of(role: str, number: int) -> str:
            value = values[role][number] if role in values else None
            return "" if value is None else str(value)

        positions = values.get("position", [None] * len(rows))
        return [
            IndexedChunk(
                row=int(row),
                text=text_of("text", number),
                document=text_of("document", number),
                title=text_of("title", number),
                position=None if positions[number] is None else int(positions[number]),
            )
            for number, row in enumerate(rows)
        ]

    def _take(self, rows: Sequence[int], columns: list[str]) -> pa.Table:
        """Return columns of rows, in the order of `rows`."""
        wanted = np.asarray(rows, np.int64)
        with lancedb_errors(self._name):
            # LanceDB returns each row once, in its own order.
            taken = self._table.take_row_ids(np.unique(wanted).tolist()).select(columns).with_row_id().to_arrow()
        ids = taken["_rowid"].to_numpy().astype(np.int64)
        order = np.argsort(ids)
        return taken.take(order[np.searchsorted(ids, wanted, sorter=order)])

    def sample(self, count: int) -> list[int]:
        """Return at most `count` rows, spread over the index."""
        offsets = spread(np.arange(len(self)), count)
        with lancedb_errors(self._name):
            query = self._table.search().select([self._columns["vector"]])
            if self._where:
                query = query.where(self._where)
            found = [query.offset(int(offset)).limit(1).with_row_id(True).to_arrow()["_rowid"] for offset in offsets]
        return [int(row) for rows in found for row in rows.to_pylist()]

    def filter(self, where: str) -> LanceIndex:
        """Return the index of the rows that match an SQL condition on the table's columns.

        Raises InputError if LanceDB refuses the condition.
        """
        require_one_condition(where)
        filtered = copy.copy(self)
        filtered._where = f"({self._where}) AND ({where})" if self._where else where
        try:
            filtered._count = int(self._table.count_rows(filtered._where))
        except Exception as error:  # the library raises ValueError, RuntimeError and its own types
            columns = tuple(column for column in self._table.schema.names if column not in (VECTOR, DIGEST))
            raise filter_error(where, self.name, reason_of(error), columns) from error
        return filtered


def open_table_index(source: str) -> LanceIndex:
    """Return the index of a LanceDB table by its name; see `parse_table_name`.

    Raises StoreError if there is no such table, it is not complete, or its vectors cannot be used.
    """
    name = parse_table_name(source)
    table = open_latest(connect(name), name)
    if table is None:
        raise StoreError(f"index {name}: there is no such table. Make it with 'nextvec index build STORE --to {name}'.")
    if not is_built_by_nextvec(table):
        return _open_table_of_others(table, name)
    if name.columns:
        raise InputError(f"index {name}: nextvec built this table and knows its columns. Leave out '?vector=…'.")
    with lancedb_errors(name):
        version = complete_version(table)
        if version is None:
            raise StoreError(f"index {name}: its build was interrupted. Run the same 'nextvec index build' again.")
        table.checkout(version)
    columns = {role: VECTOR if role == "vector" else role for role in COLUMN_ROLES}
    return LanceIndex(table, name, space_of(table, name), columns)


def _open_table_of_others(table: Any, name: TableName) -> LanceIndex:
    """Return the index of a table that nextvec did not build, after checks of its columns and vectors."""
    with lancedb_errors(name):
        table.checkout(table.version)
        space = space_of_columns(table, name)
    return LanceIndex(table, name, space, name.columns)


def _metric_of(table: Any, column: str) -> str:
    """Return the metric of a table's vector index. For unit vectors all of them give the same order."""
    for index in table.list_indices():
        if list(index.columns) == [column]:
            statistics = table.index_stats(index.name)
            return str(statistics.distance_type or "dot")
    return "dot"


def _as_matrix(column: pa.ChunkedArray, dimensions: int) -> NDArray[np.float32]:
    """Return a column of fixed-size lists as float32 (N, D)."""
    values = column.combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dimensions)
