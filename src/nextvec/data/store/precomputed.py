"""Vectors that were made elsewhere, one for each paragraph of a source, lined up with the chunks of a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders import Encoder
from nextvec.data.space import probe_cosines
from nextvec.data.store import map_vectors
from nextvec.data.store.staging import kept_documents, read_parts
from nextvec.errors import SpaceError, StoreError

SAME_ENCODER_COSINE = 0.98
"""Mean cosine between given vectors and what the encoder makes of the same texts, from which they are its own."""


class GivenVectors:
    """The .npy files of a build, one for each source; row r of a file is the r-th paragraph of its source.

    `origin_N` and `paragraph_N` say which file and which row the N rows of the store come from.
    """

    def __init__(
        self, files: Sequence[str], arrays: Sequence[NDArray[Any]], origin_N: NDArray[np.int64],
        paragraph_N: NDArray[np.int64],
    ) -> None:  # fmt: skip
        self.files, self._arrays = list(files), list(arrays)
        self._origin_N, self._paragraph_N = origin_N, paragraph_N

    @property
    def dimensions(self) -> int:
        """D, the same for all files."""
        return int(self._arrays[0].shape[1])

    def __len__(self) -> int:
        """N, the rows of the store."""
        return len(self._origin_N)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The unit vectors of rows `start` to `stop` of the store: (stop - start, D).

        Raises StoreError with the file and the row for a vector that is zero or not finite.
        """
        return self._gather(np.arange(start, stop))

    def _gather(self, rows_B: NDArray[np.int64]) -> NDArray[np.float32]:
        origin_B, paragraph_B = self._origin_N[rows_B], self._paragraph_N[rows_B]
        vectors_BD = np.empty((len(rows_B), self.dimensions), np.float32)
        for origin, array in enumerate(self._arrays):
            here_B = origin_B == origin
            vectors_BD[here_B] = array[paragraph_B[here_B]]
        lengths_B = np.linalg.norm(vectors_BD.astype(np.float64), axis=1)
        broken = np.flatnonzero(~(np.isfinite(lengths_B) & (lengths_B > 0)))
        if len(broken):
            file, row = self.files[origin_B[broken[0]]], paragraph_B[broken[0]]
            raise StoreError(f"vectors {file}: row {row:,} is zero or not finite; encode that paragraph again")
        unit_BD: NDArray[np.float32] = (vectors_BD / lengths_B[:, None]).astype(np.float32)
        return unit_BD

    def require_encoder(self, encoder: Encoder, rows_B: NDArray[np.int64], texts: Sequence[str]) -> str:
        """What was found, for the manifest, when `encoder` made the vectors of some rows again from their texts.

        Raises SpaceError if its vectors are not the given ones.
        """
        if encoder.space.dimensions != self.dimensions:
            raise SpaceError(
                f"vectors {self.files[0]}: {self.dimensions} dimensions, the encoder {encoder.space} has "
                f"{encoder.space.dimensions}; name the encoder that made them"
            )
        cosine = float(probe_cosines(self._gather(rows_B), encoder.encode(texts)).mean())
        if cosine < SAME_ENCODER_COSINE:
            raise SpaceError(
                f"vectors {self.files[0]}: not of the encoder {encoder.space}: {len(texts)} texts encoded again have a "
                f"mean cosine of {cosine:.3f} with them; name the encoder that made them, or check their order"
            )
        return f"{len(texts)} texts encoded again, mean cosine {cosine:.3f}"


def open_given(files: Sequence[str]) -> list[NDArray[Any]]:
    """Map the files. Raises StoreError if one can't be read or if their dimensions differ."""
    arrays = [map_vectors(Path(file)) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[1] != arrays[0].shape[1] or not array.shape[1]:
            raise StoreError(
                f"vectors {file}: {array.shape[1]} dimensions, {files[0]} has {arrays[0].shape[1]}; "
                "give vectors of one encoder"
            )
    return arrays


def line_up(
    parts: Path, files: Sequence[str], sources: Sequence[str], min_chunks: int, *, may_go_on: bool
) -> GivenVectors:  # fmt: skip
    """The given vectors of the documents in the parts of a build that have enough chunks.

    Raises StoreError unless each file has a row for each paragraph of its source; it may go on after those
    (`may_go_on`) where only the first documents of a source were read.
    """
    arrays = open_given(files)
    paragraphs_read = [0] * len(sources)
    origins: list[NDArray[np.int64]] = []
    paragraphs: list[NDArray[np.int64]] = []
    for part in read_parts(parts, ["origin", "paragraphs", "paragraphs_read"]):
        for origin, count in zip(part["origin"], part["paragraphs_read"], strict=True):
            paragraphs_read[origin] += count
        for index in kept_documents(part, min_chunks):
            chosen = np.array(part["paragraphs"][index], np.int64)
            origins.append(np.full(len(chosen), part["origin"][index]))
            paragraphs.append(chosen)
    for file, array, source, count in zip(files, arrays, sources, paragraphs_read, strict=True):
        if len(array) != count and not (may_go_on and len(array) > count):
            raise StoreError(
                f"vectors {file}: {len(array):,} rows for {count:,} paragraphs of {source}; "
                "give one row for each paragraph, in order"
            )
    return GivenVectors(files, arrays, np.concatenate(origins), np.concatenate(paragraphs))
