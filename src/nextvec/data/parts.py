"""The text of a build: documents are read, cut into chunks and freed of repeats, and kept in parts.

A part is a parquet file of some 2,000 documents that appears in one step, so that a killed build reads the sources
again but cuts only what no finished part holds. The filter of repeats is filled again from the parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nextvec.data.chunk import Chunker, RepeatFilter, chunk_document
from nextvec.data.corpus import Columns, Document, read_documents
from nextvec.errors import StoreError
from nextvec.files import write_atomic
from nextvec.progress import progress

DOCUMENTS_A_PART, CHARACTERS_A_PART = 2_000, 64 * 2**20
"""A part ends with whichever comes first: it is in memory as a whole."""


def write_parts(
    folder: Path, sources: Sequence[str], columns: Columns, chunker: Chunker, *,
    limit: int | None = None, quiet: bool = False,
) -> None:  # fmt: skip
    """Write the parts that `folder` still lacks; `limit` is the most documents of each source.

    All documents are kept, with all chunks that are long enough and new. Raises what `read_documents` raises,
    OutputError if a part can't be written, StoreError if one can't be read again.
    """
    repeats = RepeatFilter()
    finished = part_files(folder)
    seen = 0
    with progress("reading text", unit="documents", quiet=quiet) as task:
        for table in read_parts(folder, ["texts"]):
            seen += len(table["texts"])
            for texts in table["texts"]:
                for text in texts:
                    repeats.is_new(text)
        task.advance(seen)
        # Shorter chunks are left out here, not by the chunker, because they are counted.
        cutter = dataclasses.replace(chunker, min_chars=0)
        stream = islice(_numbered_documents(sources, columns, limit), seen, None)
        number = len(finished)
        rows: list[dict[str, Any]] = []
        characters = 0
        for origin, first, document in stream:
            rows.append(_cut(origin, first, document, cutter, chunker.min_chars, repeats))
            characters += sum(map(len, document.paragraphs))
            task.advance()
            if len(rows) == DOCUMENTS_A_PART or characters >= CHARACTERS_A_PART:
                _write_part(folder / f"{number:06d}.parquet", rows)
                number, rows, characters = number + 1, [], 0
        if rows:
            _write_part(folder / f"{number:06d}.parquet", rows)


def part_files(folder: Path) -> list[Path]:
    """The finished parts, in order."""
    return sorted(folder.glob("*.parquet"))


def read_parts(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Some columns of each part, in order. Raises StoreError if a part can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in part_files(folder):
        try:
            yield pq.read_table(file, columns=list(columns)).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{file}: part of an unfinished build, can't be read; run the build again") from error


def _numbered_documents(
    sources: Sequence[str], columns: Columns, limit: int | None
) -> Iterator[tuple[int, int, Document]]:
    """All documents, each with the number of its source and that of its first paragraph within the source."""
    for origin, source in enumerate(sources):
        first = 0
        for document in read_documents(source, columns, limit=limit):
            yield origin, first, document
            first += len(document.paragraphs)


def _cut(
    origin: int, first: int, document: Document, cutter: Chunker, min_chars: int, repeats: RepeatFilter
) -> dict[str, Any]:
    """The row of a document in its part."""
    chunks = chunk_document(document, cutter)
    long_enough = [chunk for chunk in chunks if len(chunk.text) >= min_chars]
    new = [chunk for chunk in long_enough if repeats.is_new(chunk.text)]
    return {
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "group": document.group,
        "origin": origin,
        "texts": [chunk.text for chunk in new],
        "paragraphs": [first + chunk.paragraph for chunk in new],
        "paragraphs_read": len(document.paragraphs),
        "too_short": len(chunks) - len(long_enough),
        "repeats": len(long_enough) - len(new),
    }


def _write_part(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("id", "title", "source", "group")
    numbers = ("origin", "paragraphs_read", "too_short", "repeats")
    schema = pa.schema(
        [(name, pa.string()) for name in texts]
        + [(name, pa.int64()) for name in numbers]
        + [("texts", pa.list_(pa.string())), ("paragraphs", pa.list_(pa.int64()))]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    write_atomic(file, lambda target: pq.write_table(table, target, compression="zstd"))
