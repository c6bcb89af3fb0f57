"""Does the order of chunks say anything: an arrow of time, documents that run backwards, chunks that were shuffled.

Arrow of time. Let C = E[z(t) z(t-1)ᵀ] be the covariance of neighbours. Read backwards, a document has Cᵀ in its place;
a process that looks the same in both directions has C = Cᵀ (for Gaussian processes this, at all distances, is all of
reversibility: Weiss, "Time-reversibility of linear stochastic processes", J. Appl. Prob. 12, 1975; Tong and Zhang,
Statistica Sinica 15, 2005). The antisymmetric part A = (C - Cᵀ) / 2 is therefore what an arrow of time leaves, and it
changes its sign when documents are reversed. The *forward signal* is ‖A‖ over the norm of what changes between
neighbours, E[(z(t) - z(t-1)) (z(t) - z(t-1))ᵀ] / 2, in the principal directions of train at variance 1.

Noise floor. Without an arrow the sum over a unit of documents, A_u, is as likely as -A_u. The expectation of ‖Σ ± A_u‖²
under random signs is Σ ‖A_u‖², which is taken off (what remains is unbiased), and its 99th percentile is the floor.

Backwards. Each unit of val or ood has the inner product of its A_u with train's A; their mean over ‖A‖² is 1 for
documents like train's, -1 for reversed ones; t, the mean over its standard error, says how sure that is.

Shuffled. In a document whose chunks were shuffled, chunks next to each other are as near as any two others: the *fall*,
the mean cosine at distance 1 less that at distances 2 to 8 in the same document, is 0.

Letters in names: R rows of a sample, U units of documents, D dimensions, K directions, F = K (K - 1) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.sampling import Sample

Floats = NDArray[np.float64]

DISTANCES = range(1, 9)
"""Distances, in chunks, of the coherence curve."""
SIGNS = 400
"""Draws of random signs for the noise floor."""


@dataclass(frozen=True)
class Arrow:
    """The antisymmetric part of each unit's covariance of neighbours, and what changes between neighbours."""

    antisymmetric_UF: Floats
    """(U, F) sums over the pairs of neighbours of a unit; what stands above the diagonal."""
    change: float
    """Norm of the sum of half the outer products of neighbours' differences, over all units."""
    pairs: int
    """Pairs of neighbours in all."""


def measure_arrow(read_RK: NDArray[np.float32], sample: Sample) -> Arrow | None:
    """The arrow of a sample whose rows have the coordinates (R, K); None without two directions or neighbours."""
    count = read_RK.shape[1]
    later_N = 1 + np.flatnonzero(sample.document_R[1:] == sample.document_R[:-1])
    later_N = later_N[sample.usable_R[later_N] & sample.usable_R[later_N - 1]]
    if count < 2 or not len(later_N):
        return None
    unit_N = sample.unit_R[later_N]
    order_N = np.argsort(unit_N, kind="stable")
    ends_U = np.cumsum(np.bincount(unit_N, minlength=sample.units))
    above = np.triu_indices(count, 1)
    antisymmetric, change_KK = [], np.zeros((count, count))
    for rows in np.split(later_N[order_N], ends_U[:-1]):
        product_KK = (read_RK[rows].T @ read_RK[rows - 1]).astype(np.float64)
        antisymmetric.append(((product_KK - product_KK.T) / 2)[above])
        difference_NK = read_RK[rows] - read_RK[rows - 1]
        change_KK += difference_NK.T @ difference_NK / 2
    return Arrow(np.array(antisymmetric), float(np.linalg.norm(change_KK)), len(later_N))


def measure_forward(arrow: Arrow) -> dict[str, float]:
    """The forward signal and its noise floor, both 0 or more."""
    total_F = arrow.antisymmetric_UF.sum(axis=0)
    # An antisymmetric matrix has each number twice.
    squared, noise = 2 * float(total_F @ total_F), 2 * float(np.square(arrow.antisymmetric_UF).sum())
    signs_SU = np.random.default_rng(0).choice([-1.0, 1.0], (SIGNS, len(arrow.antisymmetric_UF)))
    by_chance = 2 * np.square(signs_SU @ arrow.antisymmetric_UF).sum(axis=1)
    scale = max(arrow.change, 1e-12)
    return {
        "signal": round(float(np.sqrt(max(squared - noise, 0)) / scale), 4),
        "noise": round(float(np.sqrt(max(np.quantile(by_chance, 0.99) - noise, 0)) / scale), 4),
    }


def measure_agreement(arrow: Arrow, train: Arrow) -> dict[str, float] | None:
    """How a split's arrow lies to train's: `along` (1 alike, -1 reversed) and `t`, how sure that is; None if unknown.

    It takes two units of documents, and an arrow of train above its own noise.
    """
    total_F = train.antisymmetric_UF.sum(axis=0)
    squared = float(total_F @ total_F - np.square(train.antisymmetric_UF).sum())
    projected_U = arrow.antisymmetric_UF @ total_F
    if squared <= 0 or len(projected_U) < 2:
        return None
    error = float(projected_U.std(ddof=1) * np.sqrt(len(projected_U)))
    along = float(projected_U.sum()) / squared * train.pairs / arrow.pairs
    return {
        "along": round(along, 4),
        "t": round(float(projected_U.sum()) / max(error, 1e-12), 2),
        "units": len(projected_U),
    }


def measure_coherence(sample: Sample) -> tuple[list[float | None], dict[str, float] | None]:
    """The mean cosine of two rows of a document at each of DISTANCES (None where no document is that long), and its
    fall with its standard error over units (None below two units).
    """
    coherence: list[float | None] = []
    near, far = _PerDocument(sample), _PerDocument(sample)
    for distance in DISTANCES:
        same_R = sample.document_R[:-distance] == sample.document_R[distance:]
        same_R &= sample.usable_R[:-distance] & sample.usable_R[distance:]
        cosines_R = np.einsum("rd,rd->r", sample.vectors_RD[:-distance], sample.vectors_RD[distance:])
        cosines = cosines_R[same_R]
        coherence.append(round(float(cosines.mean(dtype=np.float64)), 4) if len(cosines) else None)
        (near if distance == 1 else far).add(np.flatnonzero(same_R), cosines)
    return coherence, _measure_fall(near, far)


class _PerDocument:
    """Sums of cosines, and how many, by document."""

    def __init__(self, sample: Sample) -> None:
        _, first_M, self._number_R = np.unique(sample.document_R, return_index=True, return_inverse=True)
        self.unit_M = sample.unit_R[first_M]
        self.total_M, self.count_M = np.zeros(len(first_M)), np.zeros(len(first_M))

    def add(self, rows: NDArray[np.intp], cosines: NDArray[np.float32]) -> None:
        self.total_M += np.bincount(self._number_R[rows], cosines, minlength=len(self.total_M))
        self.count_M += np.bincount(self._number_R[rows], minlength=len(self.total_M))


def _measure_fall(near: _PerDocument, far: _PerDocument) -> dict[str, float] | None:
    """The fall, documents weighted by their pairs of neighbours."""
    has = (near.count_M > 0) & (far.count_M > 0)
    if len(np.unique(near.unit_M[has])) < 2:
        return None
    fall_M = near.total_M[has] / near.count_M[has] - far.total_M[has] / far.count_M[has]
    weight_M = near.count_M[has] / near.count_M[has].sum()
    fall = float(weight_M @ fall_M)
    missed_U = np.bincount(near.unit_M[has], weight_M * (fall_M - fall))
    return {"fall": round(fall, 4), "error": round(float(np.sqrt(np.square(missed_U).sum())), 5)}


def context_mean_cosine(sample: Sample, context: int, most: int = 10_000) -> float | None:
    """The mean cosine of a row and the mean of the `context` rows before it, on the first `most` rows of a sample."""
    vectors_RD, document_R = sample.vectors_RD[:most], sample.document_R[:most]
    if len(vectors_RD) <= context:
        return None
    whole_R = document_R[context:] == document_R[:-context]
    summed_RD = np.zeros_like(vectors_RD[context:])
    for back in range(1, context + 1):
        whole_R &= sample.usable_R[:most][context - back : len(vectors_RD) - back]
        summed_RD += vectors_RD[context - back : len(vectors_RD) - back]
    lengths_R = np.linalg.norm(summed_RD, axis=1)
    whole_R &= sample.usable_R[:most][context:] & (lengths_R > 0)
    cosines = np.einsum("rd,rd->r", summed_RD, vectors_RD[context:])[whole_R] / lengths_R[whole_R]
    return round(float(cosines.mean(dtype=np.float64)), 4) if len(cosines) else None
