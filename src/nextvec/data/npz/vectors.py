"""Copy the vectors of windows to a store's rows, each once, scaled to unit length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.data.npz.files import WindowFile
from nextvec.data.npz.format import Member
from nextvec.data.npz.index import WindowIndex, rotate_contexts
from nextvec.data.npz.relink import Chains, Ints
from nextvec.data.store.writer import VectorWriter
from nextvec.errors import StoreError

UNIT_TOLERANCE = 1e-3
"""Vectors whose length deviates more from 1 are scaled; rounding to float16 changes a length less."""


def rows_of_windows(
    index: WindowIndex, chains: Chains, first_row_C: Ints, padded_C: Ints, is_kept_W: NDArray[np.bool_]
) -> Ints:
    """Return the row (W, T) to which each vector of each window is copied; -1 if it isn't, because another copy is.

    `padded_C` is the number of zero vectors in the chain's first context; `is_kept_W` has all windows of the files.
    """
    context = index.vectors_WT.shape[1] - 1
    first_row_W = first_row_C[chains.chain_W] - padded_C[chains.chain_W]
    rows_WT = np.full(index.vectors_WT.shape, -1, np.int64)
    # The first window of a chain contributes its context, without padding.
    is_head_W = chains.position_W == 0
    rows_WT[is_head_W, :-1] = first_row_W[is_head_W, None] + np.arange(context)
    rows_WT[:, :-1][index.vectors_WT[:, :-1] == index.padding] = -1
    # Every window contributes its target, which follows the S vectors and the targets of the windows before it.
    rows_WT[:, -1] = first_row_W + context + chains.position_W
    every_WT = np.full((len(is_kept_W), context + 1), -1, np.int64)
    every_WT[is_kept_W] = rotate_contexts(rows_WT, -index.shift_W)
    return every_WT


def write_windows(writer: VectorWriter, files: Iterable[WindowFile], rows_WT: Ints, quiet: bool) -> int:
    """Copy the vectors of all files to their rows (W, T); return how many were scaled to unit length.

    Raises StoreError for a vector that is zero or not finite.
    """
    scaled, first = 0, 0
    with progress("writing vectors", len(rows_WT), unit="windows", quiet=quiet) as task:
        for file in files:
            rows_of_file_WT = rows_WT[first : first + file.windows]
            for start, block in file.contexts.blocks():
                rows_BS = rows_of_file_WT[start : start + len(block), :-1]
                scaled += _write(writer, file.contexts, start, block, rows_BS)
            for start, block in file.targets.blocks():
                rows_B1 = rows_of_file_WT[start : start + len(block), -1:]
                scaled += _write(writer, file.targets, start, block[:, None], rows_B1)
                task.advance(len(block))
            first += file.windows
    return scaled


def _write(writer: VectorWriter, member: Member, start: int, block: NDArray[Any], rows_BK: Ints) -> int:
    """Write the vectors (B, K, D) that have a row (B, K); return how many were scaled. `start` is the first window."""
    window, column = np.nonzero(rows_BK >= 0)
    if not len(window):
        return 0
    values, scaled = to_unit_length(block[window, column], member, start + window)
    writer.write(rows_BK[window, column], values)
    return scaled


def to_unit_length(vectors: NDArray[Any], member: Member, rows: Ints, unit: str = "window") -> tuple[NDArray[Any], int]:
    """Return vectors (B, D), scaled if their length deviates more than UNIT_TOLERANCE from 1, and how many were.

    `rows` (B,) and `unit` name their places in the file. Raises StoreError for vectors that are zero or not finite.
    """
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    is_bad: NDArray[np.bool_] = ~(np.isfinite(lengths) & (lengths > 0))
    if is_bad.any():
        position = int(is_bad.argmax())
        fault = "a zero vector" if lengths[position] == 0 else "a value that is not finite"
        raise StoreError(f"{member.path}: {member.name} of {unit} {rows[position]} has {fault}. Remove that {unit}.")
    # Scale only what is clearly off, so that all other vectors stay equal bit for bit.
    is_off = np.abs(lengths - 1) > UNIT_TOLERANCE
    if is_off.any():
        vectors = vectors.astype(np.float32)
        vectors[is_off] /= lengths[is_off, None]
    return vectors, int(is_off.sum())
