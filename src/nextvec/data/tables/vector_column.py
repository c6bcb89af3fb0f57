"""Decode a column of vectors: lists of numbers, or float32 values as bytes.

Letters in names: B rows of a batch, V valid rows among them, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nextvec.data.npz.vectors import UNIT_TOLERANCE
from nextvec.data.tables.roles import storage_type
from nextvec.errors import StoreError

MAX_DIMENSIONS = 65_536
"""Longest vector that is read. Encoders have at most about 10,000 numbers; a longer list is another kind of data."""
_USUAL_SIZES, _MAX_SIZE = (1e-4, 64.0), 1e6
"""Sizes of most numbers of a vector, and a size that its largest number hardly has; for vectors that are bytes."""

NULL, WRONG_LENGTH, NOT_FINITE, ZERO, USABLE = range(5)
"""Status of a vector."""

_NUMPY_TYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64}


@dataclass(frozen=True)
class VectorColumn:
    """A column of vectors."""

    where: str
    """Table and column, for messages."""
    dtype: np.dtype[Any]
    """Number format of its values."""
    dimensions: int | None
    """D, if the column's type determines it."""
    is_blob: bool = False

    @classmethod
    def of_type(cls, where: str, kind: pa.DataType) -> VectorColumn:
        """Return the decoder for a type. Raises StoreError if it is not one of vectors."""
        kind = storage_type(kind)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return cls(where, np.dtype(np.float32), None, is_blob=True)
        fixed = pa.types.is_fixed_size_list(kind)
        if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise StoreError(f"{where} is {kind!s:.60}, but must be a list of numbers. {_remedy(kind)}")
        values = str(kind.value_type)
        if values not in _NUMPY_TYPES:
            raise StoreError(
                f"{where} is {kind!s:.60}, but must be a list of float16, float32 or float64. {_remedy(kind)}"
            )
        dimensions = int(kind.list_size) if fixed else None
        if dimensions is not None:
            _require_dimensions(where, dimensions)
        return cls(where, np.dtype(_NUMPY_TYPES[values]), dimensions)

    def lengths(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the number of values of each vector (B,); -1 if it is null, -2 if it is not a whole number."""
        column = _storage(column)
        if self.is_blob:
            lengths_B = _to_numpy(pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), -4))
            return np.where(lengths_B % 4 == 0, lengths_B // 4, -2)
        if self.dimensions is not None:
            return np.where(_to_numpy(column.is_valid()), self.dimensions, -1)
        return _to_numpy(pc.fill_null(pc.cast(pc.list_value_length(column), pa.int64()), -1))

    def decide_dimensions(self, column: pa.Array) -> int:
        """Return D: that of the type, or the most frequent length in a batch; 0 if all are null or empty."""
        if self.dimensions is not None:
            return self.dimensions
        lengths_B = self.lengths(column)
        lengths, counts = np.unique(lengths_B[lengths_B > 0], return_counts=True)
        if not len(lengths):
            return 0
        dimensions = int(lengths[counts.argmax()])
        _require_dimensions(self.where, dimensions)
        return dimensions

    def read(self, column: pa.Array, dimensions: int) -> tuple[NDArray[np.int8], NDArray[Any]]:
        """Return the status (B,) of each vector, and the usable vectors (V, D) in order."""
        lengths_B = self.lengths(column)
        status_B = np.full(len(column), USABLE, np.int8)
        status_B[lengths_B == -1] = NULL
        has_length_B = (lengths_B == dimensions) & (lengths_B > 0)
        status_B[(lengths_B != -1) & ~has_length_B] = WRONG_LENGTH
        vectors = self._values(_storage(column).filter(pa.array(has_length_B)), dimensions)
        if self.is_blob and len(vectors):
            self._require_float32(vectors)
        # A row is usable if its largest number is neither zero nor infinite; NaN anywhere makes the largest number NaN.
        largest = np.abs(vectors).max(axis=1) if len(vectors) else np.empty(0, vectors.dtype)
        usable = np.isfinite(largest) & (largest > 0)
        status_B[has_length_B] = np.where(usable, USABLE, np.where(largest == 0, ZERO, NOT_FINITE))
        return status_B, vectors if usable.all() else vectors[usable]

    def _values(self, column: pa.Array, dimensions: int) -> NDArray[Any]:
        """Return the numbers (V, D) of vectors of one length; a null among them becomes NaN."""
        if self.is_blob:
            values = np.frombuffer(b"".join(column.to_pylist()), "<f4").astype(np.float32, copy=False)
        else:
            values = _to_numpy(column.flatten())
        return values.astype(self.dtype, copy=False).reshape(len(column), dimensions)

    def _require_float32(self, vectors: NDArray[Any]) -> None:
        """Raise StoreError if bytes are numbers of another format, which as float32 would be other numbers."""
        sample = np.ascontiguousarray(vectors[:64])
        # The lower half of float32 is arbitrary bits, but if the bytes are float16, it is a number of usual size.
        halves = np.abs(sample.view("<f2")[:, ::2].astype(np.float32))
        is_float16 = float(((halves > _USUAL_SIZES[0]) & (halves < _USUAL_SIZES[1])).mean()) > 0.95
        # If they are float64, every second number has arbitrary exponents.
        sizes = np.abs(sample.astype(np.float64))
        is_float64 = not np.isfinite(sizes).all() or float(np.median(sizes.max(axis=1))) > _MAX_SIZE
        if is_float16 or is_float64:
            raise StoreError(
                f"{self.where} has bytes that are not float32 numbers, but probably "
                f"{'float16' if is_float16 else 'float64'}. Save the vectors as lists of numbers."
            )


def to_unit_length(vectors: NDArray[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """Return finite vectors (B, D) as `dtype`, scaled if their length deviates from 1, and how many were scaled."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))
    is_off = ~(np.abs(lengths - 1) <= UNIT_TOLERANCE)
    if is_off.any():
        # Divide by the largest number first: squares of very large or small numbers overflow or vanish.
        off = vectors[is_off].astype(np.float64)
        off /= np.abs(off).max(axis=1, keepdims=True)
        vectors = vectors.astype(np.float64 if vectors.dtype == np.float64 else np.float32)
        vectors[is_off] = off / np.linalg.norm(off, axis=1, keepdims=True)
    return vectors.astype(dtype, copy=False), int(is_off.sum())


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _require_dimensions(where: str, dimensions: int) -> None:
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise StoreError(
            f"{where} has {dimensions:,} numbers per vector, but must have 1 to {MAX_DIMENSIONS:,}. "
            "Name the column of the vectors with --columns vectors=NAME."
        )


def _remedy(kind: pa.DataType) -> str:
    """Return what to do about a column that does not hold vectors."""
    values = getattr(kind, "value_type", None)
    if values is not None and pa.types.is_integer(values):
        return "Convert integers back to the encoder's numbers (scale and offset)."
    return "Save one vector per row as a list of float32, or name another column with --columns vectors=NAME."
