"""Reading text: any source becomes a stream of documents.

    for document in read_documents("articles.jsonl.gz"):
        print(document.title, len(document.paragraphs))

`SOURCES` lists what is read. Each reader is a generator that holds one document (or one batch of rows) at a time, in
an order that depends on the source alone. Whatever is wrong with a source is one CorpusError that says where.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nextvec.errors import CorpusError, InputError


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


SOURCES = {
    "a folder": "every .txt and .md file in it and below, a document each",
    ".txt, .md": "one document; paragraphs are divided by blank lines",
    ".jsonl, .jsonl.gz": "a JSON object a line: id, title, text or paragraphs, source (see Columns)",
    ".parquet": "the same fields as columns",
    ".xml, .xml.bz2": "a Wikipedia dump (pages-articles)",
    "hf:owner/name[:config[:split]]": "a dataset of the Hugging Face hub, or a folder that `datasets` can load",
    "builtin:python-docs": "the documentation inside torch, numpy, scikit-learn and the standard library",
}
"""What `read_documents` reads: the form of the source and what becomes of it."""


def read_documents(source: str, columns: Columns = Columns(), *, limit: int | None = None) -> Iterator[Document]:
    """The documents of a source (see SOURCES), at most `limit`, one at a time and always in the same order.

    Nothing is read before the first document is asked for. Raises CorpusError if the source is missing, damaged, of no
    known kind or without documents; MissingExtraError if a package is needed that isn't installed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: need at least 1 document")
    empty = True
    with contextlib.closing(_open(source, columns)) as documents:
        for document in islice(documents, limit):
            empty = False
            yield document
    if empty:
        raise CorpusError(f"{source}: there are no documents in it; check that it is the right one")


def _open(source: str, columns: Columns) -> Generator[Document, None, None]:
    """The reader for a source. Readers are imported here: they need Document, and some need large packages."""
    if source.startswith("hf:"):
        from nextvec.data.hub import read_hub

        return read_hub(source, columns)
    if source.startswith("builtin:"):
        from nextvec.data.pydocs import read_builtin

        return read_builtin(source)
    path = Path(source)
    name = path.name.lower()
    if path.is_dir():
        from nextvec.data.textfiles import read_folder

        return read_folder(path)
    if not path.is_file():
        raise CorpusError(f"{source}: " + ("not a file or folder" if path.exists() else "no such file or folder"))
    if name.endswith((".txt", ".md")):
        from nextvec.data.textfiles import read_file

        return read_file(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        from nextvec.data.records import read_jsonl

        return read_jsonl(path, columns)
    if name.endswith(".parquet"):
        from nextvec.data.records import read_parquet

        return read_parquet(path, columns)
    if name.endswith((".xml", ".xml.bz2")):
        from nextvec.data.wikipedia import read_dump

        return read_dump(path)
    raise CorpusError(f"{source}: not a kind of text that is read; known: {'; '.join(SOURCES)}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CorpusError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror or one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error of another package says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
