"""Export a store as a parquet file or a Lance table: one row per chunk, with its vector as a fixed-size list."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.core.console import Task, progress
from nextvec.core.files import write_atomic
from nextvec.data.splits import SPLITS
from nextvec.data.store import CHUNKS, ChunkTexts, DocumentTable, Store
from nextvec.data.store.vectors import read_rows
from nextvec.data.store.writer import require_new
from nextvec.data.tables.lance import LANCE, write_lance
from nextvec.data.tables.origin import KEY, describe_origin
from nextvec.data.tables.roles import DOCUMENT, GROUP, POSITION, SOURCE, SPLIT, TEXT, TITLE, VECTOR
from nextvec.errors import StoreError

BATCH_ROWS = 1024
"""Rows that are in memory together, and those of a block of texts in a store."""
GROUP_BYTES = 32 * 2**20
"""Approximate size of the vectors of a row group. Readers load at least a row group."""

_LABELS = (DOCUMENT, TITLE, SOURCE, SPLIT)


def export_table(store: Store, out: Path, *, quiet: bool = False) -> Path:
    """Write all rows of a store in order as a parquet file or a Lance table, by the suffix of `out`; return `out`.

    Columns: document, title, source, split, group, position (in its document), text (if the store has texts) and
    vector. The schema's metadata contain the manifest, from which an import restores the store. The result appears in
    one step. Raises StoreError for documents that share an id, OutputError if `out` exists or cannot be written.
    """
    require_new(out)
    documents = store.documents
    if len(set(documents.ids)) < len(documents):
        name = next(name for name, group in itertools.groupby(sorted(documents.ids)) if len(list(group)) > 1)
        raise StoreError(f"store {store.name}: has several documents with the id '{name:.60}'. Build the store again.")
    schema = _schema(store)
    with progress("writing rows", len(store.vectors), unit="rows", quiet=quiet) as task:
        batches = _batches(store, documents, schema, task)
        if out.suffix == LANCE:
            write_lance(out, schema, batches)
        else:
            write_atomic(out, lambda file: _write_parquet(file, schema, batches), new=True)
    return out


def _schema(store: Store) -> pa.Schema:
    labels = [(name, pa.string()) for name in _LABELS]
    texts = [(TEXT, pa.string())] if store.has_texts else []
    numbers = pa.float16() if store.vectors.dtype == np.float16 else pa.float32()
    columns = [*labels, (GROUP, pa.int64()), (POSITION, pa.int64()), *texts]
    return pa.schema([*columns, (VECTOR, pa.list_(numbers, store.dimensions))], {KEY: describe_origin(store)})


def _batches(store: Store, documents: DocumentTable, schema: pa.Schema, task: Task) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a store, BATCH_ROWS at a time."""
    labels = _label_columns(documents)
    texts = _texts(store) if store.has_texts else itertools.repeat([])
    ends_M = documents.first_row + documents.rows
    for start in range(0, len(store.vectors), BATCH_ROWS):
        rows_B = np.arange(start, min(start + BATCH_ROWS, len(store.vectors)))
        # The document of each row is the first one that ends behind it.
        document_B = np.searchsorted(ends_M, rows_B, side="right")
        columns = {name: values.take(pa.array(document_B)) for name, values in labels.items()}
        columns[GROUP] = pa.array(documents.group[document_B], pa.int64())
        columns[POSITION] = pa.array(rows_B - documents.first_row[document_B], pa.int64())
        if store.has_texts:
            columns[TEXT] = pa.array(next(texts), pa.string())
        columns[VECTOR] = _vector_column(read_rows(store.path, store.vector_layout, start, start + len(rows_B)))
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)
        task.advance(len(rows_B))


def _label_columns(documents: DocumentTable) -> dict[str, pa.Array]:
    """Return id, title, source and split of the documents (M,)."""
    splits = [SPLITS[int(split)] for split in documents.splits]
    columns = (documents.ids, documents.titles, documents.sources, splits)
    return {name: pa.array(values, pa.string()) for name, values in zip(_LABELS, columns, strict=True)}


def _vector_column(vectors: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])


def _texts(store: Store) -> Iterator[list[str]]:
    """Yield the texts of a store, BATCH_ROWS at a time, whatever the size of its blocks."""
    stored = ChunkTexts(store.path / CHUNKS)
    texts = (text for block in range(len(stored.blocks)) for text in stored.read_block(block))
    while batch := list(itertools.islice(texts, BATCH_ROWS)):
        yield batch


def _write_parquet(file: IO[bytes], schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Write row groups of about GROUP_BYTES. Vectors are stored as they are, because they hardly compress."""
    row_bytes = schema.field(VECTOR).type.list_size * schema.field(VECTOR).type.value_type.bit_width // 8
    batches_of_group = max(1, GROUP_BYTES // (row_bytes * BATCH_ROWS))
    others = [name for name in schema.names if name != VECTOR]
    compression = {**dict.fromkeys(others, "zstd"), f"{VECTOR}.list.element": "none"}
    with pq.ParquetWriter(file, schema, compression=compression, use_dictionary=others) as writer:
        while group := list(itertools.islice(batches, batches_of_group)):
            writer.write_table(pa.Table.from_batches(group, schema))
