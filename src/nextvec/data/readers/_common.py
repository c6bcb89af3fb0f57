"""What a file may ask of memory: small files that grow without end when they are read are refused.

A line has at most MAX_DOCUMENT bytes (a long novel has four million). Packed data may be large, but not both large and
packed far tighter than text or vectors ever are.

Reading text: any source becomes a stream of documents.

    for document in read_documents("articles.jsonl.gz"):
        print(document.title, len(document.paragraphs))

`SOURCES` lists what is read. Each reader is a generator that holds one document (or one batch of rows) at a time, in
an order that depends on the source alone. Whatever is wrong with a source is one CorpusError that says where.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nextvec.errors import CorpusError

MAX_DOCUMENT = 32 * 2**20
"""Bytes of one document as it stands in its file, and the most that is read of a file whose line does not end."""
MAX_RATIO, SMALL = 100, 64 * 2**20
"""How many times its packed size data may have unpacked, where that is more than SMALL bytes."""


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether data of so many bytes is too large for what it is packed in."""
    return unpacked > SMALL and unpacked > MAX_RATIO * packed


def bomb_words(packed: int, unpacked: int) -> str:
    """What is wrong with such data."""
    return f"{packed:,} bytes that unpack to {unpacked:,}, which no text or vectors do; refused as unsafe"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CorpusError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror or one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error of another package says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
