"""Collect rows that belong to one document, for sources that have one chunk per row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from typing import Any, TypeAlias

from nextvec.data.documents import Columns, Document
from nextvec.errors import CorpusError

_Order: TypeAlias = tuple[int, float, tuple[str | int, ...]]


class RowGroups:
    """The rows of a source by document. All rows are in memory, because a document's rows may be anywhere."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rows: dict[str, list[tuple[_Order, tuple[str, ...]]]] = {}
        self._documents: dict[str, Document] = {}

    def add(self, row: Document, order: Any, where: str) -> None:
        """Add a row, which is a document with the id of its group.

        Raises CorpusError if the value of `order_by` has no order, or if the rows of a document differ in their source
        or group.
        """
        first = self._documents.setdefault(row.id, row)
        for field in ("source", "group"):
            if getattr(row, field) != getattr(first, field):
                raise CorpusError(
                    f"{where}: document '{row.id}' has the {field} '{getattr(row, field)}', but an earlier row has "
                    f"'{getattr(first, field)}'. Give all rows of a document the same {field}."
                )
        # The first title that is not empty counts.
        if row.title and not first.title:
            self._documents[row.id] = replace(first, title=row.title)
        try:
            key = order_key(order)
        except TypeError:
            raise CorpusError(
                f"{where}: '{self._columns.order_by}' is {order!r:.40}, but must be a number, a text or a date. "
                "Name another column with --order-by."
            ) from None
        self._rows.setdefault(row.id, []).append((key, row.paragraphs))

    def documents(self) -> Iterator[Document]:
        """Yield the documents in the order of their first rows, and forget each."""
        for document_id in list(self._rows):
            # Sorting is stable: rows with the same value keep the order of the file.
            rows = sorted(self._rows.pop(document_id), key=lambda row: row[0])
            document = self._documents.pop(document_id)
            yield replace(
                document,
                title=document.title or document_id,
                paragraphs=tuple(paragraph for _, paragraphs in rows for paragraph in paragraphs),
            )


def order_key(value: Any) -> _Order:
    """Return a sort key: numbers by value, then texts in natural order ("page 9" before "page 10").

    Numbers may be written as text, as in CSV files. Raises TypeError for a value without an order.
    """
    if isinstance(value, datetime | date):
        value = value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    try:
        number = float(value)
    except ValueError:
        # Alternating texts and integers, so that two keys always compare like with like.
        parts = re.split(r"([0-9]+)", str(value))
        return 1, 0.0, tuple(int(part) if part.isdecimal() else part for part in parts)
    if math.isnan(number):
        raise TypeError
    return 0, number, ()
