"""The vectors of a store: one .npy file, or several (shards) that are mapped as one array.

    vectors.npy                                   (N, D), if it is not larger than one shard may be
    vectors-00001-of-00003.npy, …00002-of…, …     otherwise; each is a .npy file with consecutive rows

Shards are mapped one after another into one range of addresses. So the vectors of a store are one array (N, D),
whatever the number of files, and nothing is copied. For that the data of a shard begin at ALIGNMENT bytes (spaces in
the header of the .npy file), and the data of each shard except the last are a multiple of ALIGNMENT long.

Letters in names: N rows of the store, S shards, D dimensions.
"""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.data.store.address_range import AddressRange
from nextvec.errors import StoreError, one_line

VECTORS = "vectors.npy"
SHARD_BYTES = 2**30
"""Maximum size of a file of vectors: small enough to be fetched again, large enough that a store has few."""
ALIGNMENT = 2**16
"""Bytes of a shard's header: the largest page size of a system, and the largest header of a .npy file of version 1."""

_NAME = re.compile(r"vectors(-\d{5,}-of-\d{5,})?\.npy")


@dataclass(frozen=True)
class VectorLayout:
    """The files of a store's vectors."""

    rows_S: tuple[int, ...]
    """Rows of each file, in order."""
    dimensions: int
    dtype: np.dtype[Any]
    """float16 or float32."""

    @classmethod
    def plan(cls, rows: int, dimensions: int, dtype: DTypeLike, shard_bytes: int = SHARD_BYTES) -> VectorLayout:
        """Divide rows into as few shards as possible, each with at most `shard_bytes` of data, or else ALIGNMENT."""
        kind = np.dtype(dtype)
        row_bytes = dimensions * kind.itemsize
        # The smallest number of rows whose bytes are a multiple of ALIGNMENT.
        unit = ALIGNMENT // math.gcd(ALIGNMENT, row_bytes)
        shard_rows = max(shard_bytes // (unit * row_bytes), 1) * unit
        # A store that fits in one shard is one plain file.
        if rows * row_bytes <= max(shard_bytes, shard_rows * row_bytes):
            return cls((rows,), dimensions, kind)
        full, rest = divmod(rows, shard_rows)
        return cls((shard_rows,) * full + ((rest,) if rest else ()), dimensions, kind)

    @classmethod
    def of_manifest(cls, manifest: dict[str, Any], dimensions: int, where: str) -> VectorLayout:
        """Return the layout that a manifest describes. Raises StoreError that begins with `where`."""
        rows, kind = manifest["rows"], manifest.get("dtype")
        rows_S = manifest.get("shards", [rows])
        if kind not in ("float16", "float32"):
            raise StoreError(f"{where}: manifest.json is damaged (dtype {kind!s:.20}). Build the store again.")
        layout = cls(tuple(rows_S), dimensions, np.dtype(kind)) if isinstance(rows_S, list) else None
        if layout is None or not layout._is_possible(rows):
            raise StoreError(f"{where}: manifest.json is damaged (shards {rows_S!s:.60}). Build the store again.")
        return layout

    def _is_possible(self, rows: Any) -> bool:
        """Return whether the files are those of a store with this number of rows, as far as a manifest shows it."""
        if not self.rows_S or not all(type(count) is int and count >= 0 for count in self.rows_S):
            return False
        # Only the last shard may end anywhere: the next one begins on a page of its own.
        is_aligned = not any(count * self.row_bytes % ALIGNMENT for count in self.rows_S[:-1])
        return self.rows == rows and (len(self.rows_S) == 1 or min(self.rows_S) > 0) and is_aligned

    @property
    def names(self) -> list[str]:
        """The names of the files, in order."""
        return vector_files(len(self.rows_S))

    @property
    def rows(self) -> int:
        """N, the rows of all files."""
        return sum(self.rows_S)

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.dimensions * self.dtype.itemsize

    def header(self, shard: int) -> bytes:
        """Return the header of a file; that of one of several shards is ALIGNMENT bytes long."""
        shape = (self.rows_S[shard], self.dimensions)
        buffer = io.BytesIO()
        values = {"descr": self.dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, values)
        header = buffer.getvalue()
        if len(self.rows_S) == 1:
            return header
        # The format .npy, version 1.0: eight bytes, the size of the rest, the values of a dict, spaces, a line end.
        return header[:8] + (ALIGNMENT - 10).to_bytes(2, "little") + header[10:].rstrip().ljust(ALIGNMENT - 11) + b"\n"


def vector_files(shards: int) -> list[str]:
    """Return the names of the files of that many shards."""
    if shards == 1:
        return [VECTORS]
    return [f"vectors-{shard + 1:05d}-of-{shards:05d}.npy" for shard in range(shards)]


def is_vector_file(name: str) -> bool:
    """Return whether a file of a store has this name because it contains vectors."""
    return _NAME.fullmatch(name) is not None


def find_layout(folder: Path) -> VectorLayout:
    """Return the layout of the vectors in a folder, from the headers of the files. Raises StoreError."""
    if (folder / VECTORS).exists():
        vectors = map_vectors(folder / VECTORS)
        return VectorLayout((len(vectors),), vectors.shape[1], vectors.dtype)
    files = sorted(file for file in folder.iterdir() if is_vector_file(file.name))
    shapes = [_read_header(file) for file in files]
    if not files or [file.name for file in files] != vector_files(len(files)):
        raise StoreError(f"vectors {folder}: not all shards are there.")
    return VectorLayout(tuple(rows for rows, _, _ in shapes), shapes[0][1], shapes[0][2])


def map_store_vectors(folder: Path, layout: VectorLayout, where: str) -> NDArray[Any]:
    """Map the vectors (N, D) of a store, copy-on-write. Raises StoreError that begins with `where`."""
    if len(layout.rows_S) == 1:
        return map_vectors(folder / VECTORS)
    try:
        addresses = AddressRange(layout.rows * layout.row_bytes)
    except OSError as error:
        raise StoreError(f"{where}: its shards cannot be mapped ({one_line(error)}). Build it in one file.") from error
    # Every shard is compared with the manifest before it gets its place: a wrong one would shift all rows after it.
    start = 0
    for shard, name in enumerate(layout.names):
        size = layout.rows_S[shard] * layout.row_bytes
        try:
            # The map outlives the descriptor, so that a thousand shards need no thousand open files.
            descriptor = os.open(folder / name, os.O_RDONLY)
            try:
                _require_shard(f"{where}: {name}", descriptor, layout, shard)
                addresses.map_file(start, size, descriptor, ALIGNMENT)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                f"{where}: {name} can't be read ({error.strerror}). Build the store again, or copy it again."
            ) from error
        start += size
    return addresses.array((layout.rows, layout.dimensions), layout.dtype)


def _require_shard(where: str, descriptor: int, layout: VectorLayout, shard: int) -> None:
    """Raise StoreError unless a shard has the header and the size that the manifest says."""
    rows, size = layout.rows_S[shard], ALIGNMENT + layout.rows_S[shard] * layout.row_bytes
    # The values are at the start of the header; spaces follow.
    if os.pread(descriptor, 256, 0) != layout.header(shard)[:256]:
        expected = f"{rows} × {layout.dimensions} {layout.dtype.name}"
        raise StoreError(f"{where} is not a shard of {expected}. Build the store again, or copy it again.")
    found = os.fstat(descriptor).st_size
    if found != size:
        raise StoreError(f"{where} has {found:,} bytes instead of {size:,}. Build the store again, or copy it again.")


def read_rows(folder: Path, layout: VectorLayout, start: int, stop: int) -> NDArray[Any]:
    """Return a copy of consecutive rows, read through a map of its own.

    The pages that were read are returned to the system with that map, not kept as long as the store's.
    """
    parts = []
    first = 0
    for name, rows in zip(layout.names, layout.rows_S, strict=True):
        # The part of the rows that is in this file, counted from its first row.
        inside = slice(max(start - first, 0), min(stop - first, rows))
        if inside.start < inside.stop:
            shape = (inside.stop - inside.start, layout.dimensions)
            header = ALIGNMENT if len(layout.rows_S) > 1 else np.load(folder / name, mmap_mode="r").offset
            offset = header + inside.start * layout.row_bytes
            parts.append(np.array(np.memmap(folder / name, layout.dtype, "r", offset, shape)))
        first += rows
    return np.concatenate(parts)


def map_vectors(path: Path) -> NDArray[Any]:
    """Memory-map a .npy file of (N, D) float16 or float32. Raises StoreError for anything else."""
    try:
        # Copy-on-write: torch requires writable memory, and a stray write cannot reach the file.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"vectors {path}: not a readable .npy file ({one_line(error)}).") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        shape, dtype = getattr(vectors, "shape", "?"), getattr(vectors, "dtype", "?")
        raise StoreError(f"vectors {path}: {shape} {dtype} is not (N, D) float16 or float32. Convert the array.")
    return vectors


def _read_header(file: Path) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, dimensions and number format of a shard. Raises StoreError if it is none."""
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, dtype = np.lib.format.read_array_header_1_0(opened, max_header_size=ALIGNMENT)
        rows, dimensions = shape
        return rows, dimensions, dtype
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"vectors {file}: not a readable .npy file ({one_line(error)}).") from error
