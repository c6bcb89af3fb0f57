"""Read and write .npz files of windows member by member, one block in memory at a time.

    context_sequences   (W, S, D) float16 or float32: the vectors before each target, oldest first
    target_vectors      (W, D) of the same kind
    article_index       (W,) integers, optional: the document of each window
    space               (1,) text, optional: the embedding space as JSON, in files that nextvec wrote

Uncompressed members (np.savez) are memory-mapped in the archive, compressed ones (np.savez_compressed) are streamed.
Pickled members are never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.files import write_atomic
from nextvec.data.readers._common import bomb_message, is_bomb
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.errors import SpaceError, StoreError, did_you_mean, one_line

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
    """One array of an npz file: its header, and the position of its values."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header_bytes: int
    """Length of the array's header, at the start of the member."""
    offset: int | None
    """Position of the first value in the file; None if the member is compressed."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, rows) of each block in order, of about BLOCK_BYTES.

        A block of an uncompressed member is a view of the file: only the rows that are used are read. Raises StoreError
        if the file is damaged.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = max(1, BLOCK_BYTES // row_bytes)
        # Uncompressed: map each block directly in the archive.
        if self.offset is not None:
            for start in range(0, self.shape[0], step):
                shape = (min(step, self.shape[0] - start), *self.shape[1:])
                with _reading(self.path, self.name):
                    block = np.memmap(self.path, self.dtype, "r", self.offset + start * row_bytes, shape)
                yield start, block
            return
        file = f"{self.name}.npy"
        # Compressed: decompress as a stream, after the array's header.
        with _reading(self.path, self.name), zipfile.ZipFile(self.path) as archive, archive.open(file) as stream:
            stream.read(self.header_bytes)
            for start in range(0, self.shape[0], step):
                rows = min(step, self.shape[0] - start)
                values = np.frombuffer(stream.read(rows * row_bytes), self.dtype)
                yield start, values.reshape(rows, *self.shape[1:])

    def read(self) -> NDArray[Any]:
        """Return the whole array; for small members."""
        return np.concatenate([np.array(block) for _, block in self.blocks()])


@dataclass(frozen=True)
class WindowFile:
    """An npz file of W windows, open for reading."""

    path: Path
    contexts: Member
    targets: Member
    documents: NDArray[np.integer[Any]] | None = field(repr=False)
    """(W,) the document of each window; None if unknown."""
    space: Space | None
    """The embedding space of the vectors; None if the file does not name it."""
    notices: tuple[str, ...]
    """Messages about members that are not used."""

    @property
    def windows(self) -> int:
        """W, the number of windows."""
        return self.targets.shape[0]

    @property
    def context(self) -> int:
        """S, the context length."""
        return self.contexts.shape[1]

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return self.targets.shape[1]


def npz_hash(path: Path) -> str:
    """Return a hash of an npz file, 16 hexadecimal digits, from the checksums in the archive."""
    with _reading(path, "the file"), zipfile.ZipFile(path) as archive:
        members = sorted((info.filename, info.CRC, info.file_size) for info in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def open_windows(path: Path, documents: Path | None = None) -> WindowFile:
    """Read the headers of an npz file of windows, and the document of each window.

    `documents` is a .npy file of (W,) integers; by default the member article_index is used if it exists. Raises
    StoreError if a file is missing, damaged or has other shapes or types.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such file. Name an .npz file with {CONTEXTS} and {TARGETS}.")
    with _reading(path, "the file"), zipfile.ZipFile(path) as archive:
        arrays = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        members = {member.name: member for member in (_member(path, archive, info) for info in arrays)}
    missing = [name for name in (CONTEXTS, TARGETS) if name not in members]
    if missing:
        present = ", ".join(sorted(members)) or "none"
        raise StoreError(f"{path}: has no member {' and '.join(missing)} (members: {present}). Name a file of windows.")
    # Everything is checked from the headers, before any vector is read.
    contexts = _require_vectors(members.pop(CONTEXTS), 3)
    targets = _require_vectors(members.pop(TARGETS), 2)
    windows, _, dimensions = contexts.shape
    if targets.shape != (windows, dimensions):
        raise StoreError(
            f"{path}: {CONTEXTS} is {contexts.shape}, so {TARGETS} must be {(windows, dimensions)}, "
            f"but it is {targets.shape}. Make the file again."
        )
    if math.prod(contexts.shape[1:]) * contexts.dtype.itemsize > BLOCK_BYTES:
        raise StoreError(
            f"{path}: {CONTEXTS} is {contexts.shape}: a window exceeds {BLOCK_BYTES:,} bytes. Use a shorter context."
        )
    if 0 in contexts.shape:
        raise StoreError(f"{path}: has no windows ({CONTEXTS} is {contexts.shape}). Name a file of windows.")
    # Documents: the file that the user named, else the member of the archive.
    labels = None
    if documents is not None:
        labels = _require_labels(_load(documents), windows, f"documents {documents}")
    elif ARTICLES in members and not members[ARTICLES].dtype.hasobject:
        labels = _require_labels(members.pop(ARTICLES).read(), windows, f"{path}: {ARTICLES}")
    space = _read_space(members.pop(SPACE), dimensions) if SPACE in members else None
    notices = tuple(
        f"{path.name}: member {name} is {'pickled and was not loaded' if member.dtype.hasobject else 'not used'}"
        for name, member in sorted(members.items())
    )
    return WindowFile(path, contexts, targets, labels, space, notices)


def open_files(files: Mapping[str, Path], documents: Path | Mapping[str, Path] | None) -> dict[str, WindowFile]:
    """Open a file for each split, in the order of SPLITS; see `open_windows`.

    `documents` belongs to the train file, or is a mapping by split. Raises StoreError if the files differ in S or D.
    """
    # Check the names of the splits before any file is opened.
    document_files = documents if isinstance(documents, Mapping) else {"train": documents} if documents else {}
    for split in [*files, *document_files]:
        if split not in SPLITS:
            raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
        if split not in files:
            raise StoreError(f"documents for {split}: there is no file of windows for {split}. Name both files.")
    if not files:
        raise StoreError("nothing to import. Name an .npz file of windows for train, val or ood.")
    opened = {
        split: open_windows(Path(files[split]), Path(document_files[split]) if split in document_files else None)
        for split in SPLITS
        if split in files
    }
    first, *rest = opened.values()
    for file in rest:
        if (file.context, file.dimensions) != (first.context, first.dimensions):
            raise StoreError(
                f"{file.path.name}: has context {file.context} and {file.dimensions} dimensions, but "
                f"{first.path.name} has {first.context} and {first.dimensions}. Import files of the same shape."
            )
    return opened


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

    write_atomic(path, write)


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
        # Objects are pickles, which `_require_vectors` refuses; of numbers, size and order must be as expected.
        if not dtype.hasobject:
            if info.file_size != header_bytes + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"its length does not match its header ({shape} {dtype})")
            if fortran_order:
                raise ValueError("it is in Fortran order; save np.ascontiguousarray of it")
        offset = None
        if info.compress_type == zipfile.ZIP_STORED:
            # The zip directory has only the position of the member's local header, whose length varies.
            with path.open("rb") as file:
                file.seek(info.header_offset)
                signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            assert signature == b"PK\x03\x04", signature  # zipfile has checked it
            offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + header_bytes
    return Member(path, name, shape, dtype, header_bytes, offset)


def _require_vectors(member: Member, axes: int) -> Member:
    """Return the member. Raises StoreError unless it has that many axes and is float16 or float32."""
    shape = {2: "(windows, D)", 3: "(windows, S, D)"}[axes]
    if member.dtype.hasobject:
        raise StoreError(
            f"{member.path}: {member.name} is pickled, which is unsafe to load. Save it as {shape} float32."
        )
    if len(member.shape) != axes or member.dtype.newbyteorder("=") not in (np.float16, np.float32):
        raise StoreError(
            f"{member.path}: {member.name} is {member.shape} {member.dtype}, but must be {shape} float16 or float32."
        )
    return member


def _read_space(member: Member, dimensions: int) -> Space | None:
    """Return the space that a file names; None if the member was written by another tool."""
    if member.dtype.kind != "U" or member.shape != (1,):
        return None
    try:
        space = Space.from_dict(json.loads(str(member.read()[0])))
    except (ValueError, SpaceError):
        return None
    return space if space.dimensions == dimensions else None


def _load(path: Path) -> Any:
    """Map a .npy file."""
    with _reading(path, "the file"):
        return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a wrong header cannot exhaust memory


def _require_labels(labels: Any, windows: int, name: str) -> NDArray[np.integer[Any]]:
    """Return the labels. Raises StoreError unless they are one integer per window."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != (windows,):
        kind = f"{labels.shape} {labels.dtype}" if isinstance(labels, np.ndarray) else "an archive"
        raise StoreError(f"{name}: is {kind}, but must be ({windows},) integers, one per window. Make the file again.")
    return labels


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
