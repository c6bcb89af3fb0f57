"""Decide which rows of a table are stored, and in which order.

A row that is lost leaves a gap: its document ends there, and what follows becomes another document of the same group,
as in a build from text. So no window crosses the gap.

Letters in names: N rows of all tables, L rows that have a place in a document, K rows that are stored, M documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import DocumentTable
from nextvec.data.store.lost_rows import LostRows
from nextvec.data.store.rows import RowTable, is_first_of_equals
from nextvec.data.tables.documents import DocumentList
from nextvec.data.tables.vector_column import NOT_FINITE, NULL, USABLE, WRONG_LENGTH, ZERO
from nextvec.errors import StoreError

Ints = NDArray[np.int64]

NO_DOCUMENT, NO_POSITION, REPEATED, SHORT, STORED = range(USABLE + 1, USABLE + 6)
"""Fates of a row besides the status of its vector."""

_REASONS = {
    NO_DOCUMENT: ("null_document", "have no document", "Fill the column, or name another: --columns document=NAME."),
    NO_POSITION: ("null_position", "have no position", "Fill the column, or name another: --columns chunk=NAME."),
    NULL: ("null_vector", "have a null vector", "Encode them, or name another column: --columns vectors=NAME."),
    WRONG_LENGTH: ("wrong_length", "have a vector of another length than {dimensions}", "Use vectors of one encoder."),
    NOT_FINITE: ("non_finite_vector", "have a vector with a value that is not finite", "Encode them again."),
    ZERO: ("zero_vector", "have a zero vector", "Encode them again; empty texts may be the cause."),
    REPEATED: ("repeated_vector", "have the vector of another row", "Remove repeated rows and texts from the table."),
    SHORT: (
        "short_document",
        "are in documents, or parts of documents, with fewer than {min_chunks} chunks",
        "Name the column that all rows of a document share with --columns document=NAME, or keep such documents with "
        "--min-chunks 1.",
    ),
}
"""Fate → key in the manifest, reason and remedy."""


@dataclass(frozen=True)
class TableRows:
    """The rows of the tables of an import, one entry each (N), and their documents."""

    documents: Sequence[tuple[str, DocumentList]]
    """Split (by the table's name) and documents of each table."""
    document_N: Ints
    """Number of the row's document among those of all tables; -1: none."""
    rank_N: Ints
    """Sort key of the row in its document."""
    has_rank_N: NDArray[np.bool_]
    status_N: NDArray[np.int8]
    hash_N: NDArray[np.uint64]
    keeps_gaps: bool
    """Whether `rank_N` counts the chunks of a document, so that a missing number is a gap."""


@dataclass(frozen=True)
class StoredRows:
    """The rows that are stored."""

    documents: DocumentTable
    row_K: Ints
    """Number of the row in the tables."""
    fate_N: NDArray[np.int8]
    documents_cut: int
    """Number of documents that a lost row has added by cutting another."""

    def lost(self, dimensions: int, min_chunks: int) -> list[LostRows]:
        """Return the number of lost rows for each reason."""
        counts = np.bincount(self.fate_N, minlength=STORED + 1).tolist()
        return [
            LostRows(
                name, counts[fate], reason.format(dimensions=dimensions or "the others", min_chunks=min_chunks), remedy
            )
            for fate, (name, reason, remedy) in _REASONS.items()
        ]


def select_rows(rows: TableRows, plan: SplitPlan, *, min_chunks: int, is_exported: bool) -> StoredRows:
    """Sort the rows by document and position, drop what cannot be used or repeats a vector, and make the documents.

    Of rows with one vector, that of train is kept, or else the first. The rows of an exported store are all kept, in
    groups as they were. Raises StoreError for two rows with one place, or if a split that the plan asks for is empty.
    """
    fate_N = rows.status_N.copy()
    fate_N[~rows.has_rank_N] = NO_POSITION
    fate_N[rows.document_N < 0] = NO_DOCUMENT
    # Rows with a place, in the order of the store: of rows with one place the usable one first, then that of the table.
    placed_L = np.flatnonzero((rows.document_N >= 0) & rows.has_rank_N)
    keys = (fate_N[placed_L] != USABLE, rows.rank_N[placed_L], rows.document_N[placed_L])
    placed_L = _without_copies(rows, placed_L[np.lexsort(keys)], fate_N)
    document_L = rows.document_N[placed_L]
    position_L = rows.rank_N[placed_L] if rows.keeps_gaps else _count_within(document_L)
    # Usable rows as those of a build. The lost ones keep their positions, so that they are gaps.
    usable_L = fate_N[placed_L] == USABLE
    row_K = placed_L[usable_L]
    table = _row_table(rows, plan, document_L[usable_L], position_L[usable_L], is_exported)
    first_K = np.ones(len(row_K), bool)
    if not is_exported:
        first_K = is_first_of_equals(rows.hash_N[row_K], table.splits)
    kept_K = table.without_short_parts(first_K, min_chunks)
    fate_N[row_K] = np.where(kept_K, STORED, np.where(first_K, SHORT, REPEATED))
    kept = table.take(kept_K)
    documents = kept.document_table()
    documents_cut = len(documents) - len(np.unique(kept.document_N))
    if is_exported and len(rows.documents) == 1:
        documents = _restore_groups(documents, table, document_L[usable_L][kept_K])
    return StoredRows(documents, row_K[kept_K], fate_N, documents_cut)


def require_splits(where: str, documents: DocumentTable, plan: SplitPlan) -> None:
    """Raise StoreError if the plan sends documents to val, but train or val has none."""
    present = {SPLITS[split] for split in np.unique(documents.splits).tolist()}
    if plan.val > 0 and (missing := {"train", "val"} - present):
        raise StoreError(
            f"{where}: split {min(missing)} would be empty, because {len(documents):,} documents are too few for "
            f"{plan.val:.0%} val. Name a val table with --val-file, or change the fraction with --val."
        )


def _without_copies(rows: TableRows, placed_L: Ints, fate_N: NDArray[np.int8]) -> Ints:
    """Leave out rows with the place of the row before. Raises StoreError if both are usable, but differ."""
    documents, ranks = rows.document_N[placed_L], rows.rank_N[placed_L]
    same = np.flatnonzero((documents[1:] == documents[:-1]) & (ranks[1:] == ranks[:-1]))
    first, second = placed_L[same], placed_L[same + 1]
    differs = (fate_N[second] == USABLE) & (rows.hash_N[first] != rows.hash_N[second])
    if differs.any():
        pair = int(differs.argmax())
        table = _table_of(rows, int(documents[same[pair]]))
        numbers = sorted(int(row[pair]) - table.first_row + 1 for row in (first, second))
        raise StoreError(
            f"{table.where}: rows {numbers[0]:,} and {numbers[1]:,} have the same position in the same document, but "
            f"other vectors ({int(differs.sum()):,} such pairs). Name a column that numbers the chunks of a document "
            "with --columns chunk=NAME, or correct the column."
        )
    fate_N[second[fate_N[second] == USABLE]] = REPEATED
    return np.delete(placed_L, same + 1)


def _table_of(rows: TableRows, document: int) -> DocumentList:
    """Return the table of a document."""
    for _, documents in rows.documents:
        if document < len(documents):
            return documents
        document -= len(documents)
    raise IndexError(document)


def _count_within(document_L: Ints) -> Ints:
    """Number the rows of each document from 0; `document_L` is sorted."""
    rows_M = np.bincount(document_L)
    return np.arange(len(document_L)) - np.repeat(np.cumsum(rows_M) - rows_M, rows_M)


def _row_table(rows: TableRows, plan: SplitPlan, document_K: Ints, position_K: Ints, is_exported: bool) -> RowTable:
    """Return usable rows as those of a build, with the split of each document."""
    ids: list[str] = []
    titles: list[str] = []
    sources: list[str] = []
    keys: list[str] = []
    splits: list[str] = []
    origins: list[int] = []
    for number, (split, documents) in enumerate(rows.documents):
        attributes = documents.attributes
        ids += documents.ids
        fallback = [""] * len(documents) if is_exported else documents.ids
        titles += [title or name for title, name in zip(attributes["title"], fallback, strict=True)]
        table_sources = [source or documents.label for source in attributes["source"]]
        sources += table_sources
        # Documents of a group share a key, and so a split. Tables of other splits have documents of their own.
        groups = [group or name for group, name in zip(attributes["group"], documents.ids, strict=True)]
        keys += groups if split == "train" else [f"{split} {group}" for group in groups]
        named = [documents.split(document) for document in range(len(documents))]
        planned = assign_splits(groups, table_sources, plan) if split == "train" else [split] * len(documents)
        table_splits = [name or other for name, other in zip(named, planned, strict=True)]
        _require_whole_groups(documents.where, groups, table_splits)
        splits += table_splits
        origins += [number] * len(documents)
    split_M = np.array([SPLITS.index(split) for split in splits], np.int8)
    return RowTable(
        ids, titles, sources, keys, split_M, np.array(origins, np.int64), document_K, position_K, position_K
    )


def _require_whole_groups(where: str, groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raise StoreError if documents of a group are in different splits."""
    split_of: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if split_of.setdefault(group, split) != split:
            raise StoreError(
                f"{where}: group '{group:.60}' is in {split_of[group]} and {split}. Keep a group in one split."
            )


def _restore_groups(documents: DocumentTable, table: RowTable, document_K: Ints) -> DocumentTable:
    """Return the documents with the group numbers of the exported store."""
    numbers = [int(table.keys[document]) for document in document_K[documents.first_row].tolist()]
    return DocumentTable(
        documents.ids,
        documents.titles,
        documents.sources,
        documents.splits,
        documents.first_row,
        documents.rows,
        np.array(numbers, np.int64),
    )
