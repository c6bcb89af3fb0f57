"""Staged rows of an import: a table is read once, in batches, into files that can be read in any order.

    staged.vectors      the usable vectors, one after the other
    staged.texts        the texts of their rows as UTF-8, one after the other

Memory holds one batch and 33 bytes per row, whatever the size of vectors and texts.

Letters in names: B rows of a batch, N rows of the table, V usable rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextvec.core.files import writing
from nextvec.data.checks.duplicates import hash_rows
from nextvec.data.readers.rows import encodable
from nextvec.data.store.writer import STAGED_PREFIX
from nextvec.data.tables.documents import DocumentList
from nextvec.data.tables.positions import Positions
from nextvec.data.tables.roles import Roles
from nextvec.data.tables.sources import TableSource
from nextvec.data.tables.vector_column import USABLE, VectorColumn, to_unit_length
from nextvec.errors import StoreError, one_line

_VECTORS, _TEXTS = f"{STAGED_PREFIX}vectors", f"{STAGED_PREFIX}texts"


class StagedRows:
    """The rows of all tables of an import. `add` reads a table; `vectors` and `texts` read rows back."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], has_texts: bool, *, scale: bool) -> None:
        self.dtype, self.dimensions, self.has_texts = dtype, 0, has_texts
        self.scaled, self.usable = 0, 0
        """Number of vectors that were scaled to unit length, and of usable rows."""
        self._scale = scale
        self._paths = folder / _VECTORS, folder / _TEXTS
        self._files = ExitStack()
        with writing(folder):
            self._vectors, self._texts = (self._files.enter_context(path.open("wb")) for path in self._paths)
        self._ends: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._columns: dict[str, list[NDArray[Any]]] = {"document": [], "status": [], "hash": []}

    def add(
        self, source: TableSource, roles: Roles, documents: DocumentList, positions: Positions, first_document: int
    ) -> Iterator[int]:
        """Read all rows of a table, and yield the number of rows of each batch.

        Documents are numbered from `first_document`.
        Raises StoreError for columns of a wrong kind and the errors of the source, OutputError for a full disk.
        """
        names = list(dict.fromkeys(roles.values()))
        for batch in source.read(names):
            if not batch.num_rows:
                continue
            try:
                documents_B = documents.add(batch, positions.rows)
                positions.add(batch.column(roles["chunk"]) if "chunk" in roles else None, batch.num_rows)
                where = f"{source.name}: column '{roles['vectors']}'"
                status_B = self._add_vectors(where, batch.column(roles["vectors"]))
                if self.has_texts:
                    self._add_texts(source.name, batch, roles, status_B == USABLE)
            except (pa.ArrowException, UnicodeDecodeError) as error:
                # Damage inside a column appears when its values are used.
                raise StoreError(
                    f"{source.name}: can't be read at row {positions.rows + 1:,}: {one_line(error)}. Copy it again."
                ) from error
            self._columns["document"].append(np.where(documents_B < 0, -1, documents_B + first_document))
            yield batch.num_rows

    def finish(self) -> None:
        """Close the files; rows can be read from now on."""
        with writing(self._paths[0]):
            self._files.close()
        self._end_V = np.concatenate(self._ends)
        self._ends.clear()

    def column(self, name: str) -> NDArray[Any]:
        """Return the document, the status of the vector, or the hash of each row (N,)."""
        parts = self._columns[name]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def numbers(self, row_K: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers, among the usable rows, of rows of the tables."""
        number_N = np.cumsum(self.column("status") == USABLE) - 1
        return np.asarray(number_N[row_K])

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return usable rows (B, D), numbered among the usable ones."""
        # A new map for each block: pages that were read are returned to the system with it.
        return np.array(np.memmap(self._paths[0], self.dtype, "r", shape=(self.usable, self.dimensions))[rows])

    def texts(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the texts of usable rows."""
        if not self._end_V[-1]:
            return [""] * len(rows)
        content = np.memmap(self._paths[1], np.uint8, "r")
        bounds = zip(self._end_V[rows].tolist(), self._end_V[rows + 1].tolist(), strict=True)
        return [content[start:stop].tobytes().decode() for start, stop in bounds]

    def remove(self) -> None:
        """Remove the files."""
        self._files.close()
        for path in self._paths:
            with writing(path):
                path.unlink(missing_ok=True)

    def _add_vectors(self, where: str, column: pa.Array) -> NDArray[np.int8]:
        """Write the usable vectors of a batch, and return the status of each (B,)."""
        decoder = VectorColumn.of_type(where, column.type)
        dimensions = decoder.decide_dimensions(column)
        if not self.dimensions:
            self.dimensions = dimensions
        elif decoder.dimensions not in (None, self.dimensions):
            raise StoreError(
                f"{where} has {dimensions} numbers per vector, but vectors before it have {self.dimensions}."
            )
        status_B, vectors = decoder.read(column, self.dimensions)
        if self._scale:
            vectors, scaled = to_unit_length(vectors, self.dtype)
            self.scaled += scaled
        vectors = np.ascontiguousarray(vectors, self.dtype)
        hash_B = np.zeros(len(status_B), np.uint64)
        if len(vectors):
            hash_B[status_B == USABLE] = hash_rows(vectors)
            _write(self._vectors, self._paths[0], vectors.data.cast("B"))
        self.usable += len(vectors)
        self._columns["status"].append(status_B)
        self._columns["hash"].append(hash_B)
        return status_B

    def _add_texts(self, where: str, batch: pa.RecordBatch, roles: Roles, is_usable_B: NDArray[np.bool_]) -> None:
        """Write the texts of the usable rows of a batch; a null text is empty."""
        name = roles.get("text")
        if name is None:
            contents = [b""] * int(is_usable_B.sum())
        else:
            column = batch.column(name)
            texts = column.filter(pa.array(is_usable_B)).to_pylist()
            wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
            if wrong is not None:
                raise StoreError(
                    f"{where}: column '{name}' (text) is {column.type!s:.60}, but must be text. "
                    "Name another column with --columns text=NAME."
                )
            contents = [encodable(text or "").encode() for text in texts]
        _write(self._texts, self._paths[1], memoryview(b"".join(contents)))
        last = self._ends[-1][-1]
        self._ends.append(last + np.cumsum([len(content) for content in contents], dtype=np.int64))
        if not contents:
            self._ends.pop()


def _write(file: IO[bytes], path: Path, content: memoryview) -> None:
    with writing(path):
        file.write(content)
