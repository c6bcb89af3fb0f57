"""Open tables of vectors, which are read one batch of rows at a time: parquet, Lance, and Hugging Face datasets.

vectors.parquet, a folder of such files, or a pattern such as 'part-*.parquet'
chunks.lance                                a LanceDB table (extra lancedb)
hf:owner/name[:config[:split]]              a dataset of the hub, or a folder that `datasets` can load (extra hub)
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.core.paths import readable_name
from nextvec.data.readers._common import reading
from nextvec.data.readers.files import list_folder
from nextvec.data.readers.huggingface import read_hub_batches
from nextvec.data.readers.parquet_files import require_bounds
from nextvec.data.tables.lance import LANCE, open_lance, read_lance
from nextvec.errors import StoreError, one_line

PARQUET, HUB = ".parquet", "hf:"
BATCH_ROWS = 1024
"""Rows that are in memory together: 3 MB of 768-D float32 vectors, and their texts."""
_KINDS = f"Name a table of vectors ({PARQUET}, {LANCE}, {HUB}owner/name, or a folder), or an .npz file of windows."

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class TableSource:
    """A table that is open for reading."""

    name: str
    """As the user wrote it, for messages."""
    label: str
    """Default source of its documents."""
    schema: pa.Schema
    rows: int | None
    """Number of rows; None if it is unknown until all are read."""
    read: Callable[[Sequence[str]], Batches]
    """Return an iterator over the batches of some columns, in the order of the table."""


def open_table(name: str) -> TableSource:
    """Open a table.

    Raises StoreError or CorpusError if it is missing, damaged or empty, MissingExtraError without its package.
    """
    if name.startswith(HUB):
        return _open_hub(name)
    path = Path(name)
    if path.suffix == LANCE:
        table = open_lance(path)
        return TableSource(
            name, path.stem, table.schema, table.count_rows(), lambda columns: read_lance(table, columns)
        )
    return _open_parquet(name, _parquet_files(name))


def _open_hub(name: str) -> TableSource:
    """Open a dataset. Its schema is that of its first batch, because a streamed dataset may not know it."""
    label, batches = read_hub_batches(name, BATCH_ROWS)
    first = next(batches, None)
    if first is None:
        raise StoreError(f"{name}: has no rows. Check that it is the right dataset and split.")

    def read(columns: Sequence[str]) -> Batches:
        yield from first.select(list(columns)).to_batches()
        for table in batches:
            yield from table.select(list(columns)).to_batches()

    return TableSource(name, label, first.schema, None, read)


def _parquet_files(name: str) -> list[Path]:
    """Return the files that a name stands for: a file, all parquet files in a folder, or those of a pattern."""
    path = Path(name)
    if path.is_dir():
        files = [path / file for file in list_folder(path).files if file.endswith(PARQUET)]
        if not files:
            raise StoreError(f"{name}: has no {PARQUET} file. Name a table of vectors, or use 'nextvec data build'.")
        return files
    if path.is_file():
        if path.suffix != PARQUET:
            raise StoreError(f"{name}: the format '{path.suffix}' is unknown. {_KINDS}")
        return [path]
    # A file of that very name comes first, because names may contain brackets.
    files = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207 - Path.glob refuses absolute patterns
    if not files:
        reason = "no file matches this pattern" if glob.has_magic(name) else "no such file or folder"
        raise StoreError(f"{name}: {reason}. {_KINDS}")
    return files


def _open_parquet(name: str, files: Sequence[Path]) -> TableSource:
    """Read the footers of all files. Raises StoreError if one is damaged or empty, or lacks a column of the first."""
    rows = 0
    schema: pa.Schema | None = None
    for file in files:
        metadata = _read_footer(file)
        columns = metadata.schema.to_arrow_schema()
        schema = columns if schema is None else schema
        for field in schema:
            # Types may differ in width, such as int32 and int64, but not a column of vectors from one of text.
            if field.name not in columns.names:
                raise StoreError(
                    f"{file}: has no column '{field.name}', which {files[0]} has. Remove one of the files."
                )
        rows += metadata.num_rows
    if schema is None or not rows:
        raise StoreError(f"{name}: has no rows. Check that it is the right table.")
    label = readable_name(files[0].stem if len(files) == 1 else Path(name).name)
    return TableSource(name, label, schema, rows, lambda columns: _read_parquet(files, list(columns)))


def _read_footer(file: Path) -> pq.FileMetaData:
    """Return a parquet file's footer. Raises StoreError if it is unreadable, or its data are implausibly compressed."""
    with reading(file):
        file.stat()  # pyarrow's error about a missing file has two lines
    try:
        metadata = pq.read_metadata(file)
        require_bounds(file, metadata)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: not a readable parquet file: {one_line(error)}. Copy it again.") from error
    return metadata


def _read_parquet(files: Sequence[Path], columns: list[str]) -> Batches:
    """Yield the batches of all files in order. Memory holds a row group of compressed data."""
    for path in files:
        rows = 0
        try:
            with pq.ParquetFile(path) as file:
                # Group by group: pyarrow keeps what it has read until an iteration ends.
                for group in range(file.num_row_groups):
                    batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False)
                    for batch in batches:
                        rows += batch.num_rows
                        yield batch.select(columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: can't be read after row {rows:,}: {one_line(error)}. Copy it again.") from error
