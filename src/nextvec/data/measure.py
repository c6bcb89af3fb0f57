"""The figures behind the preflight: one pass over all rows, and whole documents of a fixed sample.

All figures are plain values, so that the rules of `check.py` can be tried on figures from anywhere.

Letters in names: N rows of the store, R rows of a sample, M documents, D dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.split import SPLITS
from nextvec.data.store import DocumentTable, Store

Figures = dict[str, Any]

NORM_TOLERANCE = 2e-3
"""How far from 1 a length may be; rounding to float16 moves it by less than 0.0005."""
DISTANCES = range(1, 9)
"""Distances, in chunks, of the coherence curve."""

_BLOCK = 8192  # rows read at once
_SAMPLE_VALUES = 2**26  # most numbers of a sample: 256 MiB as float32


def measure_store(store: Store, least: int, sample: int) -> Figures:
    """Everything that the preflight judges, for windows with at least `least` vectors before the target.

    `sample` is the most rows of each split that coherence and mean direction are measured on. Coherence is the mean
    cosine of two rows of a document at each of DISTANCES, None where no document is that long.
    """
    documents = store.documents
    scan = _scan_rows(store.vectors)
    splits: dict[str, Figures] = {}
    means: dict[str, NDArray[np.float32]] = {}
    for split in SPLITS:
        counts = _count_split(documents, split, least)
        if counts["documents"]:
            coherence, means[split] = _measure_split(store.vectors, documents, split, sample)
            norm = round(float(np.linalg.norm(means[split])), 4)
            splits[split] = {**counts, "coherence": coherence, "mean_norm": norm}
            splits[split].update(_count_repeats(scan, documents, split))
    return {
        "rows": len(store.vectors),
        "dimensions": store.dimensions,
        "min_context": least,
        **_measure_lengths(scan, documents),
        "torn_groups": _find_torn_groups(documents),
        "splits": splits,
        "mean_direction_cosine": {
            f"{one}-{other}": round(_cosine(means[one], means[other]), 4)
            for one in means
            for other in means
            if SPLITS.index(one) < SPLITS.index(other)
        },
    }


@dataclass(frozen=True)
class _Scan:
    """What one pass over all rows gives."""

    norm: NDArray[np.float32]
    """(N,) lengths; NaN or infinite where a number of the row is."""
    digest: NDArray[np.uint64]
    """(N,) hashes: rows of the same bytes have the same."""


def _scan_rows(vectors: NDArray[Any]) -> _Scan:
    norm = np.empty(len(vectors), np.float32)
    digest = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), _BLOCK):
        rows = np.ascontiguousarray(vectors[start : start + _BLOCK])
        norm[start : start + len(rows)] = _lengths(rows.astype(np.float32))
        digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
        digest[start : start + len(rows)] = np.frombuffer(digests, np.uint64)
    return _Scan(norm, digest)


def _lengths(vectors_RD: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths: NDArray[np.float32] = np.sqrt(np.einsum("rd,rd->r", vectors_RD, vectors_RD))
    return lengths


def _measure_lengths(scan: _Scan, documents: DocumentTable) -> Figures:
    """Rows that are NaN or infinite, zero, or not of unit length; and the shortest and longest usable row."""
    finite, zero = np.isfinite(scan.norm), scan.norm == 0
    usable = scan.norm[finite & ~zero]
    return {
        "not_finite": _tell(~finite, documents),
        "zero": _tell(zero, documents),
        "not_unit": _tell(finite & ~zero & (np.abs(scan.norm - 1) > NORM_TOLERANCE), documents),
        "norm": [round(float(usable.min()), 4), round(float(usable.max()), 4)] if len(usable) else None,
    }


def _tell(chosen_N: NDArray[np.bool_], documents: DocumentTable) -> Figures:
    """How many rows are chosen, and where the first is."""
    count = int(chosen_N.sum())
    return {"count": count, "first": _place(documents, int(chosen_N.argmax())) if count else None}


def _place(documents: DocumentTable, row: int) -> str:
    """Where a row is, in words."""
    document = int(np.searchsorted(documents.first_row, row, side="right")) - 1
    return f"row {row} (document '{documents.ids[document]}')"


def _count_split(documents: DocumentTable, split: str, least: int) -> Figures:
    """Documents, groups, rows and windows of a split; `groups` counts those that have windows."""
    chosen = documents.splits == SPLITS.index(split)
    rows = documents.rows[chosen]
    return {
        "documents": len(rows),
        "groups": len(np.unique(documents.group[chosen][rows > least])),
        "rows": int(rows.sum()),
        "windows": int(np.maximum(rows - least, 0).sum()),
        "short": int((rows <= least).sum()),
    }


def _count_repeats(scan: _Scan, documents: DocumentTable, split: str) -> Figures:
    """Rows that repeat another row of their split, and rows that are in train too, with an example."""
    split_N = np.repeat(documents.splits, documents.rows)
    rows = np.flatnonzero(split_N == SPLITS.index(split))
    digests = scan.digest[rows]
    figures: Figures = {"repeats": len(rows) - len(np.unique(digests))}
    if split != "train":
        train_rows = np.flatnonzero(split_N == SPLITS.index("train"))
        leaked = np.isin(digests, scan.digest[train_rows])
        figures.update(in_train=int(leaked.sum()), in_train_example=None)
        if leaked.any():
            row = rows[leaked.argmax()]
            twin = train_rows[(scan.digest[train_rows] == scan.digest[row]).argmax()]
            figures["in_train_example"] = f"{_place(documents, int(row))} and {_place(documents, int(twin))}"
    return figures


def _find_torn_groups(documents: DocumentTable) -> Figures:
    """Groups of documents that are in more than one split."""
    order = np.argsort(documents.group, kind="stable")
    group, split = documents.group[order], documents.splits[order]
    # In the order of groups, a group is torn where two neighbours of it are in different splits.
    breaks = np.flatnonzero((group[1:] == group[:-1]) & (split[1:] != split[:-1]))
    if not len(breaks):
        return {"count": 0, "example": None}
    one, other = order[breaks[0]], order[breaks[0] + 1]
    example = (
        f"'{documents.ids[one]}' in {SPLITS[documents.splits[one]]} and "
        f"'{documents.ids[other]}' in {SPLITS[documents.splits[other]]}"
    )
    return {"count": len(np.unique(group[breaks])), "example": example}


def _measure_split(
    vectors: NDArray[Any], documents: DocumentTable, split: str, sample: int
) -> tuple[list[float | None], NDArray[np.float32]]:
    """The coherence of a split at each of DISTANCES and its mean vector (D,), without rows that have no direction."""
    rows_R, document_R = _sample_documents(documents, split, min(sample, _SAMPLE_VALUES // vectors.shape[1]))
    sampled_RD = vectors[rows_R].astype(np.float32)
    lengths_R = _lengths(sampled_RD)
    usable_R = np.isfinite(lengths_R) & (lengths_R > 0)
    sampled_RD[~usable_R] = 0
    sampled_RD /= np.where(usable_R, lengths_R, 1)[:, None]
    coherence: list[float | None] = []
    for distance in DISTANCES:
        same = document_R[:-distance] == document_R[distance:]
        same &= usable_R[:-distance] & usable_R[distance:]
        cosines = np.einsum("rd,rd->r", sampled_RD[:-distance], sampled_RD[distance:])[same]
        coherence.append(round(float(cosines.mean(dtype=np.float64)), 4) if len(cosines) else None)
    return coherence, sampled_RD.sum(axis=0) / max(int(usable_R.sum()), 1)


def _sample_documents(documents: DocumentTable, split: str, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of whole documents of a split, at most `size` (the last document is cut), and the document of each row."""
    chosen_M = np.flatnonzero(documents.splits == SPLITS.index(split))
    order_M = np.random.Generator(np.random.Philox(key=np.array([0, 2**63 + 2], np.uint64))).permutation(chosen_M)
    before_M = np.cumsum(documents.rows[order_M]) - documents.rows[order_M]
    order_M, before_M = order_M[before_M < size], before_M[before_M < size]
    rows_M = np.minimum(documents.rows[order_M], size - before_M)
    offset_R = np.arange(int(rows_M.sum())) - np.repeat(before_M, rows_M)
    return np.repeat(documents.first_row[order_M], rows_M) + offset_R, np.repeat(order_M, rows_M)


def _cosine(one_D: NDArray[np.float32], other_D: NDArray[np.float32]) -> float:
    return float(one_D @ other_D / max(float(np.linalg.norm(one_D) * np.linalg.norm(other_D)), 1e-12))
