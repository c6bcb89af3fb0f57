"""Open text files as streams of UTF-8: decompressed, without a byte order mark, and protected against bombs.

gzip, bzip2 and xz are in the standard library. pyarrow, which nextvec needs anyway, decompresses Zstandard.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from nextvec.data.readers._common import MAX_DOCUMENT_BYTES, bomb_message, is_bomb, reading
from nextvec.errors import CorpusError, one_line

DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""Suffix of a compressed file → function that returns a stream of its uncompressed bytes."""

_BLOCK_BYTES = 1 << 16
_SNIFFED_BYTES = 4096
_MAX_NUL_FRACTION = 0.1
"""English text in UTF-16 has a NUL in half of its bytes, text in UTF-8 has none."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),  # before UTF-16, whose mark is the start of this one
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)

SAVE_AS_UTF8 = "Save the file as UTF-8; if it is Latin-1, with: iconv -f LATIN1 -t UTF-8 OLD > NEW."


class DamagedDataError(Exception):
    """A compressed stream is truncated or damaged. Readers add the position and raise a CorpusError."""


def split_suffixes(name: str) -> tuple[str, str, str]:
    """Return a file name as stem, kind and compression, the last two in lower case: ``("news", ".jsonl", ".gz")``."""
    path = Path(name)
    compression = path.suffix.lower() if path.suffix.lower() in DECOMPRESSORS else ""
    if compression:
        path = path.with_suffix("")
    return path.stem, path.suffix.lower(), compression


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a file as a stream of bytes, decompressed according to its suffix.

    Raises CorpusError if the file cannot be read or is a decompression bomb, DamagedDataError if it is damaged.
    """
    with reading(path), path.open("rb") as file:
        *_, compression = split_suffixes(path.name)
        if not compression:
            yield file
            return
        with io.BufferedReader(_Decompressed(path, file, compression), _BLOCK_BYTES) as stream:
            yield stream


@contextlib.contextmanager
def open_utf8(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a text file as a stream of UTF-8 without a byte order mark; UTF-16 and UTF-32 are recognized by theirs.

    Bytes without a mark are passed on and may be invalid; see `decode_utf8`. Raises CorpusError also for text that
    seems to be UTF-16 without a mark.
    """
    with open_bytes(path) as stream:
        head = stream.peek(_SNIFFED_BYTES)[:_SNIFFED_BYTES]
        mark, encoding = next((pair for pair in _BYTE_ORDER_MARKS if head.startswith(pair[0])), (b"", "UTF-8"))
        stream.read(len(mark))
        if encoding != "UTF-8":
            yield io.BufferedReader(_Transcoded(path, stream, encoding), _BLOCK_BYTES)
        elif head.count(0) > _MAX_NUL_FRACTION * len(head):
            raise CorpusError(
                f"{path}: has NUL bytes (the first is byte {head.index(0):,}), so it is binary, or UTF-16 without a "
                "byte order mark. Save the file as UTF-8."
            )
        else:
            yield stream


def read_text(path: Path) -> str:
    """Return the text of a whole file. Raises CorpusError if it cannot be read, is damaged or not UTF-8."""
    try:
        with open_utf8(path) as stream:
            content = stream.read()
    except DamagedDataError as error:
        raise CorpusError(f"{path}: truncated or damaged ({error}). Copy or download it again.") from error
    return decode_utf8(content, str(path))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their line ends, numbered from 1.

    Raises CorpusError with the number of the line if one is too long or not UTF-8, or if the file is damaged after it.
    """
    number = 0
    try:
        with open_utf8(path) as stream:
            while line := stream.readline(MAX_DOCUMENT_BYTES):
                number += 1
                where = f"{path}, line {number}"
                if len(line) == MAX_DOCUMENT_BYTES:
                    raise CorpusError(f"{where}: longer than {MAX_DOCUMENT_BYTES:,} bytes. Divide the document.")
                yield number, decode_utf8(line, where, of=" of the line")
    except DamagedDataError as error:
        position = f"after line {number:,}" if number else "at its start"
        raise CorpusError(f"{path}: truncated or damaged {position} ({error}). Copy or download it again.") from error


def decode_utf8(content: bytes, where: str, of: str = "") -> str:
    """Decode UTF-8. Raises CorpusError that names the position of the first invalid byte, counted from 0."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        value = content[error.start]
        raise CorpusError(
            f"{where}: not valid UTF-8 (byte {error.start:,}{of}, 0x{value:02X}). {SAVE_AS_UTF8}"
        ) from error


class _Decompressed(io.RawIOBase):
    """The uncompressed bytes of an open file. Counts them, to refuse a decompression bomb before it fills memory."""

    def __init__(self, path: Path, file: io.BufferedReader[Any], compression: str) -> None:
        self._path, self._compressed_bytes = path, path.stat().st_size
        self._stream = DECOMPRESSORS[compression](file)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            block = self._stream.read(min(len(target), _BLOCK_BYTES))
        except OSError as error:
            # An error of the system has a number; one of the decompressors has none.
            if error.errno is not None:
                raise
            raise DamagedDataError(one_line(error)) from error
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DamagedDataError(one_line(error)) from error
        self._read += len(block)
        if is_bomb(self._compressed_bytes, self._read):
            message = bomb_message(self._compressed_bytes, self._read)
            raise CorpusError(f"{self._path}: {message}. It is unsafe to read.")
        target[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Transcoded(io.RawIOBase):
    """A stream of another encoding as UTF-8."""

    def __init__(self, path: Path, stream: io.BufferedReader[Any], encoding: str) -> None:
        self._path, self._stream, self._encoding = path, stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            block = self._stream.read(_BLOCK_BYTES)
            try:
                self._ready = self._decoder.decode(block, final=not block).encode()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{self._path}: not valid {self._encoding} (near byte {self._read + error.start:,}). "
                    "Save the file as UTF-8."
                ) from error
            self._read += len(block)
            if not block:
                break
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
