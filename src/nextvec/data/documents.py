"""Reading text: any source becomes a stream of documents.

    for document in read_documents("articles.jsonl.gz"):
        print(document.title, len(document.paragraphs))

`SOURCES` lists what is read. Each reader is a generator that holds one document (or one batch of rows) at a time, in
an order that depends on the source alone. Whatever is wrong with a source is one CorpusError that says where.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A text that hangs together: its paragraphs follow one another."""

    id: str
    """Names it within its corpus; splits are drawn by it."""
    title: str
    source: str
    """Where it comes from; splits may be made by it."""
    paragraphs: tuple[str, ...]
    """In order, as the source has them; some may be empty."""
    group: str = ""
    """Documents of one group are never divided between splits (the chapters of a book); "" is a group of its own."""


@dataclass(frozen=True)
class Columns:
    """Names of the fields of a .jsonl file, a .parquet file or a hub dataset.

    `paragraphs` (a list of texts) is taken where there is one, else `text`, split at blank lines; a name of one's own
    for `text` alone goes first. One of the two is needed, and so is every field that is given a name of one's own. A
    missing id becomes the file's name and the row, a missing title the id, a missing source the file's name.
    """

    id: str = "id"
    title: str = "title"
    text: str = "text"
    paragraphs: str = "paragraphs"
    source: str = "source"
    group: str = ""
    """Empty for none."""
