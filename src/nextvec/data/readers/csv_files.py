"""Read rows from .csv and .tsv files: a header, then one row per record; a quoted field may contain line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from nextvec.data.readers._common import MAX_DOCUMENT_BYTES
from nextvec.data.readers.rows import MissingTextError, Row, RowReader
from nextvec.data.readers.streams import read_lines
from nextvec.errors import CorpusError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def read_csv(path: Path, reader: RowReader, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a file; an empty field counts as missing, except an empty id.

    Raises CorpusError with file, row and line for a quote without its end, a field that is too long, or a row with more
    or fewer fields than the header.
    """
    # The limit belongs to the process, and the default of 131,072 characters is shorter than a document.
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    records = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    while True:
        first_line = records.line_num + 1
        where = f"{path}, row {number + 1} (line {first_line:,})" if header else f"{path}, header"
        try:
            record = next(records, None)
        except csv.Error as error:
            raise CorpusError(f"{where}: not valid: {error}. Quote fields as RFC 4180 describes.") from error
        if record is None:
            return
        if not any(map(str.strip, record)):  # a blank line, or a row of empty fields
            continue
        if not header:
            header = [name.strip() for name in record]
            _check_header(reader, header, delimiter, str(path))
            continue
        number += 1
        if len(record) != len(header):
            raise CorpusError(
                f"{where}: has {len(record)} fields, but the header has {len(header)}. "
                f"Quote fields that contain {_NAMES[delimiter]}."
            )
        values = zip(header, record, strict=True)
        # An empty id is kept, and refused by the reader.
        named = {name: value if value or name == reader.columns.id else None for name, value in values}
        yield Row(number, where, named)


def _check_header(reader: RowReader, header: list[str], delimiter: str, where: str) -> None:
    """Check the columns. A file with another delimiter seems to have one column, and the message names the cause."""
    try:
        reader.check(header, where)
    except MissingTextError as error:
        for other, name in _NAMES.items():
            if len(header) == 1 and other in header[0]:
                raise CorpusError(
                    f"{where}: its fields are separated by {name}, not by {_NAMES[delimiter]}. "
                    "Use commas in .csv files and tabs in .tsv files."
                ) from error
        raise
