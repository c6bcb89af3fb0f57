"""Build and update the LanceDB table of a store.

Each step is one commit of LanceDB, which a kill leaves done or undone. The last step moves the tag COMPLETE to the new
version; until then, readers use the version of the last complete build. The next build continues from what it finds.

Letters in names: N chunks of the store, T rows of the table, B rows of a batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.core.display import Displayable
from nextvec.core.files import lock, make_folder
from nextvec.core.table import Line, View
from nextvec.data.space import require_same
from nextvec.data.splits import SPLITS
from nextvec.data.store import CHUNKS, ChunkTexts, Store
from nextvec.errors import OutputError, StoreError
from nextvec.inference.lancedb_table import (
    COMPLETE,
    DIGEST,
    STORE_HASH,
    TRAINED_ROWS,
    VECTOR,
    complete_version,
    connect,
    is_built_by_nextvec,
    lancedb_errors,
    make_schema,
    open_latest,
    space_of,
)
from nextvec.inference.table_name import TableName, parse_table_name

MIN_INDEXED_ROWS = 20_000
"""Smaller tables get no vector index: searching all their vectors is exact and takes milliseconds."""
MAX_GROWTH = 2
"""The partitions of a vector index are made again when the table has grown or shrunk by more than this factor."""
BATCH_ROWS = 1024
"""Rows that are read and written together, if the store has no texts in blocks."""
DELETED_AT_ONCE = 5_000
"""Rows of one delete, whose condition lists their digests."""


@dataclass(frozen=True)
class BuiltIndex(Displayable):
    """What a build did to a LanceDB table."""

    index: str
    """Name of the table, for `--index`."""
    rows: int
    added: int
    removed: int
    vector_index: str
    """Type of the vector index; empty if the table is searched exactly."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def view(self) -> View:
        """Return one line on the table and one on the changes."""
        kind = f"vector index {self.vector_index}" if self.vector_index else "searched exactly"
        if self.added or self.removed:
            change = f"added {self.added:,} rows, removed {self.removed:,}, in {self.seconds:.1f} s"
        else:
            change = "the table already equals the store; nothing changed"
        return View(
            (Line(f"{self.index}: {self.rows:,} chunks, {kind}", style="path"), Line(change, style="note")),
        )


def build_index(store: Store, to: str, *, quiet: bool = False) -> BuiltIndex:
    """Make the LanceDB table of a store, or update it: add new chunks, and remove those that the store lacks.

    `to` is ``lancedb:DIR#TABLE`` or a folder or URI. Raises StoreError if the table belongs to something else,
    SpaceError if it has another embedding space, OutputError if another build is writing.
    """
    begin = time.monotonic()
    name = parse_table_name(to)
    if name.columns:
        raise StoreError(f"index {name}: a table of a store has fixed columns. Leave out '?vector=…'.")
    if not len(store.vectors):
        raise StoreError(f"store {store.name}: is empty, so there is nothing to index.")
    with _lock_folder(name):
        database = connect(name, create=True)
        table = _open_or_create(database, name, store)
        with lancedb_errors(name):
            added, removed = 0, 0
            if not _is_equal(table, store):
                added, removed = _update(table, name, store, quiet)
            kind = _index_type(table)
    return BuiltIndex(str(name), len(store.vectors), added, removed, kind, time.monotonic() - begin)


@contextmanager
def _lock_folder(name: TableName) -> Iterator[None]:
    """Lock the folder of a database during a build; a service has no lock, but `_update` counts its rows."""
    folder = name.folder
    if folder is None:
        yield
        return
    make_folder(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, f"index {name}: another 'nextvec index build' is writing to {folder}. Wait until it ends.")
        yield
    finally:
        os.close(handle)


def _open_or_create(database: Any, name: TableName, store: Store) -> Any:
    """Return the table to update, which may be new and empty."""
    table = open_latest(database, name)
    if table is None:
        with lancedb_errors(name):
            return database.create_table(name.table, schema=make_schema(store.space))
    if not is_built_by_nextvec(table):
        raise StoreError(f"index {name}: nextvec did not build this table and does not change it. Choose another name.")
    require_same(space_of(table, name), store.space, f"index {name} and store {store.name}")
    return table


def _is_equal(table: Any, store: Store) -> bool:
    """Return whether the latest version of a table is a complete build of this store."""
    return complete_version(table) == table.version and _metadata(table).get(STORE_HASH) == _hash_of(store)


def _hash_of(store: Store) -> str:
    """Return a hash of all files of a store; `store_hash` leaves out the texts."""
    return hashlib.sha256(json.dumps(store.manifest["files"], sort_keys=True).encode()).hexdigest()


def _update(table: Any, name: TableName, store: Store, quiet: bool) -> tuple[int, int]:
    """Make a table equal to a store; return the numbers of added and removed rows."""
    with progress("comparing", len(store.vectors), unit="chunks", quiet=quiet) as task:
        digest_N = np.empty(len(store.vectors), np.int64)
        for start, batch in _batches(store, table.schema):
            digest_N[start : start + len(batch)] = batch[DIGEST].to_numpy()
            task.advance(len(batch))
    # Rows that occur twice, after a race of two builds on a service, are removed and added again.
    digest_T, count_T = np.unique(_table_digests(table), return_counts=True)
    is_valid_T = np.isin(digest_T, digest_N) & (count_T == 1)
    vanished = digest_T[~is_valid_T]
    is_new_N = ~np.isin(digest_N, digest_T[is_valid_T])
    _delete(table, vanished, everything=not is_valid_T.any())
    if is_new_N.any():
        with progress("writing", int(is_new_N.sum()), unit="chunks", quiet=quiet) as task:

            def new_batches() -> Iterator[pa.RecordBatch]:
                for _, batch in _batches(store, table.schema, is_new_N):
                    task.advance(len(batch))
                    yield batch

            table.add(pa.RecordBatchReader.from_batches(table.schema, new_batches()))
    trained = _index_vectors(table)
    if table.count_rows() != len(store.vectors):
        raise OutputError(f"index {name}: another process changed the table at the same time. Run the command again.")
    metadata = {STORE_HASH: _hash_of(store), TRAINED_ROWS: str(trained)}
    table.update_field_metadata({"path": VECTOR, "metadata": metadata})
    # From here on, readers use the new version.
    if complete_version(table) is None:
        table.tags.create(COMPLETE, table.version)
    else:
        table.tags.update(COMPLETE, table.version)
    return int(is_new_N.sum()), int(count_T[~is_valid_T].sum())


def _batches(
    store: Store, schema: pa.Schema, is_wanted_N: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the first row and the wanted rows of each block of a store, read one block at a time."""
    documents = store.documents
    size = len(store.vectors)
    texts = ChunkTexts(store.path / CHUNKS) if store.has_texts else None
    blocks = texts.blocks if texts else [(start, min(start + BATCH_ROWS, size)) for start in range(0, size, BATCH_ROWS)]
    for block, (start, stop) in enumerate(blocks):
        row_B = np.arange(start, stop) if is_wanted_N is None else start + np.flatnonzero(is_wanted_N[start:stop])
        if not len(row_B):
            continue
        block_texts = texts.read_block(block) if texts else [""] * (stop - start)
        document_B = np.searchsorted(documents.first_row, row_B, side="right") - 1
        position_B = row_B - documents.first_row[document_B]
        vectors_BD = np.ascontiguousarray(store.vectors[row_B])
        numbers = document_B.tolist()
        columns = [
            [block_texts[row - start] for row in row_B.tolist()],
            [documents.ids[number] for number in numbers],
            [documents.titles[number] for number in numbers],
            [documents.sources[number] for number in numbers],
            [SPLITS[documents.splits[number]] for number in numbers],
        ]
        values = pa.array(vectors_BD.ravel().astype(np.float32))
        arrays = [
            pa.FixedSizeListArray.from_arrays(values, store.dimensions),
            *(pa.array(column, pa.string()) for column in columns),
            pa.array(position_B.astype(np.int32)),
            pa.array(_digests(vectors_BD, columns, position_B)),
        ]
        yield start, pa.RecordBatch.from_arrays(arrays, schema=schema)


def _digests(vectors_BD: NDArray[Any], columns: list[list[str]], position_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a 64-bit hash of each row's content, by which a table's row and a store's row are equal."""
    digests = []
    for vector_D, position, *texts in zip(vectors_BD, position_B.tolist(), *columns, strict=True):
        digest = hashlib.blake2b(vector_D.tobytes(), digest_size=8)
        # Lengths separate the texts: moving a word from one to the next changes the hash.
        digest.update("\0".join([str(position), *(f"{len(text)} {text}" for text in texts)]).encode())
        digests.append(int.from_bytes(digest.digest(), "little", signed=True))
    return np.array(digests, np.int64)


def _table_digests(table: Any) -> NDArray[np.int64]:
    """Return the digest (T,) of each row of a table."""
    batches = table.search().select([DIGEST]).to_batches()
    digests = [batch[DIGEST].to_numpy(zero_copy_only=False) for batch in batches]
    return np.concatenate([np.empty(0, np.int64), *digests])


def _delete(table: Any, digests: NDArray[np.int64], *, everything: bool) -> None:
    """Delete rows of a table by their digests."""
    if everything and len(digests):
        table.delete("true")
        return
    for start in range(0, len(digests), DELETED_AT_ONCE):
        chosen = digests[start : start + DELETED_AT_ONCE].tolist()
        table.delete(f"{DIGEST} IN ({', '.join(map(str, chosen))})")


def _index_vectors(table: Any) -> int:
    """Compact a table and bring its vector index up to date; return for how many rows its partitions were made."""
    rows = table.count_rows()
    trained = int(_metadata(table).get(TRAINED_ROWS, 0))
    # Adds new rows to the index, and removes files of untagged versions that are older than seven days.
    table.optimize()
    has_index = bool(_index_type(table))
    if rows < MIN_INDEXED_ROWS or (has_index and rows / MAX_GROWTH <= trained <= rows * MAX_GROWTH):
        return trained
    from lancedb.index import IvfSq

    # Vectors have unit length, so the dot product is the cosine.
    config = IvfSq(distance_type="dot", num_partitions=int(rows**0.5))
    table.create_index(VECTOR, config=config, replace=True)
    return int(rows)


def _metadata(table: Any) -> dict[str, str]:
    """Return what the last build recorded in the metadata of the column of vectors."""
    metadata = table.schema.field(VECTOR).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _index_type(table: Any) -> str:
    """Return the type of a table's vector index, or an empty text."""
    return next((str(index.index_type) for index in table.list_indices() if list(index.columns) == [VECTOR]), "")
