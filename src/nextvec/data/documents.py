"""The document, which every reader yields, and the names of its fields in tabular sources."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nextvec.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose paragraphs follow one another."""

    id: str
    """Unique within the corpus. Splits are drawn by a hash of it."""
    title: str
    source: str
    """The document's origin, by which splits can be made."""
    paragraphs: tuple[str, ...]
    """In the order of the source; some may be empty."""
    group: str = ""
    """Documents of a group (the chapters of a book) are always in one split; "": the document is its own group."""


@dataclass(frozen=True)
class Columns:
    """Names of the fields of a tabular source: JSON, CSV, Parquet, or a Hugging Face dataset.

    The text is in `paragraphs` (a list of texts) if that field exists, else in `text`, split at blank lines. If only
    `text` has another name than the default, it takes precedence. One of the two must exist, and so must every field
    whose name is not the default. A missing id becomes the file name with the row, a missing title the id, a missing
    source the file name. Raises InputError for an empty name, or for `order_by` without `group_by`.
    """

    id: str = "id"
    title: str = "title"
    text: str = "text"
    paragraphs: str = "paragraphs"
    source: str = "source"
    group: str = ""
    """Empty: documents have no groups."""
    group_by: str = ""
    """Field whose value is the id of the row's document: rows with the same value become one document. Empty: each row
    is a document."""
    order_by: str = ""
    """Field that sorts the rows of a document: numbers by value, texts in natural order. Empty: order of the file."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.default and not getattr(self, field.name):
                raise InputError(f"column {field.name}: the name is empty. Name a column, or leave it out.")
        if self.order_by and not self.group_by:
            raise InputError("order_by sorts the rows of a document. Name the column of the documents with --group-by.")
