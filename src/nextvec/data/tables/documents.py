"""Number the documents of a table, and collect what its rows say about each: title, source, split and group.

Letters in names: B rows of a batch, M documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nextvec.data.readers.rows import encodable
from nextvec.data.splits import SPLITS
from nextvec.data.tables.roles import Roles
from nextvec.errors import StoreError, did_you_mean

_SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "val"}
"""Value of a split column → split."""
_ATTRIBUTES = ("title", "source", "split", "group")


@dataclass
class DocumentList:
    """The documents of one table, in the order of their first rows."""

    where: str
    """Name of the table, for messages."""
    label: str
    """Source of documents for which the table names none."""
    roles: Roles
    first_row: int = 0
    """Number of its first row among those of all tables of the import."""
    ids: list[str] = field(default_factory=list)
    attributes: dict[str, list[str | None]] = field(default_factory=lambda: {role: [] for role in _ATTRIBUTES})
    """Role → value of each document; None if no row has one."""
    _numbers: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, batch: pa.RecordBatch, first_row: int) -> NDArray[np.int64]:
        """Return the number of each row's document (B,), -1 if it is null or empty; new documents get a number.

        Raises StoreError for a column of another kind, an unknown split, or a document whose rows differ in their
        source, split or group.
        """
        codes_B, values = self._encode(batch, "document")
        number_by_code = np.array([self._number(value) for value in values] + [-1], np.int64)
        documents_B: NDArray[np.int64] = number_by_code[codes_B]
        for role in _ATTRIBUTES:
            if role in self.roles:
                self._add_attribute(role, documents_B, *self._encode(batch, role), first_row)
        return documents_B

    def split(self, document: int) -> str | None:
        """Return the split that the table names for a document."""
        name = self.attributes["split"][document]
        return None if name is None else _SPLIT_NAMES[name]

    def _number(self, name: str) -> int:
        if not name.strip():
            return -1
        number = self._numbers.setdefault(name, len(self.ids))
        if number == len(self.ids):
            self.ids.append(name)
            for values in self.attributes.values():
                values.append(None)
        return number

    def _add_attribute(
        self, role: str, documents_B: NDArray[np.int64], codes_B: NDArray[np.int64], values: list[str], first_row: int
    ) -> None:
        """Compare the values of a batch with those of earlier rows: one step per pair of document and value."""
        stored = self.attributes[role]
        has_both = np.flatnonzero((documents_B >= 0) & (codes_B >= 0))
        pairs = documents_B[has_both] * max(len(values), 1) + codes_B[has_both]
        _, first = np.unique(pairs, return_index=True)
        for row in has_both[np.sort(first)].tolist():
            document, value = int(documents_B[row]), values[codes_B[row]]
            where = f"{self.where}, row {first_row + row + 1}"
            if role == "split" and value not in _SPLIT_NAMES:
                known = did_you_mean(value, _SPLIT_NAMES)
                raise StoreError(f"{where}: split '{value:.40}' is unknown.{known} Rename the values or the column.")
            if stored[document] is None or (role == "title" and not stored[document]):
                stored[document] = value
            elif stored[document] != value and role != "title":
                raise StoreError(
                    f"{where}: document '{self.ids[document]:.60}' has the {role} '{value:.60}', but an earlier row "
                    f"has '{stored[document]:.60}'. Give all rows of a document the same {role}, or other ids."
                )

    def _encode(self, batch: pa.RecordBatch, role: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return the code of each row's value (B,), -1 for null, and the distinct values as texts."""
        name = self.roles[role]
        column = batch.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not (is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise StoreError(
                f"{self.where}: column '{name}' ({role}) is {kind!s:.60}, but must be text or integers. "
                f"Name another column with --columns {role}=NAME."
            )
        encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        codes_B: NDArray[np.int64] = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        values: list[Any] = encoded.dictionary.to_pylist()
        # A dictionary may itself contain null.
        if None in values:
            codes_B = np.where(codes_B == values.index(None), -1, codes_B)
        return codes_B, ["" if value is None else encodable(str(value)) for value in values]
