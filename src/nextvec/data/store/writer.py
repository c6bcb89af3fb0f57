"""Write stores: a folder that appears complete or not at all, and vectors written row by row.

Vectors are written with plain writes, not through a memory map: a full disk then raises an error instead of killing the
process, and memory holds one block of rows whatever the store's size.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from nextvec.core.files import sha256_of, sync_folder, write_json, writing
from nextvec.core.locks import unfinished
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import (
    CHUNKS,
    DOCUMENTS,
    JOURNAL,
    VECTORS,
    DocumentTable,
    Store,
    map_vectors,
    open_store,
    unfinished_folder,
)
from nextvec.data.store.manifest import FORMAT_VERSION, MANIFEST, manifest_checksum
from nextvec.errors import OutputError

STAGED_PREFIX = "staged."
"""Prefix of the working files of an import."""
_STORE_FILES = (VECTORS, DOCUMENTS, CHUNKS, MANIFEST, f".{MANIFEST}.tmp")


@contextlib.contextmanager
def unfinished_store(path: Path) -> Iterator[Path]:
    """Make an empty folder for the files of the store `path`; it is removed if the block fails.

    `finish_store` renames it to `path`. What a killed import left is removed. Raises OutputError if the store exists,
    or an unfinished folder of a build or with files of others.
    """
    require_new(path)
    folder = unfinished_folder(path)
    if _is_refused_build(folder):
        remove_folder(folder)
    busy = f"{folder}: another process is writing it. Wait until it ends, or choose another output."
    with unfinished(folder, busy, discard=_is_killed_import(folder)):
        require_new(path)  # another process may have finished it since the first check
        yield folder


def _is_refused_build(folder: Path) -> bool:
    """Return whether a build that was refused left the folder, so that nobody needs it."""
    try:
        return bool(json.loads((folder / JOURNAL).read_text(encoding="utf-8"))["done"]["refused"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_killed_import(folder: Path) -> bool:
    """Return whether a folder has only the files of a store that an import or a synthesis was writing."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return all(name in _STORE_FILES or name.startswith(STAGED_PREFIX) for name in names)


class VectorWriter:
    """Writer of a store's vectors.npy. Rows may come in any order; every row must be written once."""

    def __init__(self, file: IO[bytes], path: Path, dtype: np.dtype[Any], dimensions: int) -> None:
        self._file, self._path, self._dtype, self._dimensions = file, path, dtype, dimensions
        self._data_start = file.tell()

    def write(self, rows: NDArray[np.integer[Any]], values: NDArray[Any]) -> None:
        """Write `values` (B, D) to `rows` (B,); each run of consecutive rows is one write."""
        # Bytes of the rows in file order; a wrong shape would shift all rows that follow.
        assert values.shape == (len(rows), self._dimensions), (values.shape, len(rows), self._dimensions)
        content = np.ascontiguousarray(values, dtype=self._dtype).data.cast("B")
        row_bytes = self._dimensions * self._dtype.itemsize
        # Row numbers jump at the edges of runs.
        edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        with writing(self._path):
            for start, stop in itertools.pairwise(edges):
                self._file.seek(self._data_start + int(rows[start]) * row_bytes)
                run = content[start * row_bytes : stop * row_bytes]
                while run:  # a full disk accepts a part, and the next write raises the error
                    run = run[self._file.write(run) :]

    def flush(self) -> None:
        """Wait until all written rows are on disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())


@contextlib.contextmanager
def create_vectors(folder: Path, rows: int, dimensions: int, dtype: DTypeLike) -> Iterator[VectorWriter]:
    """Open vectors.npy with shape (rows, dimensions) in a store's folder; it is on disk when the block ends.

    Rows written by an earlier, interrupted build are kept. Space for all rows is reserved first, so that a disk that is
    too small raises an error before the work starts.
    """
    path, kind = folder / VECTORS, np.dtype(dtype).newbyteorder("<")
    # The header of a .npy file with all rows, whether or not they are written yet.
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
    """Reserve the disk space of a file if the system and the filesystem support it."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        # A filesystem without support raises another error; the build then continues without a reservation.
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def require_free_space(folder: Path, size: int) -> None:
    """Raise OutputError if the filesystem of `folder` has fewer than `size` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(
            f"cannot write {folder}: the vectors need {size / 2**30:,.1f} GiB, but the disk has "
            f"{free / 2**30:,.1f} GiB free. Free some space, and run the same command again."
        )


def require_new(path: Path) -> None:
    """Raise OutputError if `path` exists; nothing is ever overwritten."""
    if path.exists():
        raise OutputError(f"output {path}: already exists. Choose another path, or remove it.")


def write_documents(folder: Path, documents: DocumentTable) -> None:
    """Write documents.parquet into a store's folder."""
    table = pa.table(
        {
            "id": pa.array(documents.ids, pa.string()),
            "title": pa.array(documents.titles, pa.string()),
            "source": pa.array(documents.sources, pa.string()),
            "first_row": pa.array(documents.first_row, pa.int64()),
            "rows": pa.array(documents.rows, pa.int64()),
            "split": pa.array([SPLITS[int(split)] for split in documents.splits], pa.string()),
            "group": pa.array(documents.group, pa.int64()),
        }
    )
    with writing(folder / DOCUMENTS):
        pq.write_table(table, folder / DOCUMENTS, compression="zstd")


def write_texts(folder: Path, batches: Iterable[Sequence[str]]) -> None:
    """Write chunks.parquet into a store's folder from batches of texts in row order."""
    schema = pa.schema([("text", pa.string())])
    with writing(folder / CHUNKS), pq.ParquetWriter(folder / CHUNKS, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.table({"text": pa.array(list(batch), pa.string())}, schema=schema))


def finish_store(folder: Path, path: Path, space: Space, counts: dict[str, Any], **facts: Any) -> Store:
    """Write the manifest of a complete folder, rename the folder to `path` in one step, and open the store.

    `counts` and `facts` (chunker, split plan, origin …) are plain values that the manifest stores unchanged.
    """
    # Every file has a checksum in the manifest, which is written last and has its own.
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    vectors = map_vectors(folder / VECTORS)
    manifest = {
        "format": FORMAT_VERSION,
        "space": space.to_dict(),
        "rows": len(vectors),
        "dtype": str(vectors.dtype),
        "counts": counts,
        **facts,
        "files": {file.relative_to(folder).as_posix(): sha256_of(file) for file in files},
    }
    del vectors  # close the map before the folder is renamed
    manifest["checksum"] = manifest_checksum(manifest)
    write_json(folder / MANIFEST, manifest)
    require_new(path)
    with writing(path):
        # The store appears in one step, or not at all.
        folder.rename(path)
    sync_folder(path.parent)
    return open_store(path)


def remove_folder(folder: Path) -> None:
    """Remove an unfinished folder and its content."""
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=False)
