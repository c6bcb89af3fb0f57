"""Staged chunks of a build: documents that were read and chunked, before repeats are dropped.

A staged file is a parquet file of about 2,000 documents that appears in one step. A build that continues reads the
sources again, but chunks only the documents that no staged file contains.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.core.console import progress, show
from nextvec.core.files import write_atomic, writing
from nextvec.data.chunking import Chunker, chunk_document, text_length
from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.errors import StoreError

DOCUMENTS_PER_FILE, CHARACTERS_PER_FILE = 2_000, 64 * 2**20
"""A staged file ends at the first of these limits, because it is in memory as a whole."""

_TEXTS = ("id", "title", "source", "group")
_NUMBERS = ("origin", "paragraphs_read", "too_short", "lines")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.int64()) for name in _NUMBERS]
    + [("texts", pa.list_(pa.string())), ("paragraphs", pa.list_(pa.int64())), ("hashes", pa.list_(pa.uint64()))]
)


def stage_chunks(
    folder: Path,
    sources: Sequence[str],
    columns: Columns,
    chunker: Chunker,
    *,
    limit: int | None = None,
    quiet: bool = False,
) -> None:
    """Write the staged files that `folder` still lacks; `limit` is the maximum number of documents of each source.

    All documents are kept, with all chunks that are long enough. If the sources no longer begin with the staged
    documents (a dataset of the hub can change), all are read again. Raises the errors of `read_documents`, OutputError
    if a file cannot be written, StoreError if one cannot be read again.
    """
    staged_ids = [document_id for part in read_staged_chunks(folder, ["id"]) for document_id in part["id"]]
    number = len(staged_files(folder))
    notes: list[str] = []
    with progress("reading text", unit="documents", quiet=quiet) as task:
        documents = _numbered_documents(sources, columns, limit, notes.append)
        # Skip the staged documents. Chunks of another input must never be mixed with those of this one.
        if staged_ids != [document.id for _, _, document in islice(documents, len(staged_ids))]:
            with writing(folder):
                for file in staged_files(folder):
                    file.unlink()
            number, documents = 0, _numbered_documents(sources, columns, limit, notes.append)
        else:
            task.advance(len(staged_ids))
        # Short chunks are dropped by `_stage_document`, not by the chunker, because they are counted.
        keep_short = dataclasses.replace(chunker, min_chars=0)
        rows: list[dict[str, Any]] = []
        characters = 0
        for origin, first, document in documents:
            rows.append(_stage_document(origin, first, document, keep_short, chunker.min_chars))
            characters += sum(map(len, document.paragraphs))
            task.advance()
            # A staged file is complete at either limit; the next starts empty.
            if len(rows) == DOCUMENTS_PER_FILE or characters >= CHARACTERS_PER_FILE:
                _write_staged(folder / f"{number:06d}.parquet", rows)
                number, rows, characters = number + 1, [], 0
        if rows:
            _write_staged(folder / f"{number:06d}.parquet", rows)
    show(notes, quiet=quiet)


def staged_files(folder: Path) -> list[Path]:
    """Return the staged files in order."""
    return sorted(folder.glob("*.parquet"))


def read_staged_chunks(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of each staged file in order. Raises StoreError if a file cannot be read."""
    for file in staged_files(folder):
        try:
            yield pq.read_table(file, columns=list(columns)).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{file}: this staged file of an unfinished build can't be read. Start again with --restart."
            ) from error


def read_staged_ids(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the group of each document that was read, also of those that are dropped later."""
    for part in read_staged_chunks(folder, ["id", "group"]):
        yield from zip(part["id"], part["group"], strict=True)


def _numbered_documents(
    sources: Sequence[str], columns: Columns, limit: int | None, report: Callable[[str], object]
) -> Iterator[tuple[int, int, Document]]:
    """Yield all documents, each with the number of its source and of its first paragraph within the source."""
    for origin, source in enumerate(sources):
        first = 0
        for document in read_documents(source, columns, limit=limit, report=report):
            yield origin, first, document
            first += len(document.paragraphs)


def _stage_document(origin: int, first: int, document: Document, chunker: Chunker, min_chars: int) -> dict[str, Any]:
    """Return a document's row of a staged file."""
    chunks = chunk_document(document, chunker)
    long_enough = [chunk for chunk in chunks if text_length(chunk.text) >= min_chars]
    return {
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "group": document.group,
        "origin": origin,
        "texts": [chunk.text for chunk in long_enough],
        "paragraphs": [first + chunk.paragraph for chunk in long_enough],
        "hashes": [hash_text(chunk.text) for chunk in long_enough],
        "paragraphs_read": len(document.paragraphs),
        "too_short": len(chunks) - len(long_enough),
        "lines": sum(
            len(line.strip()) >= max(min_chars, 1) for text in document.paragraphs for line in text.splitlines()
        ),
    }


def hash_text(text: str) -> int:
    """Return 64 bits by which equal texts are found.

    Among 10 million texts, the probability that two different ones share a hash is 3e-6; one of them would be dropped.
    """
    # "surrogatepass": text from a source may contain lone surrogates, which UTF-8 cannot encode.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _write_staged(file: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    write_atomic(file, lambda target: pq.write_table(table, target, compression="zstd"))
