"""Leave out the windows that cross borders of documents, by their labels or by the content of their vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.npz.borders import find_crossing, find_foreign_context, label_by_content
from nextvec.data.npz.files import WindowFile
from nextvec.data.npz.index import WindowIndex
from nextvec.data.npz.relink import Ints, link_windows

MIN_CHAIN_SHARE = 0.2
"""Borders are searched by content in chains with at least this share of a file's windows: such a chain can't be divided
between splits."""
_MAX_TARGET_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Crossing:
    """The windows that cross borders of documents."""

    windows_W: NDArray[np.bool_]
    """(W,) whether the window crosses a border."""
    way: dict[int, str]
    """How borders were found in each file that has some: "labels" or "content"."""
    unclear: dict[int, int]
    """Number of long chains of each file in which no border was recognized."""


def find_crossing_windows(index: WindowIndex, files: Mapping[str, WindowFile]) -> Crossing:
    """Find the windows of every file that cross borders of documents."""
    crossing_W = np.zeros(len(index), bool)
    way: dict[int, str] = {}
    unclear: dict[int, int] = {}
    for number, file in enumerate(files.values()):
        of_file_W = index.file_W == number
        vectors_WT, document_W = index.vectors_WT[of_file_W], index.document_W[of_file_W]
        is_labeled = file.documents is not None
        if not is_labeled:
            # Only a chain with a large part of the file is suspicious.
            chains = link_windows(vectors_WT, np.zeros(file.windows, np.int64))
            min_windows = int(MIN_CHAIN_SHARE * file.windows)
            document_W, unclear[number] = label_by_content(chains, _Targets(file), min_windows)
        found_W = find_crossing(vectors_WT, document_W)
        if found_W.any():
            way[number] = "labels" if is_labeled else "content"
            # Where windows slide over borders, a gap in the windows may hide one.
            crossing_W[of_file_W] = found_W | find_foreign_context(vectors_WT, document_W)
    return Crossing(crossing_W, way, unclear)


class _Targets:
    """The targets of a file as unit vectors in float16, read on first use."""

    def __init__(self, file: WindowFile) -> None:
        self._file = file
        self._vectors_WD: NDArray[Any] | None = None

    def __call__(self, windows: Ints) -> NDArray[Any]:
        """Return the targets of windows; an empty array if the file is too large to hold them in memory."""
        file = self._file
        if file.windows * file.dimensions * 2 > _MAX_TARGET_BYTES:
            return np.empty((0, file.dimensions), np.float16)
        if self._vectors_WD is None:
            self._vectors_WD = np.empty((file.windows, file.dimensions), np.float16)
            for start, block in file.targets.blocks():
                vectors = block.astype(np.float32)
                with np.errstate(invalid="ignore", over="ignore"):
                    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
                self._vectors_WD[start : start + len(block)] = np.nan_to_num(vectors)
        return self._vectors_WD[windows]
