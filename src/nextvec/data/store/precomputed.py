"""Precomputed embeddings of a build: one per paragraph of a source, aligned with the rows of the store.

Letters in names: N rows of the store, B rows of a block, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders import Encoder
from nextvec.data.space import probe_cosines
from nextvec.data.store import map_vectors
from nextvec.data.store.rows import RowTable
from nextvec.data.store.staging import read_staged_chunks
from nextvec.errors import SpaceError, StoreError

MIN_ENCODER_COSINE = 0.98
"""Mean cosine between precomputed embeddings and those of an encoder from which the encoder is taken to be the same."""


class PrecomputedEmbeddings:
    """The .npy files of a build, one per source; row r of a file is the r-th paragraph of its source.

    Row n of the store is row `paragraph_N[n]` of file `origin_N[n]`.
    """

    def __init__(
        self,
        files: Sequence[str],
        arrays: Sequence[NDArray[Any]],
        origin_N: NDArray[np.int64],
        paragraph_N: NDArray[np.int64],
    ) -> None:
        self.files, self._arrays = list(files), list(arrays)
        self._origin_N, self._paragraph_N = origin_N, paragraph_N

    @property
    def dimensions(self) -> int:
        """D, the same for all files."""
        return int(self._arrays[0].shape[1])

    def __len__(self) -> int:
        return len(self._origin_N)

    def read(self, rows_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the unit vectors (B, D) of rows of the store.

        Raises StoreError with file and row for a vector that is zero or not finite.
        """
        origin_B, paragraph_B = self._origin_N[rows_B], self._paragraph_N[rows_B]
        vectors_BD = np.empty((len(rows_B), self.dimensions), np.float32)
        # Gather the rows of each file; the rows of a block may come from several.
        for origin, array in enumerate(self._arrays):
            is_origin_B = origin_B == origin
            vectors_BD[is_origin_B] = array[paragraph_B[is_origin_B]]
        # Compute lengths in float64: squares of very large or small float32 values would overflow or vanish.
        lengths_B = np.linalg.norm(vectors_BD.astype(np.float64), axis=1)
        unusable = np.flatnonzero(~(np.isfinite(lengths_B) & (lengths_B > 0)))
        if len(unusable):
            file, row = self.files[origin_B[unusable[0]]], paragraph_B[unusable[0]]
            raise StoreError(f"vectors {file}: row {row:,} is zero or not finite. Encode that paragraph again.")
        unit_BD: NDArray[np.float32] = (vectors_BD / lengths_B[:, None]).astype(np.float32)
        return unit_BD


def verify_encoder(where: str, encoder: Encoder, vectors: NDArray[Any], texts: Sequence[str]) -> str:
    """Compare vectors (B, D) with the encoder's vectors of their texts, if any; return the result for the manifest.

    Raises SpaceError, which names the vectors by `where`, if another encoder made them.
    """
    if encoder.space.dimensions != vectors.shape[1]:
        raise SpaceError(
            f"{where}: have {vectors.shape[1]} dimensions, but the encoder {encoder.space} has "
            f"{encoder.space.dimensions}. Name the encoder that made them."
        )
    if not texts:
        return "not verified: there are no texts"
    cosine = float(probe_cosines(vectors, encoder.encode(texts)).mean())
    if cosine < MIN_ENCODER_COSINE:
        raise SpaceError(
            f"{where}: not from the encoder {encoder.space}; {len(texts)} texts encoded again have a mean cosine of "
            f"{cosine:.3f} with them. Name the encoder that made them, or check their order."
        )
    return f"{len(texts)} texts encoded again, mean cosine {cosine:.3f}"


def open_precomputed(files: Sequence[str]) -> list[NDArray[Any]]:
    """Map the files. Raises StoreError if one cannot be read, or if their dimensions differ."""
    arrays = [map_vectors(Path(file)) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[1] != arrays[0].shape[1] or not array.shape[1]:
            raise StoreError(
                f"vectors {file}: have {array.shape[1]} dimensions, but {files[0]} has {arrays[0].shape[1]}. "
                "Use vectors of one encoder."
            )
    return arrays


def align_precomputed(
    staged: Path, rows: RowTable, files: Sequence[str], sources: Sequence[str], *, allow_extra_rows: bool
) -> PrecomputedEmbeddings:
    """Align the files with the rows to encode.

    Raises StoreError unless each file has one row per paragraph of its source. With `allow_extra_rows` a file may have
    more: the build reads only the first documents of each source.
    """
    arrays = open_precomputed(files)
    paragraphs_read = [0] * len(sources)
    for columns in read_staged_chunks(staged, ["origin", "paragraphs_read"]):
        for origin, count in zip(columns["origin"], columns["paragraphs_read"], strict=True):
            paragraphs_read[origin] += count
    # Rows and paragraphs correspond by position alone, so their numbers must be equal.
    for file, array, source, count in zip(files, arrays, sources, paragraphs_read, strict=True):
        if len(array) != count and not (allow_extra_rows and len(array) > count):
            raise StoreError(
                f"vectors {file}: {len(array):,} rows for {count:,} paragraphs of {source}. "
                "Provide one row per paragraph, in order."
            )
    return PrecomputedEmbeddings(files, arrays, rows.origin_M[rows.document_N], rows.paragraph_N)
