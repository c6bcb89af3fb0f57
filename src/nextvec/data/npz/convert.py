"""Stores from .npz files of windows, and such files from stores.

Such a file repeats each vector up to S + 1 times and does not say which windows are of one document. Importing links
windows that share identical vectors: vectors are stored once (11 GB become 2.4 GB or less), and windows that belong
together stay on one side of a split. The store's windows of context S are those of the file, bit for bit, and no other.

Each file is read twice, in blocks: first for a 16-byte digest of every vector, then to put the vectors in their places.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import Task, progress
from nextvec.data.npz.format import (
    ARTICLES,
    BLOCK_BYTES,
    CONTEXTS,
    SPACE,
    TARGETS,
    Member,
    WindowFile,
    npz_hash,
    open_files,
    write_members,
)
from nextvec.data.npz.relink import DIGEST_BYTES, Chains, Ints, digest_rows, group_chains, link_windows, number_vectors
from nextvec.data.space import UNKNOWN, Space, require_same
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DocumentTable, Store
from nextvec.data.store.writer import (
    VectorWriter,
    create_vectors,
    finish_store,
    require_new,
    unfinished_store,
    write_documents,
)
from nextvec.data.windows import index_windows
from nextvec.errors import StoreError, did_you_mean

LARGE_GROUP, MANY_PARTS = 0.2, 10
"""A group with a larger share of all windows, of that many chains, is worth a notice: one split gets it whole."""

UNIT_TOLERANCE = 1e-3
"""Vectors whose length is further from 1 are scaled to it; float16 alone changes a length less."""


def import_npz(
    files: Mapping[str, Path],
    out: Path,
    *,
    val: float = 0.1,
    documents: Path | Mapping[str, Path] | None = None,
    dtype: Literal["float16", "float32"] | None = None,
    encoder: str = UNKNOWN,
    allow_shared: bool = False,
    quiet: bool = False,
) -> Store:
    """Make a store at `out` from .npz files of windows, a file for each split: {"train": …, "val": …, "ood": …}.

    Where no val file is given, the share `val` of the train file's groups becomes val, by a hash of their vectors.
    `documents` is a .npy file with an integer for each window (of the train file, or a mapping by split): windows of
    different documents are then never linked; a member `article_index` does the same. Vectors keep the file's dtype
    unless `dtype` is given. `encoder` names what made the vectors, where the file doesn't say it. Notices are in the
    store's manifest.

    Raises StoreError for files that are missing, damaged, of other shapes or dimensions, hold vectors that are zero or
    not finite, or (unless `allow_shared`) share vectors between splits; OutputError if `out` can't be written.
    """
    out = Path(out)
    require_new(out)
    plan = SplitPlan(val=0.0 if "val" in files else val)
    opened = open_files(files, documents)
    windows_F = [file.windows for file in opened.values()]
    kind = np.result_type(*(member.dtype for file in opened.values() for member in (file.contexts, file.targets)))
    first = next(iter(opened.values()))
    with progress("reading windows", sum(windows_F) * (first.context + 1), unit="vectors", quiet=quiet) as task:
        digests = np.concatenate([_digests(file, kind, task) for file in opened.values()])
    numbers, digest_V = number_vectors(digests.reshape(-1, DIGEST_BYTES))
    index = _Index(
        vectors_WT=numbers.reshape(digests.shape[:2]),
        file_W=np.repeat(np.arange(len(opened)), windows_F),
        document_W=_number_documents(opened.values()),
        digest_V=digest_V,
    )
    shared = _count_shared(index, opened, allow_shared)
    chains = link_windows(index.vectors_WT, np.where(index.document_W >= 0, index.document_W, -1 - index.file_W))
    group_C, documents_sharing = group_chains(index.vectors_WT, chains, index.file_W, index.document_W)
    table = _document_table(opened, index, chains, group_C, plan)

    rows = int(table.rows.sum())
    with unfinished_store(out) as folder:
        with (
            create_vectors(folder, rows, first.dimensions, dtype or kind) as writer,
            progress("writing vectors", len(index), unit="windows", quiet=quiet) as task,
        ):
            scaled = _write_vectors(opened.values(), chains, table.first_row, writer, task)
        write_documents(folder, table)
        counts = {
            "windows": len(index), "context": first.context, "vectors": rows, "distinct_vectors": len(digest_V),
            "documents": len(chains), "groups": int(group_C.max()) + 1, "scaled_to_unit_length": scaled,
        }  # fmt: skip
        notices = [notice for file in opened.values() for notice in file.notices]
        notices += _notices(table, chains, scaled, documents_sharing, shared)
        return finish_store(
            folder, out, _space(opened, encoder), counts, origin="npz", split=plan.to_dict(),
            sources={split: file.path.name for split, file in opened.items()},
            npz={split: npz_hash(file.path) for split, file in opened.items()}, notices=notices,
            documents_given=all(file.documents is not None for file in opened.values()),
        )  # fmt: skip


def export_npz(
    store: Store,
    split: str,
    out: Path,
    context: int = 5,
    *,
    dtype: Literal["float16", "float32"] = "float32",
    quiet: bool = False,
) -> Path:
    """Write the windows of a split as an uncompressed .npz file for other tools, and return its path.

    Members: context_sequences (W, S, D), target_vectors (W, D), article_index (W,) int64, the group of each window, and
    space, which names the encoder.
    One block is in memory at a time. Raises StoreError if the split has no windows, OutputError if `out` exists.
    """
    out = Path(out)
    require_new(out)
    if split not in SPLITS:
        raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
    windows = index_windows(store.documents, split, context)
    if not len(windows):
        raise StoreError(f"store {store.path}: no window of context {context} in {split}; choose another split")
    targets, groups = windows.targets.numpy().astype(np.int64), windows.groups.numpy().astype(np.int64)
    shape, kind = (len(windows), store.dimensions), np.dtype(dtype).newbyteorder("<")

    space = np.array([json.dumps(store.space.to_dict())])
    with progress(f"writing {split} windows", len(windows) * (context + 1), unit="vectors", quiet=quiet) as task:

        def blocks(offsets: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
            step = max(1, BLOCK_BYTES // (offsets.size * store.dimensions * kind.itemsize))
            for start in range(0, len(targets), step):
                rows = targets[start : start + step].reshape(-1, *[1] * offsets.ndim) + offsets
                yield store.vectors[rows]
                task.advance(rows.size)

        members = {
            CONTEXTS: ((shape[0], context, shape[1]), kind, blocks(np.arange(-context, 0))),
            TARGETS: (shape, kind, blocks(np.array(0))),
            ARTICLES: (shape[:1], np.dtype("<i8"), [groups]),
            SPACE: ((1,), space.dtype, [space]),
        }
        write_members(out, members)
    return out


def _space(files: Mapping[str, WindowFile], encoder: str) -> Space:
    """The space that the files name, if they agree; else the encoder that the user names."""
    first, *others = files.values()
    for other in others:
        if first.space is not None and other.space is not None:
            require_same(first.space, other.space, f"{first.path.name} and {other.path.name}")
    named = next((file.space for file in files.values() if file.space is not None), None)
    return named if named is not None and encoder == UNKNOWN else Space(encoder, "", first.dimensions)


@dataclass(frozen=True)
class _Index:
    """Which vectors each window of all files holds (W windows, T = S + 1, V distinct vectors)."""

    vectors_WT: NDArray[np.int32]
    file_W: Ints
    document_W: Ints
    """The given document, numbered through all files; -1 where none is given."""
    digest_V: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.vectors_WT)


def _number_documents(files: Iterable[WindowFile]) -> Ints:
    """The given document of each window, numbered through all files (W,); -1 where none is given."""
    numbers, count = [], 0
    for file in files:
        if file.documents is None:
            numbers.append(np.full(file.windows, -1))
        else:
            distinct, inverse = np.unique(file.documents, return_inverse=True)
            numbers.append(inverse.astype(np.int64) + count)
            count += len(distinct)
    return np.concatenate(numbers)


def _digests(file: WindowFile, kind: np.dtype[Any], task: Task) -> NDArray[np.uint8]:
    """A digest of each vector's bytes as `kind`: (W, S + 1, 16), the target's last."""
    digests = np.empty((file.windows, file.context + 1, DIGEST_BYTES), np.uint8)
    for start, block in file.contexts.blocks():
        digests[start : start + len(block), :-1] = digest_rows(block.astype(kind, copy=False))
        task.advance(len(block) * file.context)
    for start, block in file.targets.blocks():
        digests[start : start + len(block), -1] = digest_rows(block.astype(kind, copy=False))
        task.advance(len(block))
    return digests


def _count_shared(index: _Index, files: Mapping[str, WindowFile], allowed: bool) -> int:
    """How many windows hold a vector that another file has too. Raises StoreError if there are any and none may."""
    files_with_V = np.zeros(len(index.digest_V), np.int64)
    for number in range(len(files)):
        files_with_V[np.unique(index.vectors_WT[index.file_W == number])] += 1
    shared_W = np.logical_or.reduce((files_with_V > 1)[index.vectors_WT], axis=1)
    if shared_W.any() and not allowed:
        counts = ", ".join(
            f"{int(shared_W[index.file_W == number].sum())} of {file.windows} windows of {file.path.name}"
            for number, file in enumerate(files.values())
        )
        raise StoreError(f"splits share identical vectors, a leak: {counts}; remove them, or allow shared vectors")
    return int(shared_W.sum())


def _document_table(
    files: Mapping[str, WindowFile], index: _Index, chains: Chains, group_C: Ints, plan: SplitPlan
) -> DocumentTable:
    """A document for each chain. A group's split hangs on its smallest digest, so not on the order of the file."""
    smallest_G = np.full(int(group_C.max()) + 1, len(index.digest_V))
    np.minimum.at(smallest_G, group_C[chains.chain_W], index.vectors_WT.min(axis=1))
    drawn_G = [plan.split_of(index.digest_V[number].tobytes().hex(), "") for number in smallest_G]
    first_window_C = np.unique(chains.chain_W, return_index=True)[1]
    ids, titles, sources, splits = [], [], [], []
    for number, (split, file) in enumerate(files.items()):
        start = int(np.searchsorted(index.file_W, number))
        for place, chain in enumerate(np.flatnonzero(index.file_W[first_window_C] == number).tolist()):
            ids.append(f"npz-{split}-{place}")
            label = "" if file.documents is None else f"document {file.documents[first_window_C[chain] - start]}"
            titles.append(label)
            sources.append(file.path.name)
            splits.append(drawn_G[group_C[chain]] if split == "train" else split)
    if plan.val > 0 and "train" in files and not {"train", "val"} <= set(splits):
        raise StoreError(
            f"{files['train'].path}: its {len(drawn_G)} groups of linked windows are too few for train and "
            f"{plan.val:.0%} val; give a val file, another share, or val 0"
        )
    rows = chains.windows_C + index.vectors_WT.shape[1] - 1
    return DocumentTable(
        ids, titles, sources, np.array([SPLITS.index(split) for split in splits], np.int8),
        np.cumsum(rows) - rows, rows, group_C,
    )  # fmt: skip


def _write_vectors(
    files: Iterable[WindowFile], chains: Chains, first_row_C: Ints, writer: VectorWriter, task: Task
) -> int:
    """Put every vector in its place; how many were scaled to unit length.

    A chain's first window brings its S context vectors, and every window its target.
    """
    scaled, start = 0, 0
    for file in files:
        own = slice(start, start + file.windows)
        first_row_W, position_W = first_row_C[chains.chain_W[own]], chains.position_W[own]
        offsets_S = np.arange(file.context)
        for begin, block in file.contexts.blocks():
            heads = begin + np.flatnonzero(position_W[begin : begin + len(block)] == 0)
            if not len(heads):
                continue
            values, count = _to_unit_length(block[heads - begin], file.contexts, heads)
            writer.write((first_row_W[heads, None] + offsets_S).ravel(), values)
            scaled += count
        target_row_W = first_row_W + file.context + position_W
        for begin, block in file.targets.blocks():
            here = np.arange(begin, begin + len(block))
            values, count = _to_unit_length(block, file.targets, here)
            writer.write(target_row_W[here], values)
            scaled += count
            task.advance(len(block))
        start = own.stop
    return scaled


def _to_unit_length(values: NDArray[Any], member: Member, windows: Ints) -> tuple[NDArray[Any], int]:
    """Vectors (B, …, D) as (B·…, D), each within UNIT_TOLERANCE as it is and scaled otherwise; how many were scaled."""
    vectors = values.reshape(-1, values.shape[-1])
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    is_bad: NDArray[np.bool_] = ~(np.isfinite(lengths) & (lengths > 0))
    if is_bad.any():
        place = int(np.flatnonzero(is_bad)[0])
        window = int(windows[place * len(windows) // len(vectors)])
        what = "a zero vector" if lengths[place] == 0 else "a value that is not finite"
        raise StoreError(f"{member.path}: {member.name} of window {window} has {what}; remove that window")
    is_off = np.abs(lengths - 1) > UNIT_TOLERANCE
    if is_off.any():
        vectors = vectors.astype(np.float32)
        vectors[is_off] /= lengths[is_off, None]
    return vectors, int(is_off.sum())


def _notices(table: DocumentTable, chains: Chains, scaled: int, sharing: int, shared: int) -> list[str]:
    """What a user should know about the import, in words."""
    notices = []
    if scaled:
        notices.append(f"{scaled:,} of {int(table.rows.sum()):,} vectors were not of unit length and were scaled to it")
    if sharing:
        notices.append(f"{sharing:,} of the given documents share identical vectors with another: kept in one group")
    if shared:
        notices.append(f"{shared:,} windows share identical vectors with another split (allowed): scores are too high")
    parts_G = np.bincount(table.group)
    windows_G = np.bincount(table.group, weights=chains.windows_C)
    largest, windows = int(windows_G.argmax()), int(chains.windows_C.sum())
    if windows_G[largest] > LARGE_GROUP * windows and parts_G[largest] >= MANY_PARTS:
        notices.append(
            f"one group of {parts_G[largest]:,} linked documents holds {int(windows_G[largest]):,} of {windows:,} "
            "windows and goes to one split as a whole; if repeated texts tie them together, drop those first"
        )
    return notices
