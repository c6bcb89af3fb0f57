"""Import tables of vectors as a store; nothing is encoded.

A table is read once, into staged files. Then its rows are sorted by document and position, rows that cannot be used are
left out and counted, and the rest is written. A table that nextvec exported gives back the same store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import progress, show
from nextvec.core.files import sha256_of
from nextvec.data.npz.layout import Roles
from nextvec.data.space import UNKNOWN
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DocumentTable, Store
from nextvec.data.store.lost_rows import (
    ALLOWED_SHARE,
    LostRows,
    describe_lost,
    lost_by_name,
    require_balance,
    require_few_lost,
    require_share,
)
from nextvec.data.store.vectors import SHARD_BYTES
from nextvec.data.store.writer import (
    create_vectors,
    finish_store,
    require_new,
    unfinished_store,
    write_documents,
    write_texts,
)
from nextvec.data.tables.documents import DocumentList
from nextvec.data.tables.origin import Origin, read_origin
from nextvec.data.tables.positions import Positions
from nextvec.data.tables.roles import find_columns
from nextvec.data.tables.rows import StoredRows, TableRows, require_splits, select_rows
from nextvec.data.tables.sources import TableSource, open_table
from nextvec.data.tables.spaces import SpaceClaim, decide_space
from nextvec.data.tables.staging import StagedRows
from nextvec.data.tables.vector_column import VectorColumn
from nextvec.errors import StoreError, did_you_mean

MIN_CHUNKS = 2
"""Chunks of the shortest document that is stored by default: in a document of one chunk, nothing can be predicted."""
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class TableImport:
    """How tables are imported. Raises InputError for values that cannot be used."""

    sources: Mapping[str, str]
    """Split → name of its table; see `sources.open_table`. Documents of train without a split are divided by `val`."""
    columns: Roles = field(default_factory=dict)
    """Names of the columns of each role; see `roles.COLUMN_NAMES`."""
    encoder: str = UNKNOWN
    """Name of the encoder that made the vectors. It is verified if the tables have texts and it is available."""
    val: float = 0.1
    """Fraction of train's documents that become val, unless the table has splits or there is a val table."""
    dtype: str | None = None
    """Number format of the stored vectors. None: that of the tables, with float64 as float32."""
    min_chunks: int | None = None
    """Minimum number of chunks of a document. None: MIN_CHUNKS, or 1 for an exported store."""
    allow_lost_rows: float = ALLOWED_SHARE
    """Largest share of the rows that may be lost."""

    def __post_init__(self) -> None:
        require_share(self.allow_lost_rows)
        for split in self.sources:
            if split not in SPLITS:
                raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
        if not self.sources:
            raise StoreError("nothing to import. Name a table of vectors.")
        if self.min_chunks is not None and self.min_chunks < 1:
            raise StoreError(f"min_chunks is {self.min_chunks}, but must be at least 1.")

    @property
    def plan(self) -> SplitPlan:
        """How the documents of train are divided, as far as the tables do not say."""
        return SplitPlan(val=0.0 if "val" in self.sources or "train" not in self.sources else self.val)


@dataclass(frozen=True)
class _Table:
    """An open table of a split."""

    split: str
    source: TableSource
    roles: Roles
    origin: Origin | None
    """The store that it was exported from; None if another tool wrote it, or if columns were named."""


def import_table(config: TableImport, out: Path, *, quiet: bool = False) -> Store:
    """Import tables of vectors, one per split, as the store `out`.

    Rows are sorted by document and position. Rows are lost if their vector, document or position is missing or
    unusable, if their vector repeats that of another row, or if their document has fewer than `min_chunks` chunks. A
    document ends at a lost row, so that no window crosses the gap.

    Raises StoreError for tables that are missing, damaged or malformed, or that would lose more than `allow_lost_rows`
    of their rows; SpaceError if the named encoder did not make the vectors; OutputError if `out` exists or cannot be
    written.
    """
    require_new(out)
    tables = [_open(split, config.sources[split], config.columns) for split in SPLITS if split in config.sources]
    is_exported = all(table.origin is not None for table in tables)
    min_chunks = config.min_chunks or (1 if is_exported else MIN_CHUNKS)
    with unfinished_store(out) as folder:
        staged = StagedRows(folder, _stored_dtype(tables, config.dtype), _has_texts(tables), scale=not is_exported)
        try:
            rows = _stage(staged, tables, keeps_gaps=is_exported, quiet=quiet)
            stored = select_rows(rows, config.plan, min_chunks=min_chunks, is_exported=is_exported)
            lost = stored.lost(staged.dimensions, min_chunks)
            _require_rows(config, tables, stored, lost)
            row_K = staged.numbers(stored.row_K)
            space = decide_space(config.encoder, [table.origin for table in tables], staged, row_K)
            origin = tables[0].origin if len(tables) == 1 else None
            shard_bytes = origin.shard_bytes if origin else SHARD_BYTES
            _write(folder, staged, stored.documents, row_K, shard_bytes, quiet=quiet)
        finally:
            staged.remove()
        counts, facts = _describe(config, tables, staged, stored, lost, space)
        if origin is not None and not space.settings and origin.is_equal_to(_checksums(folder)):
            # Every byte is that of the exported store, so its provenance is that of this one.
            counts, facts = origin.manifest["counts"], origin.facts
            show(origin.notices(tables[0].source.name), quiet=quiet)
        return finish_store(folder, out, space.space, counts, **facts)


def _open(split: str, name: str, columns: Roles) -> _Table:
    source = open_table(name)
    roles = find_columns(name, source.schema, columns)
    origin = None if columns else read_origin(name, source.schema)
    return _Table(split, source, roles, origin)


def _has_texts(tables: list[_Table]) -> bool:
    return any("text" in table.roles for table in tables)


def _stored_dtype(tables: list[_Table], dtype: str | None) -> np.dtype[Any]:
    """Return the number format of the store: float16 or float32. Raises StoreError for columns of another kind."""
    types = [
        VectorColumn.of_type(
            f"{table.source.name}: column '{table.roles['vectors']}'",
            table.source.schema.field(table.roles["vectors"]).type,
        ).dtype
        for table in tables
    ]
    if dtype is not None:
        return np.dtype(dtype)
    return np.dtype(np.float16 if all(kind == np.float16 for kind in types) else np.float32)


def _stage(staged: StagedRows, tables: list[_Table], *, keeps_gaps: bool, quiet: bool) -> TableRows:
    """Read all tables once."""
    documents: list[tuple[str, DocumentList]] = []
    ranks: list[NDArray[np.int64]] = []
    missing: list[NDArray[np.bool_]] = []
    first_row = 0
    for table in tables:
        source, roles = table.source, table.roles
        listed = DocumentList(source.name, source.label, roles, first_row)
        positions = Positions(source.name, roles.get("chunk"))
        with progress(f"reading {source.label}", source.rows, unit="rows", quiet=quiet) as task:
            first_document = sum(len(earlier) for _, earlier in documents)
            for rows in staged.add(source, roles, listed, positions, first_document):
                task.advance(rows)
        documents.append((table.split, listed))
        rank_N, missing_N = positions.ranks()
        ranks.append(rank_N)
        missing.append(missing_N)
        first_row += positions.rows
    staged.finish()
    columns = (staged.column(name) for name in ("document", "status", "hash"))
    document_N, status_N, hash_N = columns
    has_rank_N = ~np.concatenate(missing)
    return TableRows(documents, document_N, np.concatenate(ranks), has_rank_N, status_N, hash_N, keeps_gaps)


def _require_rows(config: TableImport, tables: list[_Table], stored: StoredRows, lost: list[LostRows]) -> None:
    """Raise StoreError if too many rows are lost, or if train or val would be empty."""
    where, read = _names(tables), len(stored.fate_N)
    require_balance(where, read, len(stored.row_K), sum(loss.rows for loss in lost))
    if not read:
        raise StoreError(f"{where}: has no rows. Check that it is the right table.")
    # Documents that are shorter than the user asked for are not lost by accident.
    is_asked = config.min_chunks is not None and len(stored.row_K) > 0
    limited = [loss for loss in lost if not (is_asked and loss.name == "short_document")]
    require_few_lost(where, "rows", read, limited, config.allow_lost_rows)
    if not any("split" in table.roles for table in tables):
        require_splits(where, stored.documents, config.plan)


def _write(
    folder: Path,
    staged: StagedRows,
    documents: DocumentTable,
    row_K: NDArray[np.int64],
    shard_bytes: int,
    *,
    quiet: bool,
) -> None:
    """Write vectors, documents and texts of the stored rows into the store's folder, a block at a time."""
    blocks = [row_K[start : start + _BLOCK_ROWS] for start in range(0, len(row_K), _BLOCK_ROWS)]
    with (
        create_vectors(folder, len(row_K), staged.dimensions, staged.dtype, shard_bytes) as writer,
        progress("writing vectors", len(row_K), unit="rows", quiet=quiet) as task,
    ):
        for number, block in enumerate(blocks):
            writer.write(np.arange(number * _BLOCK_ROWS, number * _BLOCK_ROWS + len(block)), staged.vectors(block))
            task.advance(len(block))
    write_documents(folder, documents)
    if staged.has_texts:
        write_texts(folder, map(staged.texts, blocks))


def _checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a store without a manifest."""
    return {file.name: sha256_of(file) for file in folder.iterdir() if file.is_file()}


def _describe(
    config: TableImport,
    tables: list[_Table],
    staged: StagedRows,
    stored: StoredRows,
    lost: list[LostRows],
    space: SpaceClaim,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the counts and the other entries of the manifest."""
    read, documents = len(stored.fate_N), stored.documents
    counts = {
        "rows_read": read,
        "chunks": len(stored.row_K),
        "documents": len(documents),
        "documents_cut": stored.documents_cut,
        "scaled_to_unit_length": staged.scaled,
        "splits": {
            split: {
                "documents": int((documents.splits == number).sum()),
                "chunks": int(documents.rows[documents.splits == number].sum()),
            }
            for number, split in enumerate(SPLITS)
        },
    }
    notices = [*describe_lost(_names(tables), "rows", read, lost), *space.notices]
    if staged.scaled:
        notices.append(f"{staged.scaled:,} of {staged.usable:,} vectors were scaled to unit length")
    facts = {
        "origin": "table",
        "sources": {table.split: table.source.name for table in tables},
        "columns": {table.split: table.roles for table in tables},
        "split": config.plan.to_dict(),
        "lost_rows": lost_by_name(lost),
        "notices": notices,
        "has_documents": True,
    }
    return counts, facts | ({"encoder": space.settings} if space.settings else {})


def _names(tables: list[_Table]) -> str:
    return ", ".join(table.source.name for table in tables)
