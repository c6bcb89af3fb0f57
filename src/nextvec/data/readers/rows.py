"""Turn rows with named fields into documents: one per row, or one per value of a column.

Every tabular format, and the hub, yields `Row`s; the same rules and messages apply to all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nextvec.data.documents import Columns, Document
from nextvec.data.readers.grouping import RowGroups
from nextvec.data.readers.text import split_paragraphs
from nextvec.errors import CorpusError


class Row(NamedTuple):
    """A row of a tabular source."""

    number: int
    """Counted from 1; for lines of JSON the number of the line. It names a document without an id."""
    where: str
    """File and row, for messages."""
    values: Mapping[str, Any]


class MissingTextError(CorpusError):
    """A table has no column of text. In a folder of documents, such a file is skipped."""


class RowReader:
    """Makes documents from the rows of one source by the names in `columns`; refuses duplicate and empty ids."""

    def __init__(self, default_source: str, columns: Columns) -> None:
        self.default_source, self.columns = default_source, columns
        # If only `text` is renamed, it takes precedence over a field `paragraphs`.
        self._prefers_text = columns.text != Columns().text and columns.paragraphs == Columns().paragraphs
        self._ids: set[bytes] = set()
        self._groups = RowGroups(columns)

    @property
    def names(self) -> list[str]:
        """Names of the fields that are read."""
        names = self.columns
        fields = (
            names.id, names.title, names.text, names.paragraphs, names.source, names.group, names.group_by,
            names.order_by,
        )  # fmt: skip
        return [name for name in dict.fromkeys(fields) if name]

    def check(self, fields: Iterable[str], where: str) -> None:
        """Raise CorpusError if a required field is missing from `fields` (of the first row, header or schema)."""
        names = list(fields)
        present, standard = set(names), Columns()
        field_names = ", ".join(sorted(present)) or "none"
        if self.columns.text not in present and self.columns.paragraphs not in present:
            raise MissingTextError(
                f"{where}: has no field '{self.columns.text}' or '{self.columns.paragraphs}' (fields: {field_names}). "
                "Name the field of the text with --columns text=NAME, or paragraphs=NAME for a list."
            )
        # A field that the user renamed must exist; default names are optional.
        for role in ("id", "title", "text", "paragraphs", "source", "group", "group_by", "order_by"):
            name = getattr(self.columns, role)
            option = f"--{role.replace('_', '-')}" if role.endswith("_by") else "--columns"
            if name != getattr(standard, role) and name not in present:
                raise CorpusError(f"{where}: has no field '{name}' for {role} (fields: {field_names}). Fix {option}.")
        for name in self.names:
            if names.count(name) > 1:
                raise CorpusError(f"{where}: has {names.count(name)} columns with the name '{name}'. Rename them.")

    def read(self, rows: Iterable[Row], prefix: str) -> Iterator[Document]:
        """Yield the document of each row; `prefix` and the row's number are its id if it has none.

        With `Columns.group_by`, rows are only collected; `grouped` then yields their documents.
        """
        for row in rows:
            if self.columns.group_by:
                self._collect(row)
            else:
                yield self._document(row, prefix)

    def grouped(self) -> Iterator[Document]:
        """Yield the documents of the rows that were collected, in the order of their first rows."""
        yield from self._groups.documents()

    def add_id(self, document_id: str, where: str) -> None:
        """Count an id as used. Raises CorpusError if another document of the source has it."""
        # Remember 8 bytes of each id instead of the id.
        digest = hashlib.blake2b(document_id.encode(), digest_size=8).digest()
        if digest in self._ids:
            raise CorpusError(
                f"{where}: duplicate id '{document_id}'. Make the ids unique, or name the column that all rows of a "
                "document share with --group-by."
            )
        self._ids.add(digest)

    def _document(self, row: Row, prefix: str) -> Document:
        columns, values, where = self.columns, row.values, row.where
        document_id = self._label(row, columns.id, required=columns.id in values) or f"{prefix}-{row.number}"
        self.add_id(document_id, where)
        if columns.group and columns.group not in values:
            raise CorpusError(f"{where}: has no field '{columns.group}' for group. Add it to every row.")
        return Document(
            document_id,
            self._label(row, columns.title) or document_id,
            self._label(row, columns.source) or self.default_source,
            self._paragraphs(row),
            self._label(row, columns.group) if columns.group else "",
        )

    def _collect(self, row: Row) -> None:
        """Add a row to the document that its `group_by` field names."""
        columns = self.columns
        document_id = self._label(row, columns.group_by, required=True)
        if not document_id:
            raise CorpusError(f"{row.where}: '{columns.group_by}' is null. Name the row's document in that field.")
        self._groups.add(
            Document(
                document_id,
                self._label(row, columns.title),
                self._label(row, columns.source) or self.default_source,
                self._paragraphs(row),
                self._label(row, columns.group) if columns.group else "",
            ),
            row.values.get(columns.order_by) if columns.order_by else 0,
            row.where,
        )

    def _paragraphs(self, row: Row) -> tuple[str, ...]:
        """Return the paragraphs of a row; empty ones of a list are kept, to align with precomputed embeddings."""
        columns, values = self.columns, row.values
        # A list of paragraphs wins over a text, unless the user named only the text's field.
        listed = None if self._prefers_text else values.get(columns.paragraphs)
        text = values.get(columns.text)
        if listed is not None:
            return tuple(map(encodable, self._texts(row, listed)))
        if isinstance(text, str):
            return tuple(split_paragraphs(encodable(text)))
        if text is not None:
            advice = (
                "Name a list of texts with --columns paragraphs=NAME."
                if isinstance(text, list)
                else "Name a field of texts with --columns text=NAME."
            )
            raise CorpusError(f"{row.where}: '{columns.text}' is {describe(text)}, not a text. {advice}")
        if columns.paragraphs in values or columns.text in values:
            return ()
        fields = ", ".join(values)
        raise CorpusError(
            f"{row.where}: has no field '{columns.text}' or '{columns.paragraphs}' (fields: {fields}). Add one."
        )

    def _texts(self, row: Row, listed: object) -> list[str]:
        """Return a list of texts. Raises CorpusError that describes what the field has instead."""
        name = self.columns.paragraphs
        if not isinstance(listed, list):
            advice = (
                f"Name a single text with --columns text={name}."
                if isinstance(listed, str)
                else "Name a list of texts with --columns paragraphs=NAME, or a single text with --columns text=NAME."
            )
            raise CorpusError(f"{row.where}: '{name}' is {describe(listed)}, not a list of texts. {advice}")
        for position, value in enumerate(listed, start=1):
            if not isinstance(value, str):
                advice = (
                    "Remove it, or write an empty text."
                    if value is None
                    else "Name a list of texts with --columns paragraphs=NAME."
                )
                raise CorpusError(
                    f"{row.where}: '{name}' is not a list of texts: item {position} is {describe(value)}. {advice}"
                )
        return listed

    def _label(self, row: Row, name: str, *, required: bool = False) -> str:
        """Return a short field (id, title …) as text; "" if it is missing or null. A required one is not empty."""
        value = row.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise CorpusError(
                f"{row.where}: '{name}' is {describe(value)}, but must be a text or an integer. Fix the row."
            )
        label = encodable(str(value))
        if required and not label.strip():
            raise CorpusError(f"{row.where}: '{name}' is empty. Give every row a value.")
        return label


def describe(value: object) -> str:
    """Describe a value that is not a text in the words of the file formats: "a struct (fields id, text)"."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"a struct (fields {', '.join(map(str, value))})"
    if isinstance(value, list | tuple):
        return "a list of lists" if value and isinstance(value[0], list | tuple) else "a list"
    if isinstance(value, bytes):
        return f"bytes ({len(value):,} of them)"
    if isinstance(value, str):
        return "a single text"
    return f"a {type(value).__name__} ({str(value)[:40]})"


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
