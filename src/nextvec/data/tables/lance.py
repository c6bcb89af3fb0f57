"""Read and write Lance tables (folders ``NAME.lance``) with the package lancedb."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from nextvec.core.files import sync_folder, writing
from nextvec.core.locks import unfinished
from nextvec.data.store import unfinished_folder
from nextvec.data.store.writer import require_new
from nextvec.errors import MissingExtraError, NextvecError, StoreError, one_line

LANCE = ".lance"
_TABLE = "table"
"""Name of a table while it is written, because LanceDB restricts names more than filesystems do."""
_BATCH_ROWS = 1024


def open_lance(path: Path) -> Any:
    """Open a Lance table. Raises StoreError if it is missing or damaged, MissingExtraError without lancedb."""
    lancedb = _import_lancedb(path)
    if not path.is_dir():
        raise StoreError(f"{path}: no such Lance table. Name a folder that ends in {LANCE}.")
    try:
        table = lancedb.connect(path.resolve().parent).open_table(path.resolve().name.removesuffix(LANCE))
    except Exception as error:  # lancedb raises ValueError, RuntimeError and OSError for a damaged table
        reason = "not a Lance table" if "not found" in str(error) else one_line(error)
        raise StoreError(f"{path}: can't be read: {reason}. Copy or make the table again.") from error
    if not table.count_rows():
        raise StoreError(f"{path}: has no rows. Check that it is the right table.")
    return table


def read_lance(table: Any, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of some columns in the order of the table."""
    try:
        yield from table.search().select(list(columns)).to_batches(batch_size=_BATCH_ROWS)
    except Exception as error:  # as in `open_lance`
        if isinstance(error, NextvecError):
            raise
        raise StoreError(f"{table.name}{LANCE}: can't be read: {one_line(error)}. Make the table again.") from error


def write_lance(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a Lance table, which appears in one step. Raises OutputError if `path` exists or cannot be written."""
    lancedb = _import_lancedb(path)
    folder = unfinished_folder(path)
    busy = f"{folder}: another process is writing it. Wait until it ends, or choose another output."
    with unfinished(folder, busy, discard=True):
        require_new(path)
        with writing(path):
            try:
                reader = pa.RecordBatchReader.from_batches(schema, batches)
                lancedb.connect(folder).create_table(_TABLE, reader)
            except (RuntimeError, ValueError) as error:  # a full disk, among others
                raise OSError(one_line(error)) from error
            # LanceDB does not wait until its files are on disk.
            _sync_files(folder)
            require_new(path)
            (folder / f"{_TABLE}{LANCE}").rename(path)
            folder.rmdir()
        sync_folder(path.parent)


def _sync_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _import_lancedb(path: Path) -> Any:
    """Import lancedb. Raises MissingExtraError without it."""
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError("lancedb", "lancedb", f"the Lance table {path}") from error
    return lancedb
