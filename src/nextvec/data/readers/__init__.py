"""Read documents from any source of text.

    for document in read_documents("articles.jsonl.gz"):
        print(document.title, len(document.paragraphs))

SOURCES lists the kinds of sources. Each reader is a generator with one document (or one batch of rows) in memory, in an
order that depends on the source alone. A faulty source raises a CorpusError with the position of the fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path

from nextvec.data.documents import Columns, Document
from nextvec.data.readers.files import read_file, read_folder
from nextvec.data.readers.huggingface import read_hub
from nextvec.data.readers.python_docs import read_builtin
from nextvec.errors import CorpusError, InputError

SOURCES = {
    "a folder": "all files of the next kinds except dumps in it and its subfolders",
    ".txt, .md": "one document; blank lines separate paragraphs",
    ".html, .htm": "one document; the main text of a web page",
    ".jsonl, .ndjson": "one JSON object per line: id, title, text or paragraphs, source (see Columns)",
    ".json": "a list of such objects or of texts, or an object with one such list",
    ".csv, .tsv": "the same fields as columns, named by the first row",
    ".parquet": "the same fields as columns",
    ".xml": "a Wikipedia dump (pages-articles)",
    ".gz, .bz2, .xz, .zst": "any of the kinds above except Parquet, compressed: texts.jsonl.zst",
    "hf:owner/name[:config[:split]]": "a dataset of the Hugging Face hub, or a folder that `datasets` can load",
    "builtin:python-docs[/name]": "the docstrings of torch, numpy, sklearn and stdlib, or of one",
}
"""Kinds of sources for `read_documents`, and their documents."""


def read_documents(
    source: str,
    columns: Columns = Columns(),
    *,
    limit: int | None = None,
    report: Callable[[str], object] | None = None,
) -> Iterator[Document]:
    """Yield the documents of a source (see SOURCES), at most `limit`, always in the same order.

    Reading starts with the first document. At the end of a folder, `report` is called with a sentence about skipped
    files. Raises CorpusError if the source is missing, damaged, of an unknown kind or without documents;
    MissingExtraError if a required package is not installed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, but must be at least 1.")
    if not source.strip():
        raise InputError("source: the name is empty. Name a file, a folder or a dataset.")
    empty = True
    with contextlib.closing(_open(source, columns, report)) as documents:
        for document in islice(documents, limit):
            empty = False
            yield document
    if empty:
        raise CorpusError(f"{source}: has no documents. Check that it is the right source.")


def _open(source: str, columns: Columns, report: Callable[[str], object] | None) -> Generator[Document, None, None]:
    """Return the reader of a source, by the form of its name."""
    if source.startswith("hf:"):
        return read_hub(source, columns)
    if source.startswith("builtin:"):
        return read_builtin(source)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, columns, report)
    # Suffixes are checked last, because a folder may be called `texts.md`.
    if not path.is_file():
        reason = "not a file or folder" if path.exists() else "no such file or folder"
        raise CorpusError(f"{source}: {reason}. Check the name.")
    return read_file(path, columns)
