"""The text of a build: documents are read, cut into chunks and freed of repeats, and kept in parts.

A part is a parquet file of some 2,000 documents that appears in one step, so that a killed build reads the sources
again but cuts only what no finished part holds. The filter of repeats is filled again from the parts.

The tables of a store from the parts of its text: documents with their splits and rows, and the rows' texts.
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
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.core.files import write_atomic, writing
from nextvec.data.chunking import Chunker, RepeatFilter, chunk_document
from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import CHUNKS, DOCUMENTS, DocumentTable
from nextvec.data.store.writer import write_documents, write_texts
from nextvec.errors import CorpusError, StoreError, did_you_mean

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


BLOCK = 1024
"""Rows in a row group of chunks.parquet: a build encodes them together, and a killed one loses no more."""


class Texts:
    """The texts of the store's rows, read from chunks.parquet a block at a time."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(file)
        groups = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        ends = np.cumsum(groups)
        self.blocks = [(int(end - size), int(end)) for end, size in zip(ends, groups, strict=True)]
        """First row and the row after the last of each block."""

    def read_block(self, block: int) -> list[str]:
        """All texts of a block."""
        texts: list[str] = self._file.read_row_group(block, columns=["text"])["text"].to_pylist()
        return texts

    def read(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """The texts of some rows (ascending)."""
        for block, (start, stop) in enumerate(self.blocks):
            chosen = rows[(rows >= start) & (rows < stop)]
            if len(chosen):
                texts = self.read_block(block)
                yield from (texts[row - start] for row in chosen.tolist())


def write_tables(parts: Path, folder: Path, plan: SplitPlan, min_chunks: int) -> dict[str, Any]:
    """Write documents.parquet and chunks.parquet into a store's folder; the counts for the manifest.

    Documents with fewer than `min_chunks` chunks are left out. Raises CorpusError if none is left, StoreError if a
    split that is needed would be empty.
    """
    counts: Counter[str] = Counter()
    ids: list[str] = []
    titles: list[str] = []
    sources: list[str] = []
    keys: list[str] = []
    rows: list[int] = []
    for part in read_parts(parts, ["id", "title", "source", "group", "paragraphs", "too_short", "repeats"]):
        counts["documents_read"] += len(part["id"])
        counts["too_short_dropped"] += sum(part["too_short"])
        counts["repeats_dropped"] += sum(part["repeats"])
        for index in kept_documents(part, min_chunks):
            ids.append(part["id"][index])
            titles.append(part["title"][index])
            sources.append(part["source"][index])
            keys.append(part["group"][index] or part["id"][index])
            rows.append(len(part["paragraphs"][index]))
    if not rows:
        raise CorpusError(
            f"none of the {counts['documents_read']:,} documents has {min_chunks} chunks of text; "
            "lower min_chunks or min_chars, or give longer documents"
        )
    splits = assign_splits(keys, sources, plan)
    _require_splits(plan, splits, sources)
    rows_M, splits_M = np.array(rows, np.int64), np.array([SPLITS.index(split) for split in splits], np.int8)
    number_of_key = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group_M = np.array([number_of_key[key] for key in keys], np.int64)
    write_documents(
        folder, DocumentTable(ids, titles, sources, splits_M, np.cumsum(rows_M) - rows_M, rows_M, group_M)
    )  # fmt: skip
    write_texts(folder, _blocks_of_texts(parts, min_chunks))
    for name in (DOCUMENTS, CHUNKS):
        _flush(folder / name)
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


def kept_documents(part: dict[str, list[Any]], min_chunks: int) -> list[int]:
    """Which rows of a part (with its column `paragraphs`) are documents of the store."""
    return [index for index, chunks in enumerate(part["paragraphs"]) if len(chunks) >= min_chunks]


def _blocks_of_texts(parts: Path, min_chunks: int) -> Iterator[list[str]]:
    """The texts of the documents that are kept, BLOCK at a time."""
    texts = (
        text
        for part in read_parts(parts, ["texts", "paragraphs"])
        for index in kept_documents(part, min_chunks)
        for text in part["texts"][index]
    )
    while block := list(islice(texts, BLOCK)):
        yield block


def _require_splits(plan: SplitPlan, splits: list[str], sources: list[str]) -> None:
    """Raise StoreError if a split that the plan asks for, or train, has no document, or a source none at all."""
    for source in (*plan.val_sources, *plan.ood_sources):
        if source not in sources:
            raise StoreError(f"split: no document is of the source '{source}'.{did_you_mean(source, set(sources))}")
    asked = {
        "train": True,
        "val": bool(plan.val or plan.val_ids or plan.val_range or plan.val_sources),
        "ood": bool(plan.ood or plan.ood_ids or plan.ood_range or plan.ood_sources),
    }
    found = Counter(splits)
    for split in SPLITS:
        if asked[split] and not found[split]:
            counts = ", ".join(f"{name} {found[name]}" for name in SPLITS)
            raise StoreError(
                f"split {split} would be empty: {len(splits):,} documents give {counts}; "
                "give more documents, or change the shares, sources or ids of the splits"
            )


def _flush(file: Path) -> None:
    with writing(file), file.open("rb+") as handle:
        os.fsync(handle.fileno())
