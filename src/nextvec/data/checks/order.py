"""Measure whether the order of chunks carries information, and whether documents are reversed or shuffled.

Time asymmetry. Let C = E[z(t) z(t-1)ᵀ] be the covariance of adjacent rows. In reversed documents it is Cᵀ, and a
process that is statistically the same in both directions has C = Cᵀ (for Gaussian processes this property at all
distances is equivalent to reversibility: Weiss, "Time-reversibility of linear stochastic processes", J. Appl. Prob. 12,
1975; Tong and Zhang, Statistica Sinica 15, 2005). The antisymmetric part A = (C - Cᵀ) / 2 therefore measures the
direction of time, and reversing documents changes its sign. The *forward signal* is ‖A‖ divided by the norm of
E[(z(t) - z(t-1)) (z(t) - z(t-1))ᵀ] / 2, in train's principal coordinates.

Noise floor. Without a direction of time, A_u, the sum over a unit of documents, is as likely as -A_u. Under random
signs the expectation of ‖Σ ± A_u‖² is Σ ‖A_u‖². Subtracting it makes the signal unbiased; the 99th percentile over
random signs is the floor.

Reversed documents. Each unit of val or ood has the inner product of its A_u with train's A. The mean of these products
over ‖A‖², the *projection*, is 1 for documents like train's and -1 for reversed ones; t is the mean over its standard
error.

Shuffled documents. In a shuffled document adjacent chunks are as similar as any two others. The *coherence drop*, the
mean cosine at distance 1 minus that at distances 2 to 8 in the same document, is then 0.

Letters in names: R rows of a sample, N pairs of adjacent rows, M documents, U units of documents, D dimensions, K
directions, F = K (K - 1) / 2, S draws of signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.sampling import Sample, shifted_cosines

Floats = NDArray[np.float64]

DISTANCES = range(1, 9)
"""Distances, in chunks, of the coherence curve."""
SIGN_DRAWS = 400
"""Number of draws of random signs for the noise floor."""


@dataclass(frozen=True)
class TimeAsymmetry:
    """The antisymmetric part of each unit's covariance of adjacent rows, and the size of the changes between them."""

    antisymmetric_UF: Floats
    """(U, F) sums over a unit's pairs of adjacent rows; the entries above the diagonal."""
    change: float
    """Norm of the sum of half the outer products of differences of adjacent rows, over all units."""
    pairs: int
    """Number of pairs of adjacent rows."""


def measure_asymmetry(coordinates_RK: NDArray[np.float32], sample: Sample) -> TimeAsymmetry | None:
    """Return the time asymmetry of a sample with coordinates (R, K); None without two directions or adjacent rows."""
    directions = coordinates_RK.shape[1]
    # Pairs of adjacent rows: both are usable and in the same document.
    later_N = 1 + np.flatnonzero(sample.document_R[1:] == sample.document_R[:-1])
    later_N = later_N[sample.usable_R[later_N] & sample.usable_R[later_N - 1]]
    if directions < 2 or not len(later_N):
        return None
    # Sort the pairs by unit, and sum over the pairs of each unit.
    unit_N = sample.unit_R[later_N]
    order_N = np.argsort(unit_N, kind="stable")
    ends_U = np.cumsum(np.bincount(unit_N, minlength=sample.units))
    above_diagonal = np.triu_indices(directions, 1)
    antisymmetric, change_KK = [], np.zeros((directions, directions))
    for rows in np.split(later_N[order_N], ends_U[:-1]):
        # The antisymmetric part of the sum of z(t) z(t-1)ᵀ: reversing the unit would change its sign.
        product_KK = (coordinates_RK[rows].T @ coordinates_RK[rows - 1]).astype(np.float64)
        antisymmetric.append(((product_KK - product_KK.T) / 2)[above_diagonal])
        # The size of the changes from row to row, by which the signal is divided.
        difference_NK = coordinates_RK[rows] - coordinates_RK[rows - 1]
        change_KK += difference_NK.T @ difference_NK / 2
    return TimeAsymmetry(np.array(antisymmetric), float(np.linalg.norm(change_KK)), len(later_N))


def measure_forward_signal(asymmetry: TimeAsymmetry) -> dict[str, float]:
    """Return the forward `signal` and its `noise` floor, both at least 0."""
    total_F = asymmetry.antisymmetric_UF.sum(axis=0)
    # Factor 2: an antisymmetric matrix has each value twice.
    squared = 2 * float(total_F @ total_F)
    noise = 2 * float(np.square(asymmetry.antisymmetric_UF).sum())
    # The norm of the sum under random signs: what documents without a direction of time give by chance.
    signs_SU = np.random.default_rng(0).choice([-1.0, 1.0], (SIGN_DRAWS, len(asymmetry.antisymmetric_UF)))
    chance_S = 2 * np.square(signs_SU @ asymmetry.antisymmetric_UF).sum(axis=1)
    scale = max(asymmetry.change, 1e-12)
    return {
        "signal": round(float(np.sqrt(max(squared - noise, 0)) / scale), 4),
        "noise": round(float(np.sqrt(max(np.quantile(chance_S, 0.99) - noise, 0)) / scale), 4),
    }


def measure_direction(asymmetry: TimeAsymmetry, train: TimeAsymmetry) -> dict[str, float] | None:
    """Compare a split's direction of time with train's: `projection` (1 same, -1 reversed), its `t`, and `units`.

    None if the split has fewer than two units, or train's asymmetry does not exceed its noise.
    """
    # ‖A‖² of train without its expected noise, and the inner product of each of the split's units with train's A.
    train_F = train.antisymmetric_UF.sum(axis=0)
    squared = float(train_F @ train_F - np.square(train.antisymmetric_UF).sum())
    product_U = asymmetry.antisymmetric_UF @ train_F
    if squared <= 0 or len(product_U) < 2:
        return None
    # Standard error of the sum over units. The ratio of pairs makes samples of different size comparable.
    error = float(product_U.std(ddof=1) * np.sqrt(len(product_U)))
    projection = float(product_U.sum()) / squared * train.pairs / asymmetry.pairs
    return {
        "projection": round(projection, 4),
        "t": round(float(product_U.sum()) / max(error, 1e-12), 2),
        "units": len(product_U),
    }


def measure_coherence(sample: Sample) -> tuple[list[float | None], dict[str, float] | None]:
    """Return the mean cosine of two rows of a document at each of DISTANCES, and the coherence drop.

    A distance that no document reaches has None. The drop comes with its standard error over units; None if there are
    fewer than two.
    """
    coherence: list[float | None] = []
    near, far = _DocumentSums(sample), _DocumentSums(sample)
    for distance, cosines_R in zip(DISTANCES, shifted_cosines(sample, DISTANCES), strict=True):
        # Compare the sample with itself shifted by `distance` rows; only pairs within a document count.
        is_pair_R = sample.document_R[:-distance] == sample.document_R[distance:]
        is_pair_R &= sample.usable_R[:-distance] & sample.usable_R[distance:]
        cosines_N = cosines_R[:-distance][is_pair_R]
        coherence.append(round(float(cosines_N.mean(dtype=np.float64)), 4) if len(cosines_N) else None)
        (near if distance == 1 else far).add(np.flatnonzero(is_pair_R), cosines_N)
    return coherence, _coherence_drop(near, far)


class _DocumentSums:
    """Sum and number of cosines of each document."""

    def __init__(self, sample: Sample) -> None:
        # Number the documents from 0, and find the unit of each by its first row.
        _, first_M, self._number_R = np.unique(sample.document_R, return_index=True, return_inverse=True)
        self.unit_M = sample.unit_R[first_M]
        self.total_M, self.count_M = np.zeros(len(first_M)), np.zeros(len(first_M))

    def add(self, rows_N: NDArray[np.intp], cosines_N: NDArray[np.float32]) -> None:
        self.total_M += np.bincount(self._number_R[rows_N], cosines_N, minlength=len(self.total_M))
        self.count_M += np.bincount(self._number_R[rows_N], minlength=len(self.total_M))


def _coherence_drop(near: _DocumentSums, far: _DocumentSums) -> dict[str, float] | None:
    """Return the mean drop over documents, weighted by their pairs of adjacent chunks, and its standard error."""
    has_both_M = (near.count_M > 0) & (far.count_M > 0)
    if len(np.unique(near.unit_M[has_both_M])) < 2:
        return None
    # The drop of each document: mean cosine of adjacent chunks minus that of chunks farther apart.
    near_M, far_M = (sums.total_M[has_both_M] / sums.count_M[has_both_M] for sums in (near, far))
    drop_M = near_M - far_M
    weight_M = near.count_M[has_both_M] / near.count_M[has_both_M].sum()
    drop = float(weight_M @ drop_M)
    # Documents of a unit are not independent, so deviations are summed by unit before they are squared.
    deviation_U = np.bincount(near.unit_M[has_both_M], weight_M * (drop_M - drop))
    return {"drop": round(drop, 4), "error": round(float(np.sqrt(np.square(deviation_U).sum())), 5)}


def context_mean_cosine(sample: Sample, context: int, max_rows: int = 10_000) -> float | None:
    """Return the mean cosine of a row and the mean of the `context` rows before it, on the first rows of a sample."""
    vectors_RD, document_R = sample.vectors_RD[:max_rows], sample.document_R[:max_rows]
    usable_R = sample.usable_R[:max_rows]
    rows = len(vectors_RD)
    if rows <= context:
        return None
    # Sum the context of every row, and exclude those that cross a document's start or contain an unusable row.
    is_window_R = document_R[context:] == document_R[:-context]
    sum_RD = np.zeros_like(vectors_RD[context:])
    for distance in range(1, context + 1):
        is_window_R &= usable_R[context - distance : rows - distance]
        sum_RD += vectors_RD[context - distance : rows - distance]
    lengths_R = np.linalg.norm(sum_RD, axis=1)
    is_window_R &= usable_R[context:] & (lengths_R > 0)
    cosines = np.einsum("rd,rd->r", sum_RD, vectors_RD[context:])[is_window_R] / lengths_R[is_window_R]
    return round(float(cosines.mean(dtype=np.float64)), 4) if len(cosines) else None
