"""Read rows from .parquet files: only the columns that are needed, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.data.readers._common import bomb_message, is_bomb, reading
from nextvec.data.readers.rows import Row, RowReader
from nextvec.errors import CorpusError, one_line

_BATCH_ROWS = 256


def read_parquet(path: Path, reader: RowReader) -> Iterator[Row]:
    """Yield the rows of a file. Raises CorpusError for wrong columns, an implausible compression ratio or damage."""
    number = 0
    with reading(path):
        path.stat()  # pyarrow's error about a missing file has two lines
    try:
        # Check names and sizes in the footer, before any data is decompressed.
        metadata = pq.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
        reader.check(names, str(path))
        wanted = [name for name in reader.names if name in names]
        require_bounds(path, metadata)
        leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # Read texts as dictionaries, so that a text that is equal in all rows is in memory once.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                # Convert one row at a time, because a text that is equal in all rows becomes a separate string in each.
                for offset in range(batch.num_rows):
                    (values,) = batch.slice(offset, 1).to_pylist()
                    number += 1
                    yield Row(number, f"{path}, row {number}", values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        position = f" after row {number:,}" if number else ""
        raise CorpusError(
            f"{path}: not a readable parquet file{position}: {one_line(error)}. Copy it again."
        ) from error


def require_bounds(path: Path, metadata: Any) -> None:
    """Raise CorpusError if a column of a parquet file has an implausible compression ratio."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            sizes = column.total_compressed_size, column.total_uncompressed_size
            if is_bomb(*sizes):
                raise CorpusError(
                    f"{path}: column {column.path_in_schema}: {bomb_message(*sizes)}. It is unsafe to read."
                )
