"""Import .npz files of windows as a store, and export windows of a store as .npz.

Such a file repeats each vector up to S + 1 times and does not name the documents of its windows. An import links
windows that share identical vectors: vectors are stored once (11 GB become at most 2.4 GB), and linked windows are in
one split. The store's windows of context S are exactly those of the file, bit for bit.

Each file is read twice, in blocks: first for a 16-byte digest of every vector, then to copy the vectors.

Letters in names: F files, W windows of all files, T = S + 1 vectors of a window, V distinct vectors, C chains, G
groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

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

LARGE_GROUP_SHARE, LARGE_GROUP_CHAINS = 0.2, 10
"""A group with more than this share of all windows and this many chains gets a notice: one split contains all of it."""

UNIT_TOLERANCE = 1e-3
"""Vectors whose length deviates more from 1 are scaled; rounding to float16 changes a length less."""


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
    """Import .npz files of windows, one per split, {"train": …, "val": …, "ood": …}, as the store `out`.

    Without a val file, the fraction `val` of the train file's groups becomes val, by a hash of their vectors.
    `documents` is a .npy file with an integer per window (of the train file, or a mapping by split), or a member
    `article_index` is used: windows of different documents are never linked. Vectors keep the file's dtype unless
    `dtype` is set. `encoder` names the encoder if the file does not. Notices are stored in the manifest.

    Raises StoreError for files that are missing or damaged, differ in shape, contain vectors that are zero or not
    finite, or (unless `allow_shared`) share vectors between splits; OutputError if `out` cannot be written.
    """
    out = Path(out)
    require_new(out)
    plan = SplitPlan(val=0.0 if "val" in files else val)
    opened = open_files(files, documents)
    members = [member for file in opened.values() for member in (file.contexts, file.targets)]
    stored_dtype = np.result_type(*(member.dtype for member in members))
    # Recover the documents: windows that overlap form chains, and chains that share a vector form groups.
    index = _index_vectors(opened, stored_dtype, quiet)
    shared = _count_shared(index, opened, allow_shared)
    chains = link_windows(index.vectors_WT, np.where(index.document_W >= 0, index.document_W, -1 - index.file_W))
    group_C, documents_sharing = group_chains(index.vectors_WT, chains, index.file_W, index.document_W)
    table = _document_table(opened, index, chains, group_C, plan)
    # Read the files again to copy the vectors.
    with unfinished_store(out) as folder:
        scaled = _write_vectors(folder, opened.values(), chains, table, dtype or stored_dtype, quiet)
        write_documents(folder, table)
        counts = {
            "windows": len(index),
            "context": opened[next(iter(opened))].context,
            "vectors": int(table.rows.sum()),
            "distinct_vectors": len(index.digest_V),
            "documents": len(chains),
            "groups": int(group_C.max()) + 1,
            "scaled_to_unit_length": scaled,
        }
        notices = [notice for file in opened.values() for notice in file.notices]
        notices += _notices(table, chains, scaled, documents_sharing, shared)
        facts = {"split": plan.to_dict(), "notices": notices, **_origin(opened)}
        return finish_store(folder, out, _space(opened, encoder), counts, **facts)


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
    space, which names the encoder. Raises StoreError if the split has no windows, OutputError if `out` exists.
    """
    out = Path(out)
    require_new(out)
    if split not in SPLITS:
        raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
    windows = index_windows(store.documents, split, context)
    if not len(windows):
        raise StoreError(f"store {store.path}: {split} has no window of context {context}. Choose another split.")
    # A window is a target row and the `context` rows before it; blocks are gathered from the store as they are
    # written.
    targets, groups = windows.targets.numpy().astype(np.int64), windows.groups.numpy().astype(np.int64)
    shape, file_dtype = (len(windows), store.dimensions), np.dtype(dtype).newbyteorder("<")
    space = np.array([json.dumps(store.space.to_dict())])
    with progress(f"writing {split} windows", len(windows) * (context + 1), unit="vectors", quiet=quiet) as task:

        def blocks(offsets: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
            """Yield the vectors at the offsets from each target, a block of windows at a time."""
            # Broadcast the target rows with the offsets: (B, S) rows for contexts, (B,) for targets.
            step = max(1, BLOCK_BYTES // (offsets.size * store.dimensions * file_dtype.itemsize))
            for start in range(0, len(targets), step):
                rows = targets[start : start + step].reshape(-1, *[1] * offsets.ndim) + offsets
                yield store.vectors[rows]
                task.advance(rows.size)

        members = {
            CONTEXTS: ((shape[0], context, shape[1]), file_dtype, blocks(np.arange(-context, 0))),
            TARGETS: (shape, file_dtype, blocks(np.array(0))),
            ARTICLES: (shape[:1], np.dtype("<i8"), [groups]),
            SPACE: ((1,), space.dtype, [space]),
        }
        write_members(out, members)
    return out


def _space(files: Mapping[str, WindowFile], encoder: str) -> Space:
    """Return the space that the files name; if the user names an encoder or no file names a space, the user's."""
    first, *rest = files.values()
    for file in rest:
        if first.space is not None and file.space is not None:
            require_same(first.space, file.space, f"{first.path.name} and {file.path.name}")
    space = next((file.space for file in files.values() if file.space is not None), None)
    return space if space is not None and encoder == UNKNOWN else Space(encoder, "", first.dimensions)


@dataclass(frozen=True)
class _Index:
    """The vectors of each window of all files, as numbers of distinct vectors."""

    vectors_WT: NDArray[np.int32]
    file_W: Ints
    document_W: Ints
    """Document of each window, numbered across files; -1 if unknown."""
    digest_V: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.vectors_WT)


def _origin(files: Mapping[str, WindowFile]) -> dict[str, Any]:
    """Return the manifest's entries about the files, by which `open_data` recognizes an earlier import."""
    return {
        "origin": "npz",
        "sources": {split: file.path.name for split, file in files.items()},
        "npz": {split: npz_hash(file.path) for split, file in files.items()},
        "has_documents": all(file.documents is not None for file in files.values()),
    }


def _index_vectors(files: Mapping[str, WindowFile], dtype: np.dtype[Any], quiet: bool) -> _Index:
    """Read all vectors as `dtype`, and number the distinct ones."""
    vectors = sum(file.windows * (file.context + 1) for file in files.values())
    with progress("reading windows", vectors, unit="vectors", quiet=quiet) as task:
        digests = np.concatenate([_digest_file(file, dtype, task) for file in files.values()])
    numbers, digest_V = number_vectors(digests.reshape(-1, DIGEST_BYTES))
    return _Index(
        vectors_WT=numbers.reshape(digests.shape[:2]),
        file_W=np.repeat(np.arange(len(files)), [file.windows for file in files.values()]),
        document_W=_number_documents(files.values()),
        digest_V=digest_V,
    )


def _number_documents(files: Iterable[WindowFile]) -> Ints:
    """Number the documents of all windows across files (W,); -1 if unknown."""
    numbers, count = [], 0
    for file in files:
        if file.documents is None:
            numbers.append(np.full(file.windows, -1))
        else:
            # Labels of different files may be equal by chance, so each file's numbers continue after the last's.
            distinct, inverse = np.unique(file.documents, return_inverse=True)
            numbers.append(inverse.astype(np.int64) + count)
            count += len(distinct)
    return np.concatenate(numbers)


def _digest_file(file: WindowFile, dtype: np.dtype[Any], task: Task) -> NDArray[np.uint8]:
    """Return the digests (W, S + 1, 16) of a file's vectors as `dtype`; the target's is last."""
    digests = np.empty((file.windows, file.context + 1, DIGEST_BYTES), np.uint8)
    # Digest the vectors as the common dtype, so that equal values match across float16 and float32 files.
    for start, block in file.contexts.blocks():
        digests[start : start + len(block), :-1] = digest_rows(block.astype(dtype, copy=False))
        task.advance(len(block) * file.context)
    for start, block in file.targets.blocks():
        digests[start : start + len(block), -1] = digest_rows(block.astype(dtype, copy=False))
        task.advance(len(block))
    return digests


def _count_shared(index: _Index, files: Mapping[str, WindowFile], allowed: bool) -> int:
    """Count the windows with a vector that another file has too. Raises StoreError if that is not allowed."""
    # Count the files in which each distinct vector occurs; one in two files is a leak between splits.
    files_with_V = np.zeros(len(index.digest_V), np.int64)
    for number in range(len(files)):
        files_with_V[np.unique(index.vectors_WT[index.file_W == number])] += 1
    shared_W = np.logical_or.reduce((files_with_V > 1)[index.vectors_WT], axis=1)
    if shared_W.any() and not allowed:
        counts = ", ".join(
            f"{int(shared_W[index.file_W == number].sum())} of {file.windows} windows of {file.path.name}"
            for number, file in enumerate(files.values())
        )
        raise StoreError(
            f"splits share identical vectors, which is a leak: {counts}. Remove them, or use --allow-shared."
        )
    return int(shared_W.sum())


def _document_table(
    files: Mapping[str, WindowFile], index: _Index, chains: Chains, group_C: Ints, plan: SplitPlan
) -> DocumentTable:
    """Make a document of each chain. The split of a group depends on its smallest digest, not on the file's order."""
    # Vectors are numbered in the order of their digests, so the smallest number names a group by its content.
    smallest_G = np.full(int(group_C.max()) + 1, len(index.digest_V))
    np.minimum.at(smallest_G, group_C[chains.chain_W], index.vectors_WT.min(axis=1))
    split_G = [plan.split_of(index.digest_V[number].tobytes().hex(), "") for number in smallest_G]
    # Name the documents of each file in the order of their first windows.
    first_window_C = np.unique(chains.chain_W, return_index=True)[1]
    ids, titles, sources, splits = [], [], [], []
    for number, (split, file) in enumerate(files.items()):
        start = int(np.searchsorted(index.file_W, number))
        # Groups of the train file are divided by the plan; the other files have their split by name.
        for position, chain in enumerate(np.flatnonzero(index.file_W[first_window_C] == number).tolist()):
            ids.append(f"npz-{split}-{position}")
            label = "" if file.documents is None else f"document {file.documents[first_window_C[chain] - start]}"
            titles.append(label)
            sources.append(file.path.name)
            splits.append(split_G[group_C[chain]] if split == "train" else split)
    if plan.val > 0 and "train" in files and not {"train", "val"} <= set(splits):
        raise StoreError(
            f"{files['train'].path}: its {len(split_G)} groups of linked windows are too few for train and "
            f"{plan.val:.0%} val. Name a val file, or change the fraction val."
        )
    # A chain of L windows has L + S vectors.
    rows = chains.windows_C + index.vectors_WT.shape[1] - 1
    split_numbers = np.array([SPLITS.index(split) for split in splits], np.int8)
    return DocumentTable(ids, titles, sources, split_numbers, np.cumsum(rows) - rows, rows, group_C)


def _write_vectors(
    folder: Path, files: Iterable[WindowFile], chains: Chains, table: DocumentTable, dtype: DTypeLike, quiet: bool
) -> int:
    """Write vectors.npy; return how many vectors were scaled to unit length."""
    dimensions, windows = next(iter(files)).dimensions, len(chains.chain_W)
    scaled, start = 0, 0
    with (
        create_vectors(folder, int(table.rows.sum()), dimensions, dtype) as writer,
        progress("writing vectors", windows, unit="windows", quiet=quiet) as task,
    ):
        for file in files:
            file_windows = slice(start, start + file.windows)
            first_row_W = table.first_row[chains.chain_W[file_windows]]
            scaled += _write_file(file, first_row_W, chains.position_W[file_windows], writer, task)
            start = file_windows.stop
    return scaled


def _write_file(file: WindowFile, first_row_W: Ints, position_W: Ints, writer: VectorWriter, task: Task) -> int:
    """Write the vectors of a file's windows; return how many were scaled to unit length.

    `first_row_W` is the first row of the window's chain, `position_W` the window's position in it.
    """
    scaled = 0
    # The first window of a chain contributes its S context vectors.
    offsets_S = np.arange(file.context)
    for begin, block in file.contexts.blocks():
        heads = begin + np.flatnonzero(position_W[begin : begin + len(block)] == 0)
        if not len(heads):
            continue
        values, count = _to_unit_length(block[heads - begin], file.contexts, heads)
        writer.write((first_row_W[heads, None] + offsets_S).ravel(), values)
        scaled += count
    # Every window contributes its target, which follows the S vectors and the targets of the windows before it.
    target_row_W = first_row_W + file.context + position_W
    for begin, block in file.targets.blocks():
        windows = np.arange(begin, begin + len(block))
        values, count = _to_unit_length(block, file.targets, windows)
        writer.write(target_row_W[windows], values)
        scaled += count
        task.advance(len(block))
    return scaled


def _to_unit_length(values: NDArray[Any], member: Member, windows: Ints) -> tuple[NDArray[Any], int]:
    """Return vectors (B, …, D) as (B·…, D), scaled if they deviate more than UNIT_TOLERANCE, and how many were."""
    vectors = values.reshape(-1, values.shape[-1])
    # Refuse vectors that cannot be scaled, and name the window of the first.
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    is_bad: NDArray[np.bool_] = ~(np.isfinite(lengths) & (lengths > 0))
    if is_bad.any():
        position = int(np.flatnonzero(is_bad)[0])
        window = int(windows[position * len(windows) // len(vectors)])
        fault = "a zero vector" if lengths[position] == 0 else "a value that is not finite"
        raise StoreError(f"{member.path}: {member.name} of window {window} has {fault}. Remove that window.")
    # Scale only what is clearly off, so that all other vectors stay equal bit for bit.
    is_off = np.abs(lengths - 1) > UNIT_TOLERANCE
    if is_off.any():
        vectors = vectors.astype(np.float32)
        vectors[is_off] /= lengths[is_off, None]
    return vectors, int(is_off.sum())


def _notices(table: DocumentTable, chains: Chains, scaled: int, sharing: int, shared: int) -> list[str]:
    """Return messages about the import for the user."""
    notices = []
    if scaled:
        notices.append(f"{scaled:,} of {int(table.rows.sum()):,} vectors were scaled to unit length")
    if sharing:
        notices.append(f"{sharing:,} documents share identical vectors with another and are in one group with it")
    if shared:
        notices.append(
            f"{shared:,} windows share identical vectors with another split (--allow-shared): scores are too high"
        )
    # A repeated text links many documents, whose group then cannot be divided: warn if it is large.
    chains_G = np.bincount(table.group)
    windows_G = np.bincount(table.group, weights=chains.windows_C)
    largest, windows = int(windows_G.argmax()), int(chains.windows_C.sum())
    if windows_G[largest] > LARGE_GROUP_SHARE * windows and chains_G[largest] >= LARGE_GROUP_CHAINS:
        notices.append(
            f"one group of {chains_G[largest]:,} linked documents has {int(windows_G[largest]):,} of {windows:,} "
            "windows, all in one split; if repeated texts link them, drop these texts first"
        )
    return notices
