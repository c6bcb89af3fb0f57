"""Number the vectors of all windows: equal numbers mean equal vectors, bit for bit or up to noise.

Windows whose contexts are padded with zeros are normalized here: the padding comes first.

Letters in names: W windows of all files, S context length, T = S + 1 vectors of a window, V distinct vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import Task, progress
from nextvec.data.npz.files import WindowFile
from nextvec.data.npz.near_equal import NearEqual, merge_near_equal, projection
from nextvec.data.npz.relink import DIGEST_BYTES, Ints, digest_rows, link_windows, number_vectors


@dataclass(frozen=True)
class WindowIndex:
    """The vectors of each window of all files, as numbers of distinct vectors."""

    vectors_WT: NDArray[np.int32]
    """(W, T) numbers; the target is last, and padding is first."""
    file_W: Ints
    """(W,) number of the window's file."""
    document_W: Ints
    """(W,) document of each window, numbered across files; -1 if unknown."""
    digest_V: NDArray[np.uint8]
    """(V, 16) a digest of each distinct vector; of several near-equal ones, the smallest."""
    padding: int
    """Number of the zero vector; -1 if there is none."""
    shift_W: Ints
    """(W,) by how many columns the context was moved back, because its padding was at the end."""
    near: NearEqual | None = None
    """How vectors were merged that are equal up to noise."""

    def __len__(self) -> int:
        return len(self.vectors_WT)

    @property
    def label_W(self) -> Ints:  # noqa: N802
        """(W,) the document of each window, or one negative number per file: others are never linked."""
        return np.where(self.document_W >= 0, self.document_W, -1 - self.file_W)

    @property
    def padded_W(self) -> Ints:  # noqa: N802
        """(W,) number of zero vectors in each context."""
        counts: Ints = (self.vectors_WT[:, :-1] == self.padding).sum(axis=1)
        return counts

    def take(self, windows: NDArray[np.bool_]) -> WindowIndex:
        """Return the index of some of the windows."""
        columns = {name: getattr(self, name)[windows] for name in ("vectors_WT", "file_W", "document_W", "shift_W")}
        return replace(self, **columns)


def index_files(files: Mapping[str, WindowFile], dtype: np.dtype[Any], quiet: bool) -> WindowIndex:
    """Read all vectors as `dtype`, and number the distinct ones."""
    vectors = sum(file.windows * (file.context + 1) for file in files.values())
    with progress("reading windows", vectors, unit="vectors", quiet=quiet) as task:
        digests = np.concatenate([_digest_file(file, dtype, task) for file in files.values()])
    numbers, digest_V = number_vectors(digests.reshape(-1, DIGEST_BYTES))
    dimensions = next(iter(files.values())).dimensions
    zero = digest_rows(np.zeros((1, dimensions), dtype))[0]
    is_zero_V = (digest_V == zero).all(axis=1)
    vectors_WT = numbers.reshape(digests.shape[:2])
    padding = int(is_zero_V.argmax()) if is_zero_V.any() else -1
    shift_W = _padding_at_end(vectors_WT, padding)
    return WindowIndex(
        vectors_WT=rotate_contexts(vectors_WT, shift_W),
        file_W=np.repeat(np.arange(len(files)), [file.windows for file in files.values()]),
        document_W=_number_documents(files.values()),
        digest_V=digest_V,
        padding=padding,
        shift_W=shift_W,
    )


def merge_copies(index: WindowIndex, files: Mapping[str, WindowFile]) -> WindowIndex:
    """Number vectors that are equal up to noise alike, if most windows are not linked and equality is unambiguous."""
    chains = link_windows(index.vectors_WT, index.label_W)
    is_linked_W = chains.windows_C[chains.chain_W] > 1
    if len(index) < 2 or is_linked_W.mean() > 0.5:
        return index
    near = merge_near_equal(_project_distinct(index, files))
    if near is None:
        return index
    # The number of a merged vector follows from its smallest digest, whatever the order in the file.
    first_V = np.unique(near.number_V, return_index=True)[1]
    order = np.empty(len(first_V), np.int32)
    order[np.argsort(first_V)] = np.arange(len(first_V))
    number_V = order[near.number_V]
    merged = replace(
        index,
        vectors_WT=number_V[index.vectors_WT],
        digest_V=index.digest_V[np.sort(first_V)],
        padding=int(number_V[index.padding]) if index.padding >= 0 else -1,
        near=near,
    )
    linked_W = (relinked := link_windows(merged.vectors_WT, merged.label_W)).windows_C[relinked.chain_W] > 1
    return merged if linked_W.sum() >= is_linked_W.sum() else index


def _project_distinct(index: WindowIndex, files: Mapping[str, WindowFile]) -> NDArray[np.float32]:
    """Read the files again, and return the projection (V, P) of each distinct vector, scaled to unit length."""
    matrix_DP = projection(next(iter(files.values())).dimensions)
    projected_VP = np.zeros((len(index.digest_V), matrix_DP.shape[1]), np.float32)
    numbers_WT = rotate_contexts(index.vectors_WT, -index.shift_W)
    start = 0
    for file in files.values():
        for member, columns in ((file.contexts, slice(None, -1)), (file.targets, slice(-1, None))):
            for first, block in member.blocks():
                rows = slice(start + first, start + first + len(block))
                vectors = block.reshape(-1, block.shape[-1]).astype(np.float32)
                with np.errstate(invalid="ignore", over="ignore"):
                    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
                # A vector that is not finite is refused later; here it must only not disturb the search.
                projected_VP[numbers_WT[rows, columns].ravel()] = np.nan_to_num(vectors @ matrix_DP)
        start += file.windows
    return projected_VP


def _padding_at_end(vectors_WT: NDArray[np.int32], padding: int) -> Ints:
    """Return for each window (W,) how many zero vectors end its context, if all its zero vectors are there."""
    is_zero_WS = vectors_WT[:, :-1] == padding
    count_W = is_zero_WS.sum(axis=1)
    # Zeros at the end: the last `count` columns are zero, and another one before them is not.
    ends_W = np.cumprod(is_zero_WS[:, ::-1], axis=1).sum(axis=1)
    shift_W: Ints = np.where((ends_W == count_W) & (count_W < is_zero_WS.shape[1]), count_W, 0)
    return shift_W


def rotate_contexts(vectors_WT: NDArray[Any], shift_W: Ints) -> NDArray[Any]:
    """Return the windows with their contexts rotated to the right by `shift_W` columns."""
    if not shift_W.any():
        return vectors_WT
    context = vectors_WT.shape[1] - 1
    columns_WS = (np.arange(context) - shift_W[:, None]) % context
    return np.hstack([np.take_along_axis(vectors_WT[:, :-1], columns_WS, axis=1), vectors_WT[:, -1:]])


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
        digests[start : start + len(block), :-1] = digest_rows(np.ascontiguousarray(block, dtype))
        task.advance(len(block) * file.context)
    for start, block in file.targets.blocks():
        digests[start : start + len(block), -1] = digest_rows(np.ascontiguousarray(block, dtype))
        task.advance(len(block))
    return digests
