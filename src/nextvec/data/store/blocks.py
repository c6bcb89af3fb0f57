"""Encoded blocks of a build: one file of vectors for each block of texts (a row group of chunks.parquet).

encoded/vectors/
  000123.npy   unit vectors of block 123, (B, D)
  000123.json  written last, so that it marks the block as complete: rows, SHA-256, counts of texts

A block depends on its texts and the encoder alone, and it appears in one step. So any process on any machine that sees
the folder may encode any missing block, in any order; two processes that encode the same block write the same bytes.

Letters in names: N rows of the build, B rows of a block, K rows that are read together, D dimensions.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nextvec.core.files import make_folder, write_bytes, write_json, writing
from nextvec.data.store import ChunkTexts, map_vectors
from nextvec.data.store.vector_source import TEXT_COUNTS, VectorSource
from nextvec.errors import StoreError, one_line

FOLDER = "vectors"
"""Folder of the blocks in the folder `encoded` of a build directory."""


def missing_blocks(encoded: Path, texts: ChunkTexts) -> list[int]:
    """Return the numbers of the blocks that are not complete, in ascending order."""
    folder = encoded / FOLDER
    # One listing instead of a look-up per block: a large build has a million blocks.
    marks = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return [block for block in range(len(texts.blocks)) if f"{block:06d}.json" not in marks]


def encode_block(encoded: Path, texts: ChunkTexts, block: int, vectors: VectorSource, dtype: str) -> int:
    """Encode a block and write its two files; it is on disk when this returns its number.

    Raises StoreError for a vector that is zero or not finite, and if there is not one vector for each text.
    """
    start, stop = texts.blocks[block]
    before = vectors.count_texts()
    vectors_BD = _to_unit_length(vectors.read_block(block), start, dtype)
    if vectors_BD.shape != (stop - start, vectors.space.dimensions):
        raise StoreError(
            f"encoder {vectors.space}: returned {vectors_BD.shape[0]:,} vectors of {vectors_BD.shape[1]} numbers for "
            f"{stop - start:,} texts. Check the encoder."
        )
    content = io.BytesIO()
    np.save(content, vectors_BD.astype(vectors_BD.dtype.newbyteorder("<")), allow_pickle=False)
    make_folder(encoded / FOLDER)
    write_bytes(_block_file(encoded, block), content.getbuffer(), shared=True)
    after = vectors.count_texts()
    counts = {name: after[name] - before[name] for name in TEXT_COUNTS}
    facts = {"rows": stop - start, "sha256": hashlib.sha256(content.getbuffer()).hexdigest(), **counts}
    write_json(_mark_file(encoded, block), facts, shared=True)
    return block


def block_facts(encoded: Path, block: int) -> dict[str, Any] | None:
    """Return the rows, the SHA-256 and the counts of texts of a complete block; None if it is missing."""
    try:
        facts: dict[str, Any] = json.loads(_mark_file(encoded, block).read_text(encoding="utf-8"))
        return facts
    except (FileNotFoundError, ValueError):  # a damaged one is written again
        return None


def verify_blocks(
    encoded: Path,
    texts: ChunkTexts,
    dimensions: int,
    dtype: DTypeLike,
    remedy: Callable[[list[int]], str] = lambda blocks: "run the same command again",
) -> Counter[str]:
    """Compare every block with its checksum and its texts; return the number of all `texts` and their TEXT_COUNTS.

    Damaged blocks are marked as missing, so that the next build encodes them again. Raises StoreError that names the
    first of them, and the remedy for all.
    """
    counts, damaged = Counter[str](), dict[int, str]()
    for block, (start, stop) in enumerate(texts.blocks):
        try:
            counts.update(_verify_block(encoded, block, (stop - start, dimensions), dtype))
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged[block] = one_line(error)
    if damaged:
        for block in damaged:
            with writing(_mark_file(encoded, block)):
                _mark_file(encoded, block).unlink(missing_ok=True)
        block, reason = next(iter(damaged.items()))
        others = f", and {len(damaged) - 1:,} other blocks are damaged" if len(damaged) > 1 else ""
        raise StoreError(
            f"{_block_file(encoded, block)}: is damaged ({reason}){others}. "
            f"To encode what is damaged again, {remedy(list(damaged))}."
        )
    return counts


def _verify_block(encoded: Path, block: int, shape: tuple[int, int], dtype: DTypeLike) -> dict[str, int]:
    """Return the block's counts of texts. Raises ValueError, OSError … if it is damaged."""
    facts = json.loads(_mark_file(encoded, block).read_text(encoding="utf-8"))
    content = _block_file(encoded, block).read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise ValueError("its SHA-256 differs")
    # The count is compared with the texts, not only with what the encoding process wrote.
    vectors_BD = np.load(io.BytesIO(content), allow_pickle=False)
    if vectors_BD.shape != shape or facts["rows"] != shape[0] or vectors_BD.dtype != np.dtype(dtype):
        raise ValueError(f"{vectors_BD.shape} {vectors_BD.dtype} instead of {shape} {np.dtype(dtype)}")
    return {"texts": shape[0], **{name: int(facts[name]) for name in TEXT_COUNTS}}


class EncodedVectors:
    """The vectors of all blocks as one array (N, D) that reads its rows from the files when they are indexed."""

    def __init__(self, encoded: Path, texts: ChunkTexts) -> None:
        self._encoded = encoded
        self._ends = np.array([stop for _, stop in texts.blocks], np.int64)
        first = map_vectors(_block_file(encoded, 0))
        self.shape, self.dtype = (int(self._ends[-1]), first.shape[1]), first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return the vectors (K, D) of rows in any order."""
        rows_K = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        vectors_KD = np.empty((len(rows_K), self.shape[1]), self.dtype)
        block_K = np.searchsorted(self._ends, rows_K, side="right")
        # Each block's file is mapped once, whatever the order of its rows.
        for block in np.unique(block_K).tolist():
            is_block_K = block_K == block
            vectors_BD = map_vectors(_block_file(self._encoded, block))
            vectors_KD[is_block_K] = vectors_BD[rows_K[is_block_K] - (self._ends[block] - len(vectors_BD))]
        return vectors_KD


def row_count(texts: ChunkTexts, blocks: Iterable[int]) -> int:
    """Return the number of rows of the blocks."""
    return sum(texts.blocks[block][1] - texts.blocks[block][0] for block in blocks)


def _block_file(encoded: Path, block: int) -> Path:
    return encoded / FOLDER / f"{block:06d}.npy"


def _mark_file(encoded: Path, block: int) -> Path:
    return encoded / FOLDER / f"{block:06d}.json"


def _to_unit_length(vectors_BD: NDArray[np.float32], first_row: int, dtype: str) -> NDArray[Any]:
    """Scale vectors to unit length and round them to `dtype`. Raises StoreError for a zero or non-finite vector."""
    lengths_B = np.linalg.norm(vectors_BD, axis=1)
    unusable = np.flatnonzero(~(np.isfinite(lengths_B) & (lengths_B > 0)))
    if len(unusable):
        raise StoreError(
            f"row {first_row + unusable[0]:,}: the encoder made a vector that is zero or not finite. "
            "Use --precision fp32, or another encoder."
        )
    rounded: NDArray[Any] = (vectors_BD / lengths_B[:, None]).astype(dtype)
    return rounded
