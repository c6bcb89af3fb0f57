"""Read documents from rows with named fields: .jsonl, .jsonl.gz, .parquet; hub datasets use the same rules."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.data.documents import Columns, Document
from nextvec.data.readers._common import MAX_DOCUMENT_BYTES, bomb_message, is_bomb, reading
from nextvec.data.readers.text import split_paragraphs
from nextvec.errors import CorpusError, one_line

_BATCH_ROWS = 256


def read_jsonl(path: Path, columns: Columns) -> Generator[Document, None, None]:
    """Read the documents of a .jsonl or .jsonl.gz file, one per line; empty lines are skipped.

    Raises CorpusError with file and line for invalid JSON, wrong fields, a duplicate id or a truncated file.
    """
    reader = RowReader(path.name[: path.name.lower().rindex(".jsonl")], columns)
    for number, line in _lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            # Only the first line may start with a byte order mark.
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip())
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{where}: not valid UTF-8 (byte {error.start:,} of the line). Save the file as UTF-8."
            ) from error
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{where}: not valid JSON: {error.msg} (column {error.colno:,}). Fix the line."
            ) from error
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not readable JSON: {one_line(error)}. Fix the line.") from error
        if not isinstance(row, dict):
            raise CorpusError(
                f"{where}: is a {type(row).__name__}, but must be a JSON object with named fields. Fix the line."
            )
        if not reader.checked:
            reader.check(row, where)
        yield reader.document(row, number, where)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a plain or gzipped file, numbered from 1."""
    number = 0
    packed = path.name.lower().endswith(".gz")
    with reading(path), gzip.open(path, "rb") if packed else path.open("rb") as file:
        try:
            while line := file.readline(MAX_DOCUMENT_BYTES):
                number += 1
                if len(line) == MAX_DOCUMENT_BYTES:
                    raise CorpusError(
                        f"{path}, line {number}: longer than {MAX_DOCUMENT_BYTES:,} bytes. Divide the document."
                    )
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            position = f"after line {number:,}" if number else "at its start"
            raise CorpusError(
                f"{path}: truncated or damaged {position} ({one_line(error)}). Copy or download it again."
            ) from error


def read_parquet(path: Path, columns: Columns) -> Generator[Document, None, None]:
    """Read the documents of a .parquet file, one per row. Raises CorpusError like `read_jsonl`."""
    reader = RowReader(path.stem, columns)
    number = 0
    try:
        # Check names and sizes in the footer, before any data is decompressed.
        metadata = pq.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
        reader.check(names, str(path))
        wanted = [name for name in reader.names if name in names]
        _require_bounds(path, metadata)
        leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # Read texts as dictionaries, so that a text that is equal in all rows is in memory once.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                # Convert one row at a time, because a text that is equal in all rows becomes a separate string in each.
                for offset in range(batch.num_rows):
                    (values,) = batch.slice(offset, 1).to_pylist()
                    number += 1
                    yield reader.document(values, number, f"{path}, row {number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        position = f" after row {number:,}" if number else ""
        raise CorpusError(
            f"{path}: not a readable parquet file{position}: {one_line(error)}. Copy it again."
        ) from error


def _require_bounds(path: Path, metadata: Any) -> None:
    """Raise CorpusError if a column of a parquet file has an implausible compression ratio."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            sizes = column.total_compressed_size, column.total_uncompressed_size
            if is_bomb(*sizes):
                raise CorpusError(
                    f"{path}: column {column.path_in_schema}: {bomb_message(*sizes)}. It is unsafe to read."
                )


class RowReader:
    """Maker of documents from rows by the names in `columns`; refuses duplicate ids."""

    def __init__(self, default_source: str, columns: Columns) -> None:
        self.default_source, self.columns = default_source, columns
        self.checked = False
        # If only `text` is renamed, it takes precedence over a field `paragraphs`.
        self._prefers_text = columns.text != Columns().text and columns.paragraphs == Columns().paragraphs
        self._ids: set[bytes] = set()

    @property
    def names(self) -> list[str]:
        """Names of the fields that are read."""
        names = self.columns
        fields = (names.id, names.title, names.text, names.paragraphs, names.source, names.group)
        return [name for name in dict.fromkeys(fields) if name]

    def check(self, fields: Iterable[str], where: str) -> None:
        """Raise CorpusError if a required field is missing from `fields` (of the first row or the schema)."""
        self.checked = True
        present, standard = set(fields), Columns()
        field_names = ", ".join(sorted(present)) or "none"
        if self.columns.text not in present and self.columns.paragraphs not in present:
            raise CorpusError(
                f"{where}: has no field '{self.columns.text}' or '{self.columns.paragraphs}' (fields: {field_names}). "
                "Name the field of the text with --columns text=NAME, or paragraphs=NAME for a list."
            )
        # A field that the user renamed must exist; default names are optional.
        for role in ("id", "title", "text", "paragraphs", "source", "group"):
            name = getattr(self.columns, role)
            if name != getattr(standard, role) and name not in present:
                raise CorpusError(f"{where}: has no field '{name}' for {role} (fields: {field_names}). Fix --columns.")

    def document(self, row: Mapping[str, Any], number: int, where: str) -> Document:
        """Return the document of a row; `number` counts rows from 1 and names a document without an id."""
        columns = self.columns
        document_id = self._label(row, columns.id, where) or f"{self.default_source}-{number}"
        # Remember 8 bytes of each id instead of the id.
        digest = hashlib.blake2b(document_id.encode(), digest_size=8).digest()
        if digest in self._ids:
            raise CorpusError(f"{where}: duplicate id '{document_id}'. Make the ids unique.")
        self._ids.add(digest)
        if columns.group and columns.group not in row:
            raise CorpusError(f"{where}: has no field '{columns.group}' for group. Add it to every row.")
        return Document(
            document_id,
            self._label(row, columns.title, where) or document_id,
            self._label(row, columns.source, where) or self.default_source,
            self._paragraphs(row, where),
            self._label(row, columns.group, where) if columns.group else "",
        )

    def _paragraphs(self, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """Return the paragraphs of a row; empty ones of a list are kept, to align with precomputed embeddings."""
        columns = self.columns
        # A list of paragraphs wins over a text, unless the user named only the text's field.
        listed = None if self._prefers_text else row.get(columns.paragraphs)
        text = row.get(columns.text)
        if isinstance(listed, list) and all(isinstance(paragraph, str) for paragraph in listed):
            return tuple(_encodable(paragraph) for paragraph in listed)
        if listed is not None:
            raise CorpusError(
                f"{where}: '{columns.paragraphs}' is not a list of texts. Name a single text with --columns text=NAME."
            )
        if isinstance(text, str):
            return tuple(split_paragraphs(_encodable(text)))
        if text is not None:
            raise CorpusError(
                f"{where}: '{columns.text}' is a {type(text).__name__}, not a text. "
                "Name a list of texts with --columns paragraphs=NAME."
            )
        if columns.paragraphs in row or columns.text in row:
            return ()
        fields = ", ".join(row)
        raise CorpusError(
            f"{where}: has no field '{columns.text}' or '{columns.paragraphs}' (fields: {fields}). Add one."
        )

    def _label(self, row: Mapping[str, Any], name: str, where: str) -> str:
        """Return a short field (id, title …) as text; "" if it is missing or null."""
        value = row.get(name)
        if value is None:
            return ""
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _encodable(str(value))
        raise CorpusError(
            f"{where}: '{name}' is a {type(value).__name__}, but must be a text or an integer. Fix the row."
        )


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
