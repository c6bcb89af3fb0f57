"""Documents from rows with named fields: .jsonl, .jsonl.gz, .parquet; hub datasets use the same rules."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nextvec.data.documents import Columns, Document
from nextvec.data.readers._common import MAX_DOCUMENT_BYTES, bomb_message, is_bomb, one_line, reading
from nextvec.data.readers.text import split_paragraphs
from nextvec.errors import CorpusError

_ROWS_AT_A_TIME = 256


def read_jsonl(path: Path, columns: Columns) -> Generator[Document, None, None]:
    """The documents of a .jsonl or .jsonl.gz file, one a line; empty lines are passed over.

    Raises CorpusError that names file and line for broken JSON, wrong fields, a repeated id or a truncated file.
    """
    reader = RowReader(path.name[: path.name.lower().rindex(".jsonl")], columns)
    for number, line in _lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip())
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where}: not valid UTF-8 (byte {error.start:,} of the line)") from error
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not valid JSON: {error.msg} (column {error.colno:,})") from error
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not readable JSON: {one_line(error)}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: a line must be a JSON object with named fields, this is {type(row).__name__}")
        if not reader.checked:
            reader.check(row, where)
        yield reader.document(row, number, where)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a plain or gzipped file, numbered from 1."""
    number = 0
    packed = path.name.lower().endswith(".gz")
    with reading(path), gzip.open(path, "rb") if packed else path.open("rb") as file:
        try:
            while line := file.readline(MAX_DOCUMENT_BYTES):
                number += 1
                if len(line) == MAX_DOCUMENT_BYTES:
                    raise CorpusError(
                        f"{path}, line {number}: longer than {MAX_DOCUMENT_BYTES:,} bytes; divide the document"
                    )
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            place = f"after line {number:,}" if number else "at its start"
            raise CorpusError(
                f"{path}: truncated or damaged {place} ({one_line(error)}); copy or download it again"
            ) from error


def read_parquet(path: Path, columns: Columns) -> Generator[Document, None, None]:
    """The documents of a .parquet file, one a row, read in batches. Raises CorpusError as `read_jsonl` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = RowReader(path.stem, columns)
    number = 0
    try:
        metadata = pq.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
        reader.check(names, str(path))
        wanted = [name for name in reader.names if name in names]
        _require_bounds(path, metadata)
        leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # As dictionaries, so that a text that stands in every row takes its space once.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=wanted):
                for offset in range(batch.num_rows):
                    (values,) = batch.slice(offset, 1).to_pylist()
                    number += 1
                    yield reader.document(values, number, f"{path}, row {number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        place = f" after row {number:,}" if number else ""
        raise CorpusError(f"{path}: not a readable parquet file{place}: {one_line(error)}") from error


def _require_bounds(path: Path, metadata: Any) -> None:
    """Raise CorpusError if a column of a parquet file unpacks to far more than it is."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if is_bomb(packed, unpacked):
                raise CorpusError(f"{path}: column {column.path_in_schema} has {bomb_message(packed, unpacked)}")


class RowReader:
    """Makes documents of rows by the names in `columns`, and refuses an id that comes twice."""

    def __init__(self, default_source: str, columns: Columns) -> None:
        self.default_source, self.columns = default_source, columns
        self.checked = False
        # Who names a text field of their own means it, whatever else is there.
        self._text_named = columns.text != Columns().text and columns.paragraphs == Columns().paragraphs
        self._ids: set[bytes] = set()

    @property
    def names(self) -> list[str]:
        """The fields that are read."""
        names = self.columns
        fields = (names.id, names.title, names.text, names.paragraphs, names.source, names.group)
        return [name for name in dict.fromkeys(fields) if name]

    def check(self, found: Iterable[str], where: str) -> None:
        """Raise CorpusError if the fields `found` (of the first row or the schema) lack one that is needed."""
        self.checked = True
        present, standard = set(found), Columns()
        found_names = ", ".join(sorted(present)) or "none"
        if self.columns.text not in present and self.columns.paragraphs not in present:
            raise CorpusError(
                f"{where}: no field '{self.columns.text}' or '{self.columns.paragraphs}'; fields there: {found_names}; "
                "say which one holds the text with --columns text=NAME (or paragraphs=NAME for a list)"
            )
        for role in ("id", "title", "text", "paragraphs", "source", "group"):
            name = getattr(self.columns, role)
            if name != getattr(standard, role) and name not in present:
                raise CorpusError(f"{where}: no field '{name}' (columns.{role}); fields there: {found_names}")

    def document(self, row: Mapping[str, Any], number: int, where: str) -> Document:
        """The document of a row; `number` counts rows from 1 and names a document without id."""
        columns = self.columns
        document_id = self._label(row, columns.id, where) or f"{self.default_source}-{number}"
        digest = hashlib.blake2b(document_id.encode(), digest_size=8).digest()
        if digest in self._ids:
            raise CorpusError(f"{where}: id '{document_id}' was there before; ids must name one document each")
        self._ids.add(digest)
        if columns.group and columns.group not in row:
            raise CorpusError(f"{where}: no field '{columns.group}' (columns.group); every row needs it")
        return Document(
            document_id,
            self._label(row, columns.title, where) or document_id,
            self._label(row, columns.source, where) or self.default_source,
            self._paragraphs(row, where),
            self._label(row, columns.group, where) if columns.group else "",
        )

    def _paragraphs(self, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """Given paragraphs stay as they are, empty ones too: vectors made elsewhere may be lined up with them."""
        columns = self.columns
        listed = None if self._text_named else row.get(columns.paragraphs)
        text = row.get(columns.text)
        if isinstance(listed, list) and all(isinstance(paragraph, str) for paragraph in listed):
            return tuple(_encodable(paragraph) for paragraph in listed)
        if listed is not None:
            raise CorpusError(
                f"{where}: '{columns.paragraphs}' must be a list of texts; for one text give its name as columns.text"
            )
        if isinstance(text, str):
            return tuple(split_paragraphs(_encodable(text)))
        if text is not None:
            raise CorpusError(
                f"{where}: '{columns.text}' must be a text, this is {type(text).__name__}; "
                "for a list of texts give its name as columns.paragraphs"
            )
        if columns.paragraphs in row or columns.text in row:
            return ()
        raise CorpusError(f"{where}: no field '{columns.text}' or '{columns.paragraphs}'; fields: {', '.join(row)}")

    def _label(self, row: Mapping[str, Any], name: str, where: str) -> str:
        """A short field (id, title …) as text; "" if it is missing or null."""
        value = row.get(name)
        if value is None:
            return ""
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _encodable(str(value))
        raise CorpusError(f"{where}: '{name}' must be a text or a whole number, this is {type(value).__name__}")


def _encodable(text: str) -> str:
    """`text` with halves of surrogate pairs, which JSON may hold and UTF-8 may not, replaced."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
