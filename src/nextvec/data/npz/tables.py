"""Import tables of vectors: one row per chunk, with its document and, if known, its place in it.

Letters in names: N rows of a file, M documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.core.console import progress
from nextvec.data.npz.files import TableFile
from nextvec.data.npz.relink import Chains, Ints, digest_rows, group_chains, number_vectors
from nextvec.data.npz.vectors import to_unit_length
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DocumentTable, Store
from nextvec.data.store.writer import create_vectors, finish_store, unfinished_store, write_documents
from nextvec.errors import StoreError


def import_tables(
    files: Mapping[str, TableFile],
    out: Path,
    plan: SplitPlan,
    dtype: DTypeLike | None,
    quiet: bool,
    space: Space,
    facts: dict[str, Any],
) -> Store:
    """Import a table for each split as the store `out`; the train table's documents are divided by the plan.

    Documents that share a vector are in one group, and so in one split. Raises StoreError if a vector is zero or not
    finite, a place occurs twice in a document, or there are too few groups for train and val.
    """
    stored_dtype = np.result_type(*(file.vectors.view_dtype or file.vectors.dtype for file in files.values()))
    tables = [_documents(split, file, plan, stored_dtype) for split, file in files.items()]
    table, row_N = _join([part for part, _ in tables]), [row_N for _, row_N in tables]
    splits = {SPLITS[split] for split in set(table.splits.tolist())}
    if plan.val > 0 and "train" in files and not {"train", "val"} <= splits:
        groups = len(np.unique(table.group))
        raise StoreError(
            f"{files['train'].path}: its {groups} groups of documents are too few for train and {plan.val:.0%} val, "
            "because they share vectors or are few. Name a val file with --val-file, or change the fraction with --val."
        )
    with unfinished_store(out) as folder:
        scaled, first = 0, 0
        with (
            create_vectors(folder, int(table.rows.sum()), space.dimensions, dtype or stored_dtype) as writer,
            progress("writing vectors", int(table.rows.sum()), unit="vectors", quiet=quiet) as task,
        ):
            for file, rows in zip(files.values(), row_N, strict=True):
                for start, block in file.vectors.blocks():
                    places = np.arange(start, start + len(block))
                    values, count = to_unit_length(block, file.vectors, places, "row")
                    writer.write(first + rows[places], values)
                    scaled += count
                    task.advance(len(block))
                first += len(rows)
        write_documents(folder, table)
        counts = {
            "vectors": int(table.rows.sum()),
            "documents": len(table),
            "groups": int(table.group.max()) + 1,
            "scaled_to_unit_length": scaled,
        }
        notices = [notice for file in files.values() for notice in file.notices]
        return finish_store(folder, out, space, counts, **facts, notices=notices)


def _documents(split: str, file: TableFile, plan: SplitPlan, dtype: np.dtype[Any]) -> tuple[DocumentTable, Ints]:
    """Return the documents of a file, and the row (N,) of each of its vectors in document order."""
    # Number the documents in the order of their first rows.
    labels, first_N, inverse_N = np.unique(file.documents, return_index=True, return_inverse=True)
    number_M = np.empty(len(labels), np.int64)
    order_M = np.argsort(first_N)
    number_M[order_M] = np.arange(len(labels))
    document_N = number_M[inverse_N]
    # Sort by document, then by place; rows without a place keep the order of the file.
    place_N = np.arange(len(document_N)) if file.chunks is None else np.asarray(file.chunks)
    order_N = np.lexsort((place_N, document_N))
    if file.chunks is not None:
        same = np.flatnonzero((np.diff(document_N[order_N]) == 0) & (place_N[order_N][1:] == place_N[order_N][:-1]))
        if len(same):
            first, second = sorted(order_N[same[0] : same[0] + 2].tolist())
            raise StoreError(
                f"{file.path}: rows {first} and {second} have the same place in the same document "
                f"({len(same):,} such pairs). Number the chunks of each document."
            )
    row_N = np.empty(len(order_N), np.int64)
    row_N[order_N] = np.arange(len(order_N))
    rows_M = np.bincount(document_N)
    group_M = _groups(file, document_N, rows_M, dtype)
    names = [
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in labels[order_M].tolist()
    ]
    # The split of a group follows from the id of its first document.
    first_M = np.unique(group_M, return_index=True)[1]
    split_G = [plan.split_of(names[first], "") if split == "train" else split for first in first_M]
    splits = np.array([SPLITS.index(split_G[group]) for group in group_M], np.int8)
    sources = [file.path.name] * len(names)
    return DocumentTable(names, [""] * len(names), sources, splits, np.cumsum(rows_M) - rows_M, rows_M, group_M), row_N


def _groups(file: TableFile, document_N: Ints, rows_M: Ints, dtype: np.dtype[Any]) -> Ints:
    """Return the group (M,) of each document: documents that share a vector are in one."""
    digests = [digest_rows(np.ascontiguousarray(block, dtype)) for _, block in file.vectors.blocks()]
    numbers_N, _ = number_vectors(np.concatenate(digests))
    # Each document is a chain, and each row a window of one vector.
    chains = Chains(document_N, np.zeros_like(document_N), rows_M)
    unknown = np.full(len(document_N), -1)
    return group_chains(numbers_N[:, None], chains, np.zeros_like(document_N), unknown)[0]


def _join(tables: list[DocumentTable]) -> DocumentTable:
    """Return one table of the documents of all files; ids that occur twice get the file's number."""
    first_row, group = [], []
    rows, groups = 0, 0
    for table in tables:
        first_row.append(table.first_row + rows)
        group.append(table.group + groups)
        rows += int(table.rows.sum())
        groups += int(table.group.max()) + 1
    ids = [name for table in tables for name in table.ids]
    joined: tuple[NDArray[Any], ...] = tuple(
        np.concatenate(columns)
        for columns in ([table.splits for table in tables], first_row, [table.rows for table in tables], group)
    )
    return DocumentTable(
        ids,
        [title for table in tables for title in table.titles],
        [source for table in tables for source in table.sources],
        *joined,
    )
