"""The place of each row in its document: integers, numbers, texts or dates, or the order of the table.

Letters in names: B rows of a batch, N rows of a table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nextvec.data.readers.grouping import order_key
from nextvec.errors import StoreError


class Positions:
    """The values of the column that orders the rows of a document."""

    def __init__(self, where: str, name: str | None) -> None:
        self.rows = 0
        """Number of rows so far."""
        self._where, self._name = where, name
        self._numbers: list[NDArray[Any]] = []
        self._texts: list[list[str | None]] = []

    def add(self, column: pa.Array | None, rows: int) -> None:
        """Add the values of a batch. Raises StoreError if they have no order."""
        self.rows += rows
        if column is None:
            return
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
            kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
            kind = column.type
        if pa.types.is_integer(kind):
            # 64 bits hold every integer below 2^63 exactly; float64 would make large ones equal.
            self._numbers.append(pc.fill_null(column.cast(pa.int64()), _NULL).to_numpy(zero_copy_only=False))
        elif pa.types.is_floating(kind) or pa.types.is_null(kind):
            self._numbers.append(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self._texts.append(column.to_pylist())
        else:
            raise StoreError(
                f"{self._where}: column '{self._name}' (chunk) is {kind!s:.60}, but must be numbers, texts or dates. "
                "Name another column with --columns chunk=NAME."
            )

    def ranks(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return a sort key of each row (N,), equal for equal values, and which rows have no place (N,).

        Integers are their own key. Without a column, the key is the number of the row.
        """
        if self._name is None:
            return np.arange(self.rows), np.zeros(self.rows, bool)
        if self._texts and self._numbers:
            raise StoreError(f"{self._where}: column '{self._name}' (chunk) has texts and numbers. Use one type.")
        if self._texts:
            return self._text_ranks()
        if all(part.dtype == np.int64 for part in self._numbers):
            values_N = np.concatenate(self._numbers)
            return values_N, values_N == _NULL
        # Files of one table may differ: integers become floating-point numbers beside those of another file.
        values_N = np.concatenate([np.where(part == _NULL, np.nan, part) for part in self._numbers])
        missing_N = np.isnan(values_N)
        return np.unique(values_N, return_inverse=True)[1].astype(np.int64), missing_N

    def _text_ranks(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rank texts in natural order: numbers by value, "page 9" before "page 10"."""
        texts = [text for part in self._texts for text in part]
        missing_N = np.array([text is None or not text.strip() for text in texts], bool)
        # Equal texts share a key; "1" and "01" are different texts with the same value.
        distinct = sorted({text for text in texts if text is not None}, key=lambda text: (_key(text), text))
        rank = {text: number for number, text in enumerate(distinct)}
        return np.array([0 if text is None else rank[text] for text in texts], np.int64), missing_N


_NULL = -(2**63)


def _key(text: str) -> Any:
    """Return a text's sort key; "nan" has the key of a text, because it has no value."""
    try:
        return order_key(text)
    except TypeError:
        return 1, 0.0, (text,)
