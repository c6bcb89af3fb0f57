"""The figures behind the preflight: one pass over all rows, and whole documents of a fixed sample.

An ood set of its own may be measured with a store: it takes the place of the store's ood split.

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


def measure_store(store: Store, least: int, sample: int, ood: Store | None = None) -> Figures:
    """Everything that the preflight judges, for windows with at least `least` vectors before the target.

    `sample` is the most rows of each split that coherence and directions are measured on. Coherence is the mean
    cosine of two rows of a document at each of DISTANCES, None where no document is that long. `alignment` is the part
    of a split's energy (squared length) in train's strongest directions, over that in as many directions of its own.
    `ood` holds the ood split, where it is not the store's own.
    """
    homes = {split: ood if split == "ood" and ood is not None else store for split in SPLITS}
    scans = {home.path: _scan_rows(home.vectors) for home in homes.values()}
    train = _digests(scans[store.path], store.documents, "train")
    splits: dict[str, Figures] = {}
    samples: dict[str, NDArray[np.float32]] = {}
    for split, home in homes.items():
        counts = _count_split(home.documents, split, least)
        if counts["documents"]:
            coherence, samples[split] = _measure_split(home.vectors, home.documents, split, sample)
            norm = round(float(np.linalg.norm(samples[split].mean(axis=0))), 4)
            splits[split] = {**counts, "coherence": coherence, "mean_norm": norm}
            splits[split].update(_count_repeats(scans[home.path], home.documents, split, train))
    means = {split: sampled_RD.mean(axis=0) for split, sampled_RD in samples.items()}
    return {
        "rows": len(store.vectors),
        "dimensions": store.dimensions,
        "min_context": least,
        **_measure_lengths(scans[store.path], store.documents),
        "ood_set": None if ood is None else _measure_lengths(scans[ood.path], ood.documents),
        "torn_groups": _find_torn_groups(store.documents),
        "splits": splits,
        "mean_direction_cosine": {
            f"{one}-{other}": round(_cosine(means[one], means[other]), 4)
            for one in means
            for other in means
            if SPLITS.index(one) < SPLITS.index(other)
        },
        "alignment": _measure_alignment(samples) if "ood" in samples else {},
    }


def shared_rows(train: Store, other: Store, split: str) -> float:
    """The part of a split's rows in `other` that are rows of the train split of `train`, too: from 0 to 1."""
    seen = _digests(_scan_rows(train.vectors), train.documents, "train")
    rows = _digests(_scan_rows(other.vectors), other.documents, split)
    return float(np.isin(rows.digest, seen.digest).mean()) if len(rows.digest) else 0.0


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
        # In half precision, so that a float16 store and a float32 file show the vectors that they share.
        halves = rows.astype(np.float16, copy=False)
        digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in halves)
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


@dataclass(frozen=True)
class _Digests:
    """The hashes of a split's rows, and where they are."""

    rows: NDArray[np.int64]
    digest: NDArray[np.uint64]
    documents: DocumentTable


def _digests(scan: _Scan, documents: DocumentTable, split: str) -> _Digests:
    rows = np.flatnonzero(np.repeat(documents.splits, documents.rows) == SPLITS.index(split))
    return _Digests(rows, scan.digest[rows], documents)


def _count_repeats(scan: _Scan, documents: DocumentTable, split: str, train: _Digests) -> Figures:
    """Rows that repeat another row of their split, and rows that are in train too, with an example."""
    own = _digests(scan, documents, split)
    figures: Figures = {"repeats": len(own.rows) - len(np.unique(own.digest))}
    if split != "train":
        leaked = np.isin(own.digest, train.digest)
        figures.update(in_train=int(leaked.sum()), in_train_example=None)
        if leaked.any():
            first = int(leaked.argmax())
            twin = int((train.digest == own.digest[first]).argmax())
            places = (_place(documents, int(own.rows[first])), _place(train.documents, int(train.rows[twin])))
            figures["in_train_example"] = " and ".join(places)
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
    """The coherence of a split at each of DISTANCES, and the sampled rows (R, D) that have a direction, at length 1."""
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
    return coherence, sampled_RD if usable_R.all() else sampled_RD[usable_R]


def _measure_alignment(samples: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """For val and ood: energy in train's first K directions over that in their own first K, from about K / D to 1.

    A space's texts share their strongest directions, whatever they speak of; vectors of another encoder do not.
    """
    if "train" not in samples:
        return {}
    dimensions = samples["train"].shape[1]
    count = max(dimensions // 8, 1)
    directions_DK = np.linalg.eigh(_second_moment(samples["train"]))[1][:, -count:]
    alignment = {}
    for split, sampled_RD in samples.items():
        own = np.linalg.eigvalsh(_second_moment(sampled_RD))[-count:].sum()
        if split != "train" and own > 0:
            captured = np.square(sampled_RD @ directions_DK).sum(dtype=np.float64) / max(len(sampled_RD), 1)
            alignment[split] = round(float(captured / own), 4)
    return alignment


def _second_moment(sampled_RD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the outer products of rows, (D, D)."""
    return (sampled_RD.T @ sampled_RD).astype(np.float64) / max(len(sampled_RD), 1)


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
