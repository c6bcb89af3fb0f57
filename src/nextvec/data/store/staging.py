"""Staged chunks of a build: documents that were read, chunked and deduplicated, and the store's tables made from them.

A staged file is a parquet file of about 2,000 documents that appears in one step. A build that continues reads the
sources again, but chunks only the documents that no staged file contains; the filter of duplicates is filled from the
staged files.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.core.console import progress
from nextvec.core.files import write_atomic, writing
from nextvec.data.chunking import Chunker, RepeatFilter, chunk_document
from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import CHUNKS, DOCUMENTS, DocumentTable
from nextvec.data.store.writer import write_documents, write_texts
from nextvec.errors import CorpusError, StoreError, did_you_mean

DOCUMENTS_PER_FILE, CHARACTERS_PER_FILE = 2_000, 64 * 2**20
"""A staged file ends at the first of these limits, because it is in memory as a whole."""

BLOCK_ROWS = 1024
"""Rows of a row group of chunks.parquet: a build encodes them together, and loses at most one block if it is killed."""

_TEXT_COLUMNS = ("id", "title", "source", "group")
_NUMBER_COLUMNS = ("origin", "paragraphs_read", "too_short", "repeats")


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

    All documents are kept, with all chunks that are long enough and new. Raises the errors of `read_documents`,
    OutputError if a file cannot be written, StoreError if one cannot be read again.
    """
    repeats = RepeatFilter()
    number = len(staged_files(folder))
    with progress("reading text", unit="documents", quiet=quiet) as task:
        # Fill the filter of duplicates from the staged files, and skip their documents.
        staged_documents = 0
        for staged in read_staged_chunks(folder, ["texts"]):
            staged_documents += len(staged["texts"])
            for texts in staged["texts"]:
                for text in texts:
                    repeats.is_new(text)
        task.advance(staged_documents)
        # Short chunks are dropped by `_stage_document`, not by the chunker, because they are counted.
        keep_short = dataclasses.replace(chunker, min_chars=0)
        rows: list[dict[str, Any]] = []
        characters = 0
        for origin, first, document in islice(_numbered_documents(sources, columns, limit), staged_documents, None):
            rows.append(_stage_document(origin, first, document, keep_short, chunker.min_chars, repeats))
            characters += sum(map(len, document.paragraphs))
            task.advance()
            # A staged file is complete at either limit; the next starts empty.
            if len(rows) == DOCUMENTS_PER_FILE or characters >= CHARACTERS_PER_FILE:
                _write_staged(folder / f"{number:06d}.parquet", rows)
                number, rows, characters = number + 1, [], 0
        if rows:
            _write_staged(folder / f"{number:06d}.parquet", rows)


def staged_files(folder: Path) -> list[Path]:
    """Return the staged files in order."""
    return sorted(folder.glob("*.parquet"))


def read_staged_chunks(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of each staged file in order. Raises StoreError if a file cannot be read."""
    for file in staged_files(folder):
        try:
            yield pq.read_table(file, columns=list(columns)).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{file}: this staged file of an unfinished build can't be read. Remove it.") from error


def _numbered_documents(
    sources: Sequence[str], columns: Columns, limit: int | None
) -> Iterator[tuple[int, int, Document]]:
    """Yield all documents, each with the number of its source and of its first paragraph within the source."""
    for origin, source in enumerate(sources):
        first = 0
        for document in read_documents(source, columns, limit=limit):
            yield origin, first, document
            first += len(document.paragraphs)


def _stage_document(
    origin: int, first: int, document: Document, chunker: Chunker, min_chars: int, repeats: RepeatFilter
) -> dict[str, Any]:
    """Return a document's row of a staged file."""
    chunks = chunk_document(document, chunker)
    # First short chunks are dropped, then repeats; both are counted for the manifest.
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


def _write_staged(file: Path, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema(
        [(name, pa.string()) for name in _TEXT_COLUMNS]
        + [(name, pa.int64()) for name in _NUMBER_COLUMNS]
        + [("texts", pa.list_(pa.string())), ("paragraphs", pa.list_(pa.int64()))]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    write_atomic(file, lambda target: pq.write_table(table, target, compression="zstd"))


def write_tables(staged: Path, folder: Path, plan: SplitPlan, min_chunks: int) -> dict[str, Any]:
    """Write documents.parquet and chunks.parquet into a store's folder, and return the counts for the manifest.

    Documents with fewer than `min_chunks` chunks are dropped. Raises CorpusError if none is left, StoreError if a split
    that the plan asks for would be empty.
    """
    counts: Counter[str] = Counter()
    documents: list[tuple[str, str, str, str, int]] = []  # id, title, source, key for splits, rows
    columns = ["id", "title", "source", "group", "paragraphs", "too_short", "repeats"]
    # Pass 1: counts and one entry per document, without the texts.
    for part in read_staged_chunks(staged, columns):
        counts["documents_read"] += len(part["id"])
        counts["too_short_dropped"] += sum(part["too_short"])
        counts["repeats_dropped"] += sum(part["repeats"])
        for index in kept_documents(part, min_chunks):
            document_id, title, source, group = (part[name][index] for name in _TEXT_COLUMNS)
            documents.append((document_id, title, source, group or document_id, len(part["paragraphs"][index])))
    if not documents:
        raise CorpusError(
            f"none of the {counts['documents_read']:,} documents has {min_chunks} chunks of text. "
            "Lower min_chunks or min_chars, or provide longer documents."
        )
    ids, titles, sources, keys, rows = map(list, zip(*documents, strict=True))
    # Documents of a group share a key, and so a split and a group number.
    splits = assign_splits(keys, sources, plan)
    _require_splits(plan, splits, sources)
    # The table: documents cover the rows in order, so first rows are sums of the lengths before.
    rows_M, splits_M = np.array(rows, np.int64), np.array([SPLITS.index(split) for split in splits], np.int8)
    number_of_key = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group_M = np.array([number_of_key[key] for key in keys], np.int64)
    table = DocumentTable(ids, titles, sources, splits_M, np.cumsum(rows_M) - rows_M, rows_M, group_M)
    write_documents(folder, table)
    # Pass 2: the texts, block by block. Both files are on disk before the journal records this stage.
    write_texts(folder, _blocks_of_texts(staged, min_chunks))
    for name in (DOCUMENTS, CHUNKS):
        with writing(folder / name), (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
    return {
        "documents": len(rows),
        "chunks": int(rows_M.sum()),
        "documents_read": counts["documents_read"],
        "documents_dropped": counts["documents_read"] - len(rows),
        "too_short_dropped": counts["too_short_dropped"],
        "repeats_dropped": counts["repeats_dropped"],
        "listed_ids_not_found": len((plan.val_ids | plan.ood_ids) - set(keys)),
        "splits": {
            split: {"documents": int((splits_M == number).sum()), "chunks": int(rows_M[splits_M == number].sum())}
            for number, split in enumerate(SPLITS)
        },
    }


def kept_documents(staged: dict[str, list[Any]], min_chunks: int) -> list[int]:
    """Return which rows of a staged file (with its column `paragraphs`) become documents of the store."""
    return [index for index, chunks in enumerate(staged["paragraphs"]) if len(chunks) >= min_chunks]


def _blocks_of_texts(staged: Path, min_chunks: int) -> Iterator[list[str]]:
    """Yield the texts of the kept documents in blocks of BLOCK_ROWS."""
    texts = (
        text
        for part in read_staged_chunks(staged, ["texts", "paragraphs"])
        for index in kept_documents(part, min_chunks)
        for text in part["texts"][index]
    )
    while block := list(islice(texts, BLOCK_ROWS)):
        yield block


def _require_splits(plan: SplitPlan, splits: list[str], sources: list[str]) -> None:
    """Raise StoreError if train or a split of the plan has no document, or a source of the plan has none."""
    for source in (*plan.val_sources, *plan.ood_sources):
        if source not in sources:
            raise StoreError(f"split: no document has the source '{source}'.{did_you_mean(source, set(sources))}")
    # A split is required if any rule of the plan asks for it.
    is_required = {
        "train": True,
        "val": bool(plan.val or plan.val_ids or plan.val_range or plan.val_sources),
        "ood": bool(plan.ood or plan.ood_ids or plan.ood_range or plan.ood_sources),
    }
    documents = Counter(splits)
    for split in SPLITS:
        if is_required[split] and not documents[split]:
            counts = ", ".join(f"{name} {documents[name]}" for name in SPLITS)
            raise StoreError(
                f"split {split}: would be empty ({len(splits):,} documents: {counts}). "
                "Provide more documents, or change the fractions, sources or ids of the splits."
            )
