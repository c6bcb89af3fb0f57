"""The tables of a store from the parts of its text: documents with their splits and rows, and the rows' texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.parts import read_parts
from nextvec.data.split import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import CHUNKS, DOCUMENTS, DocumentTable, write_documents, write_texts
from nextvec.errors import CorpusError, StoreError, did_you_mean
from nextvec.files import writing

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
