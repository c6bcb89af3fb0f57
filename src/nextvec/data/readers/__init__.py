"""Reading text: any source becomes a stream of documents.

    for document in read_documents("articles.jsonl.gz"):
        print(document.title, len(document.paragraphs))

`SOURCES` lists what is read. Each reader is a generator that holds one document (or one batch of rows) at a time, in
an order that depends on the source alone. Whatever is wrong with a source is one CorpusError that says where.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path

from nextvec.data.documents import Columns, Document
from nextvec.errors import CorpusError, InputError

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
        from nextvec.data.readers.huggingface import read_hub

        return read_hub(source, columns)
    if source.startswith("builtin:"):
        from nextvec.data.readers.python_docs import read_builtin

        return read_builtin(source)
    path = Path(source)
    name = path.name.lower()
    if path.is_dir():
        from nextvec.data.readers.text import read_folder

        return read_folder(path)
    if not path.is_file():
        raise CorpusError(f"{source}: " + ("not a file or folder" if path.exists() else "no such file or folder"))
    if name.endswith((".txt", ".md")):
        from nextvec.data.readers.text import read_file

        return read_file(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        from nextvec.data.readers.tabular import read_jsonl

        return read_jsonl(path, columns)
    if name.endswith(".parquet"):
        from nextvec.data.readers.tabular import read_parquet

        return read_parquet(path, columns)
    if name.endswith((".xml", ".xml.bz2")):
        from nextvec.data.readers.wikipedia import read_dump

        return read_dump(path)
    raise CorpusError(f"{source}: not a kind of text that is read; known: {'; '.join(SOURCES)}")
