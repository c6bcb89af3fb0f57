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
    DocumentTable,
    Store,
    open_store,
    unfinished_folder,
)
from nextvec.data.store.documents import ROW_GROUP
from nextvec.data.store.manifest import FORMAT_VERSION, MANIFEST, manifest_checksum
from nextvec.data.store.vectors import SHARD_BYTES, VectorLayout, find_layout, is_vector_file
from nextvec.errors import OutputError

STAGED_PREFIX = "staged."
"""Prefix of the working files of an import."""
_STORE_FILES = (DOCUMENTS, CHUNKS, MANIFEST, f".{MANIFEST}.tmp")
MAX_OPEN_FILES = 64
"""Files of vectors that are open at the same time."""


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
    return all(name in _STORE_FILES or is_vector_file(name) or name.startswith(STAGED_PREFIX) for name in names)


class VectorWriter:
    """Writer of a store's vectors. Rows may come in any order; every row must be written once."""

    def __init__(self, folder: Path, layout: VectorLayout) -> None:
        self._paths, self._layout = [folder / name for name in layout.names], layout
        self._first_S = np.cumsum((0, *layout.rows_S[:-1]))
        self._open = dict[int, IO[bytes]]()
        self._data_start = len(layout.header(0))

    def write(self, rows: NDArray[np.integer[Any]], values: NDArray[Any]) -> None:
        """Write `values` (B, D) to `rows` (B,); each run of consecutive rows of a file is one write."""
        # Bytes of the rows in file order; a wrong shape would shift all rows that follow.
        layout = self._layout
        assert values.shape == (len(rows), layout.dimensions), (values.shape, len(rows), layout.dimensions)
        content = np.ascontiguousarray(values, dtype=layout.dtype.newbyteorder("<")).data.cast("B")
        shard_B = np.searchsorted(self._first_S, rows, side="right") - 1
        # A run ends where row numbers jump, or where the next file begins.
        is_edge = (np.diff(rows) != 1) | (np.diff(shard_B) != 0)
        edges = [0, *(np.flatnonzero(is_edge) + 1).tolist(), len(rows)]
        for start, stop in itertools.pairwise(edges):
            shard = int(shard_B[start])
            with writing(self._paths[shard]):
                file = self._file(shard)
                file.seek(self._data_start + int(rows[start] - self._first_S[shard]) * layout.row_bytes)
                run = content[start * layout.row_bytes : stop * layout.row_bytes]
                while run:  # a full disk accepts a part, and the next write raises the error
                    run = run[file.write(run) :]

    def _file(self, shard: int) -> IO[bytes]:
        """Return the open file of a shard."""
        if shard not in self._open:
            # A process may have few files open, and a store many shards.
            if len(self._open) == MAX_OPEN_FILES:
                self.close()
            self._open[shard] = self._paths[shard].open("rb+", buffering=0)
        return self._open[shard]

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


@contextlib.contextmanager
def create_vectors(
    folder: Path, rows: int, dimensions: int, dtype: DTypeLike, shard_bytes: int = SHARD_BYTES
) -> Iterator[VectorWriter]:
    """Create the vectors (rows, dimensions) in a store's folder, in one file or in shards of at most `shard_bytes`.

    They are on disk when the block ends. Space for all rows is reserved first, so that a disk that is too small raises
    an error before the work starts. What an interrupted process left is replaced.
    """
    layout = VectorLayout.plan(rows, dimensions, dtype, shard_bytes)
    paths = [folder / name for name in layout.names]
    for stale in folder.iterdir():
        if is_vector_file(stale.name):
            with writing(stale):
                stale.unlink()
    for shard, path in enumerate(paths):
        with writing(path), path.open("wb", buffering=0) as file:
            # The header of a .npy file with all rows, which are not written yet.
            header = layout.header(shard)
            file.write(header)
            size = len(header) + layout.rows_S[shard] * layout.row_bytes
            file.truncate(size)
            _reserve(file, size)
    with contextlib.closing(VectorWriter(folder, layout)) as writer:
        yield writer
    for path in paths:
        with writing(path), path.open("rb+", buffering=0) as file:
            os.fsync(file.fileno())


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
        pq.write_table(table, folder / DOCUMENTS, ROW_GROUP, compression="zstd")


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
    layout = find_layout(folder)
    manifest = {
        "format": FORMAT_VERSION,
        "space": space.to_dict(),
        "rows": layout.rows,
        "dtype": layout.dtype.name,
        **({"shards": list(layout.rows_S)} if len(layout.rows_S) > 1 else {}),
        "counts": counts,
        **facts,
        "files": {file.relative_to(folder).as_posix(): sha256_of(file) for file in files},
    }
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
