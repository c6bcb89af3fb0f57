"""What makers of stores share: a folder that appears whole or not at all, and vectors written row by row.

Vectors go through plain writes, not through a memory map: a full disk is then an error with a name instead of a killed
process, and memory stays at one block whatever the store's size.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.data.store import VECTORS, remove_folder, require_new, unfinished_folder
from nextvec.errors import OutputError
from nextvec.files import make_folder, writing


@contextlib.contextmanager
def unfinished_store(path: Path) -> Iterator[Path]:
    """A fresh folder to put the store `path` together in; removed if the block fails.

    `finish_store` gives it its name. Raises OutputError if the store, or an unfinished one of that name, is there.
    """
    require_new(path)
    folder = unfinished_folder(path)
    if folder.exists():
        raise OutputError(f"{folder} is in the way: remove it, unless a build that you want to resume left it there")
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        if folder.exists():
            remove_folder(folder)
        raise


class VectorWriter:
    """Writes the rows of a store's vectors.npy in any order; every row must be written once."""

    def __init__(self, file: IO[bytes], path: Path, dtype: np.dtype[Any], dimensions: int) -> None:
        self._file, self._path, self._dtype, self._dimensions = file, path, dtype, dimensions
        self._data_start = file.tell()

    def write(self, rows: NDArray[np.integer[Any]], values: NDArray[Any]) -> None:
        """Write `values` (B, D) to `rows` (B,); runs of consecutive rows cost one write each."""
        assert values.shape == (len(rows), self._dimensions), (values.shape, len(rows), self._dimensions)
        content = np.ascontiguousarray(values, dtype=self._dtype).data.cast("B")
        row_bytes = self._dimensions * self._dtype.itemsize
        edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        with writing(self._path):
            for start, stop in itertools.pairwise(edges):
                self._file.seek(self._data_start + int(rows[start]) * row_bytes)
                run = content[start * row_bytes : stop * row_bytes]
                while run:  # a disk that fills up takes a part; the next write then says why
                    run = run[self._file.write(run) :]

    def flush(self) -> None:
        """Return when all that was written is on disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())


@contextlib.contextmanager
def create_vectors(folder: Path, rows: int, dimensions: int, dtype: DTypeLike) -> Iterator[VectorWriter]:
    """Open vectors.npy of (rows, dimensions) in a store's folder; it is on disk when the block ends.

    What was written into it before stays. There is room for all rows from the start: a disk that is too small says so
    before the work.
    """
    path, kind = folder / VECTORS, np.dtype(dtype).newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (rows, dimensions)}
    with writing(path):
        file = path.open("rb+" if path.exists() else "wb", buffering=0)
    with file:
        with writing(path):
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + rows * dimensions * kind.itemsize
            file.truncate(size)
            _reserve(file, size)
        writer = VectorWriter(file, path, kind, dimensions)
        yield writer
        writer.flush()


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the disk space of a file; where the system or the disk can't, a full disk shows when it is reached."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
