"""Shared by all readers: decompression limits and the wrapping of errors.

A line has at most MAX_DOCUMENT_BYTES (a long novel has four million). Compressed data may be large, but not both large
and compressed far more than text or vectors can be: such files are decompression bombs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nextvec.errors import CorpusError, one_line

MAX_DOCUMENT_BYTES = 32 * 2**20
"""Maximum size of a document in its file, and so of a line."""
MAX_COMPRESSION_RATIO = 100
"""Maximum ratio of uncompressed to compressed size; text and vectors stay far below it."""
MIN_BOMB_BYTES = 64 * 2**20
"""Uncompressed size up to which data may have any ratio."""


def is_bomb(compressed_bytes: int, uncompressed_bytes: int) -> bool:
    """Return whether data has an implausible compression ratio."""
    return uncompressed_bytes > MIN_BOMB_BYTES and uncompressed_bytes > MAX_COMPRESSION_RATIO * compressed_bytes


def bomb_message(compressed_bytes: int, uncompressed_bytes: int) -> str:
    """Return the reason why such data is refused."""
    return (
        f"{compressed_bytes:,} bytes decompress to {uncompressed_bytes:,}, an implausible ratio "
        "(possible decompression bomb)"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CorpusError that names `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: can't be read: it was removed or renamed. Run the command again.") from error
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror or one_line(error)}.") from error
