"""The document, which every reader yields, and the names of its fields in tabular sources."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Names of the fields of a .jsonl file, a .parquet file or a Hugging Face dataset.

    The text is in `paragraphs` (a list of texts) if that field exists, else in `text`, split at blank lines. If only
    `text` has another name than the default, it takes precedence. One of the two must exist, and so must every field
    whose name is not the default. A missing id becomes the file name with the row, a missing title the id, a missing
    source the file name.
    """

    id: str = "id"
    title: str = "title"
    text: str = "text"
    paragraphs: str = "paragraphs"
    source: str = "source"
    group: str = ""
    """Empty: documents have no groups."""
