"""Rows of a store under construction: which chunks get one, and how they form the documents of the store.

A chunk that repeats another one gets no row. Its document ends there: what follows the repeat becomes another document
of the same group, because its first chunk does not follow the chunk before the repeat. So no window crosses a gap.

Letters in names: N rows, M documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.core.files import write_atomic
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable

_DOCUMENTS, _ROWS = "documents.parquet", "rows.parquet"

TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class RowTable:
    """Documents as they were read, and the rows made from their chunks, in the order of the sources."""

    ids: list[str]
    titles: list[str]
    sources: list[str]
    keys: list[str]
    """(M) the document's group, or else its id."""
    split_M: NDArray[np.int8]
    """(M,) index into SPLITS."""
    origin_M: NDArray[np.int64]
    """(M,) number of the source that the document was read from."""
    document_N: NDArray[np.int64]
    """(N,) number of the row's document."""
    position_N: NDArray[np.int64]
    """(N,) position of the row's chunk among all chunks of its document."""
    paragraph_N: NDArray[np.int64]
    """(N,) number of the paragraph in which the chunk begins, within its source."""

    @property
    def splits(self) -> NDArray[np.int8]:
        """Split of each row (N,)."""
        split_N: NDArray[np.int8] = self.split_M[self.document_N]
        return split_N

    def take(self, kept_N: NDArray[np.bool_]) -> RowTable:
        """Return the table with the kept rows only; documents without rows stay in it."""
        columns = (self.document_N[kept_N], self.position_N[kept_N], self.paragraph_N[kept_N])
        return RowTable(self.ids, self.titles, self.sources, self.keys, self.split_M, self.origin_M, *columns)

    def save(self, folder: Path) -> None:
        """Write the table as two files, each atomically."""
        documents = {
            "id": self.ids,
            "title": self.titles,
            "source": self.sources,
            "key": self.keys,
            "split": self.split_M,
            "origin": self.origin_M,
        }
        rows = {"document": self.document_N, "position": self.position_N, "paragraph": self.paragraph_N}
        for name, columns in ((_DOCUMENTS, documents), (_ROWS, rows)):
            table = pa.table(columns)
            write_atomic(folder / name, lambda file, table=table: pq.write_table(table, file))  # type: ignore[misc]

    @classmethod
    def load(cls, folder: Path) -> RowTable:
        """Read the files that `save` wrote."""
        documents, rows = pq.read_table(folder / _DOCUMENTS), pq.read_table(folder / _ROWS)
        ids, titles, sources, keys = (documents[name].to_pylist() for name in ("id", "title", "source", "key"))
        numbers = (documents["split"].to_numpy(), documents["origin"].to_numpy())
        document_N, position_N, paragraph_N = (rows[name].to_numpy() for name in ("document", "position", "paragraph"))
        return cls(ids, titles, sources, keys, *numbers, document_N, position_N, paragraph_N)

    def part_starts(self, kept_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the K kept rows do not follow the kept row before them, (K,)."""
        document_K, position_K = self.document_N[kept_N], self.position_N[kept_N]
        starts_K = np.ones(len(document_K), bool)
        starts_K[1:] = (document_K[1:] != document_K[:-1]) | (position_K[1:] != position_K[:-1] + 1)
        return starts_K

    def without_short_parts(self, kept_N: NDArray[np.bool_], min_chunks: int) -> NDArray[np.bool_]:
        """Drop the rows of parts, between two gaps, that have fewer than `min_chunks` rows."""
        part_K = np.cumsum(self.part_starts(kept_N)) - 1
        rows_of_part = np.bincount(part_K) if len(part_K) else np.empty(0, np.int64)
        result_N = kept_N.copy()
        result_N[kept_N] = rows_of_part[part_K] >= min_chunks
        return result_N

    def document_table(self) -> DocumentTable:
        """Return the documents of a store with these rows: one for each part without a gap.

        The parts of a document after its first have the ids "ID#2", "ID#3" …; all belong to one group.
        """
        starts = np.flatnonzero(self.part_starts(np.ones(len(self.document_N), bool)))
        rows_P = np.diff(np.append(starts, len(self.document_N)))
        document_P = self.document_N[starts].tolist()
        taken = {self.ids[document] for document in document_P}
        ids, parts, number_of_key = [], dict[str, int](), dict[str, int]()
        for document in document_P:
            # Documents of two sources may have one id; they are numbered like parts, so that ids are unique.
            name, part = self.ids[document], parts.get(self.ids[document], 0) + 1
            # Another document may already be called "ID#2": count on.
            while part > 1 and f"{name}#{part}" in taken:
                part += 1
            parts[name] = part
            ids.append(name if part == 1 else f"{name}#{part}")
            number_of_key.setdefault(self.keys[document], len(number_of_key))
        return DocumentTable(
            ids,
            [self.titles[document] for document in document_P],
            [self.sources[document] for document in document_P],
            self.split_M[self.document_N[starts]],
            starts,
            rows_P,
            np.array([number_of_key[self.keys[document]] for document in document_P], np.int64),
        )


def is_first_of_equals(hash_N: NDArray[np.uint64], split_N: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return which rows are the first with their hash, where rows of train come before val, and val before ood."""
    # The sort is stable, so among equal rows of a split the earlier one is first.
    order = np.lexsort((split_N, hash_N))
    sorted_hashes = hash_N[order]
    is_first = np.ones(len(hash_N), bool)
    is_first[order[1:]] = sorted_hashes[1:] != sorted_hashes[:-1]
    return is_first


def count_repeats(
    hash_N: NDArray[np.uint64], split_N: NDArray[np.int8], dropped_N: NDArray[np.bool_]
) -> dict[str, int]:
    """Count the dropped rows: those of val and ood that are also in train, and other repeats."""
    in_train_N = np.zeros(len(hash_N), bool)
    dropped = np.flatnonzero(dropped_N)
    in_train_N[dropped] = np.isin(hash_N[dropped], hash_N[split_N == TRAIN])
    counts = {
        f"{split}_in_train_dropped": int((in_train_N & (split_N == number)).sum())
        for number, split in enumerate(SPLITS)
        if number != TRAIN
    }
    return counts | {"repeats_dropped": int(dropped_N.sum()) - sum(counts.values())}
