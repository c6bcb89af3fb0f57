"""The answers of a server in the block that a build encodes, so that a killed build asks for no text twice.

The file has one record per text: the text's digest (16 bytes), the record's checksum (16), and D float32 numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nextvec.core.files import writing

_DIGEST_BYTES = 16


class AnswerLog:
    """An append-only file of vectors by their texts. Threads may share it."""

    def __init__(self, file: Path, dimensions: int) -> None:
        self._path, self._lock = file, threading.Lock()
        self._vectors: dict[bytes, NDArray[np.float32]] = {}
        with writing(file):
            self._file: IO[bytes] = file.open("ab+", buffering=0)
            self._file.seek(0)
            content = self._file.read()
        # A kill or a power cut may have cut the last record off, or left zeros: it ends the log.
        size = 2 * _DIGEST_BYTES + 4 * dimensions
        start = 0
        while start + size <= len(content):
            text, check, vector = np.split(
                np.frombuffer(content, np.uint8, size, start), (_DIGEST_BYTES, 2 * _DIGEST_BYTES)
            )
            if check.tobytes() != _digest(text.tobytes() + vector.tobytes()):
                break
            self._vectors[text.tobytes()] = vector.view("<f4").astype(np.float32)
            start += size
        with writing(file):
            self._file.truncate(start)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector (D,) of a text; None if it has none yet."""
        return self._vectors.get(_text_digest(text))

    def add(self, texts: Sequence[str], vectors_ND: NDArray[np.float32]) -> None:
        """Append the vectors of N texts. Raises OutputError if the disk is full."""
        records = b""
        for text, vector_D in zip(texts, vectors_ND.astype("<f4"), strict=True):
            content = _text_digest(text) + vector_D.tobytes()
            records += content[:_DIGEST_BYTES] + _digest(content) + content[_DIGEST_BYTES:]
        with self._lock, writing(self._path):
            self._file.write(records)
            self._vectors |= {_text_digest(text): vector_D for text, vector_D in zip(texts, vectors_ND, strict=True)}

    def clear(self) -> None:
        """Remove all records, after their vectors are stored elsewhere."""
        with self._lock, writing(self._path):
            self._file.truncate(0)
            self._vectors.clear()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _text_digest(text: str) -> bytes:
    return _digest(text.encode("utf-8", "surrogatepass"))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()
