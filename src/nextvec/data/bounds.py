"""What a file may ask of memory: small files that grow without end when they are read are refused.

A line has at most MAX_DOCUMENT bytes (a long novel has four million). Packed data may be large, but not both large and
packed far tighter than text or vectors ever are.
"""

from __future__ import annotations

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
