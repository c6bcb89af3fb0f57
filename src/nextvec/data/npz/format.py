"""Read and write the members of an .npz file, one block of rows in memory at a time.

Uncompressed members (np.savez) are memory-mapped in the archive, compressed ones (np.savez_compressed) are streamed.
Pickled members are never loaded. Vectors in float64, another byte order or Fortran order are converted block by block.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.core.files import write_atomic
from nextvec.data.readers._common import bomb_message, is_bomb
from nextvec.errors import StoreError, one_line

CONTEXTS, TARGETS, ARTICLES, SPACE = "context_sequences", "target_vectors", "article_index", "space"
BLOCK_BYTES = 32 * 2**20
"""Approximate size of a block."""

_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    struct.error,
    OverflowError,
    NotImplementedError,
)
"""What zipfile, its decompressors and numpy raise for a damaged file."""

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Zip header before each member: signature, 22 bytes that are skipped, lengths of the name and extra field."""


@dataclass(frozen=True)
class Member:
    """One array of an npz file: its header, the position of its values, and the form in which they are read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header_bytes: int
    """Length of the array's header, at the start of the member."""
    offset: int | None
    """Position of the first value in the file; None if the member is compressed."""
    is_fortran_order: bool = False
    """Whether the file stores the array column by column."""
    view_shape: tuple[int, ...] | None = None
    """Shape in which rows are returned, if it is not `shape`; the number of rows is the same."""
    view_dtype: np.dtype[Any] | None = None
    """Dtype to which rows are converted, if it is not `dtype`."""

    def view(self, shape: tuple[int, ...], dtype: DTypeLike) -> Member:
        """Return the same member, whose rows are reshaped and converted when they are read."""
        return replace(self, view_shape=shape, view_dtype=np.dtype(dtype))

    @property
    def form(self) -> str:
        """Shape and dtype in the file, for messages."""
        return f"{self.name} {self.shape} {'pickled' if self.dtype.hasobject else self.dtype}"

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, rows) of each block in order, of about BLOCK_BYTES.

        A block of an uncompressed member that needs no conversion is a view of the file: only the rows that are used
        are read. Raises StoreError if the file is damaged.
        """
        shape, dtype = self.view_shape or self.shape, self.view_dtype or self.dtype
        for start, block in self._stored_blocks():
            # Values too large for the dtype become infinite, which the import reports.
            with np.errstate(over="ignore"):
                yield start, block.reshape(len(block), *shape[1:]).astype(dtype, copy=False)

    def _stored_blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = max(1, BLOCK_BYTES // max(row_bytes, 1))
        starts = range(0, self.shape[0], step)
        # Fortran order: the rows of a block are spread over the whole array.
        if self.is_fortran_order:
            array = self._read_fortran_order()
            yield from ((start, array[start : start + step]) for start in starts)
        # Uncompressed: map each block directly in the archive.
        elif self.offset is not None:
            for start in starts:
                shape = (min(step, self.shape[0] - start), *self.shape[1:])
                with _reading(self.path, self.name):
                    block = np.memmap(self.path, self.dtype, "r", self.offset + start * row_bytes, shape)
                yield start, block
        # Compressed: decompress as a stream, after the array's header.
        else:
            with _reading(self.path, self.name), self._open() as stream:
                for start in starts:
                    rows = min(step, self.shape[0] - start)
                    values = np.frombuffer(stream.read(rows * row_bytes), self.dtype)
                    yield start, values.reshape(rows, *self.shape[1:])

    def _read_fortran_order(self) -> NDArray[Any]:
        """Return the whole array: mapped if it is uncompressed, in memory otherwise."""
        with _reading(self.path, self.name):
            if self.offset is not None:
                return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
            with self._open() as stream:
                return np.frombuffer(stream.read(), self.dtype).reshape(self.shape, order="F")

    @contextlib.contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """Open the member as a stream, after the array's header."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as stream:
            stream.read(self.header_bytes)
            yield stream

    def read(self) -> NDArray[Any]:
        """Return the whole array; for small members."""
        if not self.shape:
            with _reading(self.path, self.name), self._open() as stream:
                return np.frombuffer(stream.read(), self.dtype).reshape(())
        blocks = [np.array(block) for _, block in self.blocks()]
        return np.concatenate(blocks) if blocks else np.empty(self.shape, self.dtype)


def npz_hash(path: Path) -> str:
    """Return a hash of an npz file, 16 hexadecimal digits, from the checksums in the archive."""
    with _reading(path, "the file"), zipfile.ZipFile(path) as archive:
        members = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def read_members(path: Path) -> dict[str, Member]:
    """Read the headers of all arrays of an npz file. Raises StoreError if it is missing or damaged."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file. Name an .npz file with {CONTEXTS} and {TARGETS}.")
    with _reading(path, "the file"), zipfile.ZipFile(path) as archive:
        arrays = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {member.name: member for member in (_member(path, archive, info) for info in arrays)}


def load_npy(path: Path) -> Any:
    """Map a .npy file. Raises StoreError if it is damaged or pickled."""
    with _reading(path, "the file"):
        return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a wrong header cannot exhaust memory


def write_members(
    path: Path, members: Mapping[str, tuple[tuple[int, ...], np.dtype[Any], Iterable[NDArray[Any]]]]
) -> None:
    """Write an uncompressed npz file from name → (shape, dtype, blocks of rows).

    The file appears in one step, and the same arrays give the same bytes. Raises OutputError if it cannot be written.
    """

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, (shape, dtype, blocks) in members.items():
                # ZipInfo has a constant date. Sizes are unknown in advance, which requires zip64.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                    descr = np.lib.format.dtype_to_descr(dtype)
                    np.lib.format.write_array_header_1_0(
                        stream, {"descr": descr, "fortran_order": False, "shape": shape}
                    )
                    for block in blocks:
                        stream.write(np.ascontiguousarray(block, dtype=dtype).data.cast("B"))

    write_atomic(path, write, new=True)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """Read the two headers of a member: the zip file's and the array's."""
    name = info.filename.removesuffix(".npy")
    with _reading(path, name):
        # The sizes come from the zip directory, so a bomb is refused before it is decompressed.
        if is_bomb(info.compress_size, info.file_size):
            raise ValueError(bomb_message(info.compress_size, info.file_size))
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _HEADER_READERS:
                raise ValueError(f"unknown npy version {version}")
            shape, fortran_order, dtype = _HEADER_READERS[version](stream)
            header_bytes = stream.tell()
        # Objects are pickles, which are never read; the size of all other arrays must be as expected.
        if not dtype.hasobject and info.file_size != header_bytes + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its length does not match its header ({shape} {dtype})")
        offset = None
        if info.compress_type == zipfile.ZIP_STORED:
            # The zip directory has only the position of the member's local header, whose length varies.
            with path.open("rb") as file:
                file.seek(info.header_offset)
                signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            assert signature == b"PK\x03\x04", signature  # zipfile has checked it
            offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + header_bytes
    return Member(path, name, shape, dtype, header_bytes, offset, fortran_order and len(shape) > 1)


@contextlib.contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Turn the errors of a damaged file into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except _READ_ERRORS as error:
        # zipfile reports any file that is not an archive as "not a zip file"; an empty or truncated one is more
        # likely.
        reason = one_line(error)
        if isinstance(error, zipfile.BadZipFile) and not zipfile.is_zipfile(path):
            reason = "empty" if path.stat().st_size == 0 else "truncated, or not an npz file"
        raise StoreError(f"{path}: {name} can't be read: {reason}. Copy or make the file again.") from error
