"""Tables of a store: the rows to encode, made from staged chunks, and the final files, made from the encoded rows.

Repeats are dropped twice: equal texts before the rows are encoded, equal (or nearly equal) vectors after that.

Letters in names: N rows, D dimensions.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.core.files import writing
from nextvec.data.checks.duplicates import find_near_duplicates, hash_rows
from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import CHUNKS, DOCUMENTS, ChunkTexts
from nextvec.data.store.blocks import EncodedVectors
from nextvec.data.store.rows import TRAIN, RowTable, count_repeats, is_first_of_equals
from nextvec.data.store.staging import read_staged_chunks
from nextvec.data.store.writer import create_vectors, write_documents, write_texts
from nextvec.errors import CorpusError, StoreError, did_you_mean

BLOCK_ROWS = 1024
"""Rows of a row group of chunks.parquet: a build encodes them together, and loses at most one block if it is killed."""

WINDOW_CHUNKS = 6
"""Chunks of the shortest document with a window: the usual context of five, and the target."""

MAX_EQUAL_VECTORS = 0.2
"""Largest share of a split's rows that is dropped because of equal vectors. If more are equal, the encoder does not
tell the texts apart (lsa gives texts without a known term one vector), and dropping would cut up the documents."""

_QUERIES_PER_BLOCK = 2048
"""Rows of val and ood that are compared with train together: the cosines of a block need 64 MiB."""


def write_rows(staged: Path, folder: Path, plan: SplitPlan, min_chunks: int) -> dict[str, Any]:
    """Write the rows to encode and their texts into `folder`; return the counts so far.

    `short_documents` counts the documents with fewer than WINDOW_CHUNKS chunks, and `short_by_lines` those that would
    have fewer if each line were a paragraph. `without_text` counts the documents without any text, `without_chunks`
    those whose texts are all too short.

    Documents with fewer than `min_chunks` chunks are dropped, and so are chunks whose text repeats another one: the
    copy in train is kept, or else the first. Raises CorpusError if no document is left, StoreError if a split that the
    plan asks for would be empty.
    """
    table, hash_N, counts = _read_rows(staged, plan, min_chunks)
    # Documents with enough chunks are cut at their repeats, and parts that have become too short are dropped.
    first_N = is_first_of_equals(hash_N, table.splits)
    kept_N = table.without_short_parts(first_N, min_chunks)
    counts |= count_repeats(hash_N, table.splits, ~first_N)
    counts["short_parts_dropped"] = int(first_N.sum() - kept_N.sum())
    _require_rows(table, kept_N, "repeats another chunk")
    table.take(kept_N).save(folder)
    # The texts, block by block. The file is on disk before the journal records this stage.
    write_texts(folder, _blocks(_texts(staged, min_chunks), kept_N))
    _sync(folder / CHUNKS)
    return counts


def _read_rows(staged: Path, plan: SplitPlan, min_chunks: int) -> tuple[RowTable, NDArray[np.uint64], dict[str, Any]]:
    """Return all chunks of the documents that are long enough as rows, the hashes of their texts (N,), and counts."""
    counts: Counter[str] = Counter()
    documents: list[tuple[str, str, str, str, int, int]] = []  # id, title, source, key for splits, origin, rows
    hashes: list[NDArray[np.uint64]] = []
    paragraphs: list[NDArray[np.int64]] = []
    columns = ["id", "title", "source", "group", "origin", "paragraphs", "hashes", "too_short", "lines"]
    for part in read_staged_chunks(staged, columns):
        counts["documents_read"] += len(part["id"])
        counts["too_short_dropped"] += sum(part["too_short"])
        for index, chunks in enumerate(part["hashes"]):
            if not chunks:
                counts["without_chunks" if part["too_short"][index] else "without_text"] += 1
            if len(chunks) >= min_chunks:
                counts["short_documents"] += len(chunks) < WINDOW_CHUNKS
                counts["short_by_lines"] += part["lines"][index] < WINDOW_CHUNKS
                counts["documents_selected"] += 1
                document_id, title, source, group, origin = (part[name][index] for name in columns[:5])
                documents.append((document_id, title, source, group or document_id, origin, len(chunks)))
                hashes.append(np.array(chunks, np.uint64))
                paragraphs.append(np.array(part["paragraphs"][index], np.int64))
    if not documents:
        raise CorpusError(
            f"none of the {counts['documents_read']:,} documents has {min_chunks} chunks of text. "
            "Lower min_chunks or min_chars, or make more chunks of each document with --paragraphs lines, "
            "--unit sentences or, for the rows of a table, --group-by COLUMN --order-by COLUMN."
        )
    ids, titles, sources, keys, origins, rows = map(list, zip(*documents, strict=True))
    # Documents of a group share a key, and so a split.
    splits = assign_splits(keys, sources, plan)
    _require_splits(plan, splits, sources)
    rows_M = np.array(rows, np.int64)
    table = RowTable(
        ids,
        titles,
        sources,
        keys,
        np.array([SPLITS.index(split) for split in splits], np.int8),
        np.array(origins, np.int64),
        np.repeat(np.arange(len(rows_M)), rows_M),
        np.concatenate([np.arange(count) for count in rows]),
        np.concatenate(paragraphs),
    )
    listed = len((plan.val_ids | plan.ood_ids) - set(keys))
    counts["chunks_selected"] = len(table.document_N)
    return table, np.concatenate(hashes), dict(counts) | {"listed_ids_not_found": listed}


def finish_rows(
    encoded: Path, store: Path, min_chunks: int, *, near: bool, shard_bytes: int, quiet: bool = False
) -> dict[str, Any]:
    """Drop the encoded rows whose vector repeats another one, and write documents, texts and vectors of the store.

    If that would drop more than MAX_EQUAL_VECTORS of a split, the encoder gives different texts the same vector. Then
    equal vectors are kept, and the data check reports them.
    With `near`, rows of val and ood with a near duplicate in train are dropped too. Returns the counts of this step,
    and those of the store. Raises StoreError if a split loses all of its rows.
    """
    table, texts = RowTable.load(encoded), ChunkTexts(encoded / CHUNKS)
    vectors = EncodedVectors(encoded, texts)
    hash_N = hash_rows(vectors)
    first_N = is_first_of_equals(hash_N, table.splits)
    counts = count_repeats(hash_N, table.splits, ~first_N)
    if _largest_loss(table, first_N) > MAX_EQUAL_VECTORS:
        counts = dict.fromkeys(counts, 0) | {"equal_vectors_kept": int((~first_N).sum())}
        first_N = np.ones_like(first_N)
    unlike_N = first_N & ~_is_near_train(vectors, table, first_N, quiet=quiet) if near else first_N
    kept_N = table.without_short_parts(unlike_N, min_chunks)
    counts["near_duplicates_dropped"] = int(first_N.sum() - unlike_N.sum())
    counts["short_parts_dropped"] = int(unlike_N.sum() - kept_N.sum())
    _require_rows(table, kept_N, "has the vector of another row")

    # Every file is written again, or is a second name of the encoded file, so this step can be repeated.
    rows = table.take(kept_N)
    documents = rows.document_table()
    write_documents(store, documents)
    _sync(store / DOCUMENTS)
    (store / CHUNKS).unlink(missing_ok=True)
    if kept_N.all():
        _link(encoded / CHUNKS, store / CHUNKS)
    else:
        write_texts(
            store, _blocks((text for block in range(len(texts.blocks)) for text in texts.read_block(block)), kept_N)
        )
        _sync(store / CHUNKS)
    _copy_vectors(vectors, np.flatnonzero(kept_N), store, shard_bytes)
    return counts | {
        "documents": len(documents),
        "chunks": len(rows.document_N),
        "documents_cut": len(documents) - len(np.unique(rows.document_N)),
        "documents_kept": len(np.unique(rows.document_N)),
        "splits": {
            split: {
                "documents": int((documents.splits == number).sum()),
                "chunks": int(documents.rows[documents.splits == number].sum()),
            }
            for number, split in enumerate(SPLITS)
        },
    }


def _largest_loss(table: RowTable, kept_N: NDArray[np.bool_]) -> float:
    """Return the largest share of a split's rows that are not kept."""
    present = (number for number in range(len(SPLITS)) if (table.splits == number).any())
    return max(1 - float(kept_N[table.splits == number].mean()) for number in present)


def _is_near_train(
    vectors: EncodedVectors, table: RowTable, candidates_N: NDArray[np.bool_], *, quiet: bool
) -> NDArray[np.bool_]:
    """Return which of the candidate rows of val and ood have a near duplicate among those of train (N,)."""
    train = np.flatnonzero(candidates_N & (table.splits == TRAIN))
    others = np.flatnonzero(candidates_N & (table.splits != TRAIN))
    near_N = np.zeros(len(vectors), bool)
    with progress("near duplicates", len(others), unit="chunks", quiet=quiet) as task:
        for start in range(0, len(others), _QUERIES_PER_BLOCK):
            queries = others[start : start + _QUERIES_PER_BLOCK]
            # Groups are never divided between splits, so no query is in the group of a candidate.
            groups = np.full(len(queries), -1), np.zeros(len(train), np.int64)
            queries_QD = vectors[queries].astype(np.float32)
            near_N[queries] = find_near_duplicates(queries_QD, groups[0], vectors, train, groups[1]) >= 0
            task.advance(len(queries))
    return near_N


def _texts(staged: Path, min_chunks: int) -> Iterator[str]:
    """Yield the texts of the documents with enough chunks, in order."""
    for part in read_staged_chunks(staged, ["texts"]):
        for texts in part["texts"]:
            if len(texts) >= min_chunks:
                yield from texts


def _blocks(texts: Iterator[str], kept_N: NDArray[np.bool_]) -> Iterator[list[str]]:
    """Yield the kept texts in blocks of BLOCK_ROWS."""
    kept = (text for text, is_kept in zip(texts, kept_N.tolist(), strict=True) if is_kept)
    while block := list(islice(kept, BLOCK_ROWS)):
        yield block


def _copy_vectors(vectors: EncodedVectors, rows: NDArray[np.int64], store: Path, shard_bytes: int) -> None:
    with create_vectors(store, len(rows), vectors.shape[1], vectors.dtype, shard_bytes) as writer:
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            writer.write(np.arange(start, start + len(block)), vectors[block])


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, so that nothing is copied if the filesystem has links."""
    with writing(name):
        try:
            os.link(file, name)
        except OSError:
            shutil.copyfile(file, name)


def _sync(file: Path) -> None:
    """Wait until a file is on disk."""
    with writing(file), file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _require_rows(table: RowTable, kept_N: NDArray[np.bool_], reason: str) -> None:
    """Raise StoreError if a split that has rows loses all of them."""
    for number, split in enumerate(SPLITS):
        is_split_N = table.splits == number
        if is_split_N.any() and not kept_N[is_split_N].any():
            raise StoreError(
                f"split {split}: would be empty. Each of its {int(is_split_N.sum()):,} chunks {reason}, or is in too "
                "short a part of a document. Provide other documents for this split, or lower min_chunks."
            )


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
            remedy = "Provide more documents, or change the fractions, sources or ids of the splits."
            if split == "val":
                remedy += " A store that is only an index needs no val: pass --val 0."
            raise StoreError(f"split {split}: would be empty ({len(splits):,} documents: {counts}). {remedy}")
