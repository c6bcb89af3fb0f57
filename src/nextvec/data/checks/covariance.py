"""Compare the directions that the splits' vectors use: effective rank, distance from train.

Effective rank: the exponential of the entropy of the covariance's eigenvalues, normalized to sum 1 (Roy and Vetterli,
"The effective rank", EUSIPCO 2007). It is between 1 and D, and lower on small samples.

Distance from train: a permutation test with two samples (Good, "Permutation Tests", 2nd edition, chapter 3). The
distances of the split's mean and covariance from train's are divided by the 99th percentile of the same distances of
random parts of train with the split's size. Parts consist of whole units of documents, because the rows of a document
are alike. A value of at most 1 is expected for documents of train's sources; above 1, the source, the domain or the
encoder differs.

Letters in names: R rows of a sample, U units of documents, D dimensions, K directions, F features, P permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.sampling import BLOCK_ROWS, Sample, usable_blocks

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
"""In single precision, eigenvalues are exact to 1e-6 of the largest and take half the time."""

MAX_DIRECTIONS = 32
"""Maximum number of train's principal directions in which order and distance from train are measured."""
PERMUTATIONS = 400
"""Number of random parts of train that a split is compared with."""
MIN_UNITS = 8
"""Minimum number of train's units of documents for a permutation test."""

_MIN_RELATIVE_VARIANCE = 1e-6
"""Directions with less than this fraction of the largest variance are rounding error."""


@dataclass(frozen=True)
class Moments:
    """The first two moments of the rows of a sample."""

    mean_D: Floats
    second_moment_DD: Singles
    """Mean outer product of the rows, not centered."""

    @property
    def covariance_DD(self) -> Singles:  # noqa: N802
        """The second moment, centered."""
        return self.second_moment_DD - np.outer(self.mean_D, self.mean_D).astype(np.float32)


@dataclass(frozen=True)
class PrincipalCoordinates:
    """Train's principal directions, scaled so that train has variance 1 along each."""

    mean_D: NDArray[np.float32]
    directions_DK: NDArray[np.float32]

    def transform(self, sample: Sample) -> NDArray[np.float32]:
        """Return the coordinates (R, K) of a sample's rows; zero, which is train's mean, for unusable rows."""
        coordinates_RK = np.empty((len(sample.usable_R), self.directions_DK.shape[1]), np.float32)
        for start in range(0, len(coordinates_RK), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            coordinates_RK[block] = sample.vectors_RD[block] @ self.directions_DK
        coordinates_RK -= self.mean_D @ self.directions_DK
        coordinates_RK[~sample.usable_R] = 0
        return coordinates_RK


def measure_moments(sample: Sample) -> Moments:
    """Return the moments of the usable rows; zero if there are none."""
    dimensions, count = sample.vectors_RD.shape[1], max(int(sample.usable_R.sum()), 1)
    sum_D, second_DD = np.zeros(dimensions), np.zeros((dimensions, dimensions), np.float32)
    for rows_BD in usable_blocks(sample):
        sum_D += rows_BD.sum(axis=0, dtype=np.float64)
        second_DD += rows_BD.T @ rows_BD
    return Moments(sum_D / count, second_DD / np.float32(count))


def measure_spectrum(covariance_DD: Singles) -> dict[str, float]:
    """Return the effective rank, and the fraction of the variance in the first direction; 0 if nothing varies."""
    # Eigenvalues of a covariance are variances; rounding can make the smallest negative.
    variance_D = np.maximum(np.linalg.eigvalsh(covariance_DD), 0).astype(np.float64)
    total = variance_D.sum()
    if total <= _MIN_RELATIVE_VARIANCE:
        return {"effective_rank": 0.0, "first_share": 0.0}
    shares = variance_D[variance_D > 0] / total
    # The exponential of the entropy: k equal shares give exactly k.
    rank = float(np.exp(-(shares * np.log(shares)).sum()))
    return {"effective_rank": round(rank, 2), "first_share": round(float(shares.max()), 4)}


def make_coordinates(moments: Moments) -> PrincipalCoordinates | None:
    """Return the strongest principal directions, at most MAX_DIRECTIONS and D / 2; None if nothing varies."""
    variance_D, directions_DD = np.linalg.eigh(moments.covariance_DD)  # ascending
    # Keep the strongest directions that are not rounding error, and divide each by its standard deviation.
    count = min(MAX_DIRECTIONS, max(len(variance_D) // 2, 1))
    variance_K = variance_D[-count:]
    is_kept_K = variance_K > max(_MIN_RELATIVE_VARIANCE * variance_D[-1], 1e-12)
    if not is_kept_K.any():
        return None
    directions_DK = directions_DD[:, -count:][:, is_kept_K] / np.sqrt(variance_K[is_kept_K])
    return PrincipalCoordinates(moments.mean_D.astype(np.float32), directions_DK)


def measure_train_distance(
    train_RK: NDArray[np.float32], train: Sample, split_RK: NDArray[np.float32], split: Sample
) -> dict[str, float] | None:
    """Return the distances of a split's `mean` and `covariance` from train's; 1 is the 99th percentile of chance.

    Rows are in train's principal coordinates. None if train has fewer than MIN_UNITS units, or the split no usable row.
    """
    if train.units < MIN_UNITS or not split.usable_R.any():
        return None
    # Distances are differences of means of features: each unit contributes the sums of its coordinates and of their
    # products, so that the moments of any set of units are one matrix product.
    features_UF, rows_U = _features(train_RK, train)
    split_features_UF, split_rows_U = _features(split_RK, split)
    total_F, rows = features_UF.sum(axis=0), rows_U.sum()
    directions = train_RK.shape[1]
    distances = _distances(split_features_UF.sum(axis=0)[None] / split_rows_U.sum(), total_F[None] / rows, directions)
    # Draw parts of train as large as the split (at most half of train), and compare each with the rest of train.
    rng = np.random.default_rng(0)
    order_PU = np.argsort(rng.random((PERMUTATIONS, train.units)), axis=1)
    before_PU = np.cumsum(rows_U[order_PU], axis=1) - rows_U[order_PU]
    is_part_PU = np.zeros(order_PU.shape)
    np.put_along_axis(is_part_PU, order_PU, (before_PU < min(split_rows_U.sum(), rows / 2)).astype(float), axis=1)
    part_PF, part_rows_P1 = is_part_PU @ features_UF, (is_part_PU @ rows_U)[:, None]
    rest_PF = (total_F - part_PF) / np.maximum(rows - part_rows_P1, 1)
    chance = _distances(part_PF / np.maximum(part_rows_P1, 1), rest_PF, directions)
    return {
        # A distance of 1 is one that 99 of 100 random parts of train stay below.
        name: round(float(distance[0] / max(np.quantile(chance_P, 0.99), 1e-12)), 3)
        for name, distance, chance_P in zip(("mean", "covariance"), distances, chance, strict=True)
    }


def _features(coordinates_RK: NDArray[np.float32], sample: Sample) -> tuple[Floats, Floats]:
    """Return the sums of each unit's coordinates and their outer products (U, K + K²), and its usable rows (U,)."""
    # Sort the rows by unit, so that each unit is a slice.
    order_R = np.argsort(sample.unit_R, kind="stable")
    ends_U = np.cumsum(np.bincount(sample.unit_R, minlength=sample.units))
    sums = []
    for rows in np.split(order_R, ends_U[:-1]):
        unit_RK = coordinates_RK[rows]
        sums.append(np.concatenate([unit_RK.sum(axis=0), (unit_RK.T @ unit_RK).ravel()]))
    usable_U: Floats = np.bincount(sample.unit_R, sample.usable_R, minlength=sample.units).astype(np.float64)
    return np.array(sums, np.float64), usable_U


def _distances(first_PF: Floats, second_PF: Floats, directions: int) -> tuple[Floats, Floats]:
    """Return the distances (P,) of the means, and of the covariances (Frobenius norm), from mean features (P, F)."""
    moments = []
    for features_PF in (first_PF, second_PF):
        mean_PK = features_PF[:, :directions]
        # Covariance: mean outer product minus outer product of the mean.
        outer_PKK = mean_PK[:, :, None] * mean_PK[:, None, :]
        moments.append((mean_PK, features_PF[:, directions:] - outer_PKK.reshape(len(mean_PK), -1)))
    (first_mean_PK, first_covariance_PF), (second_mean_PK, second_covariance_PF) = moments
    mean_distance_P: Floats = np.sqrt(np.square(first_mean_PK - second_mean_PK).sum(axis=1))
    covariance_distance_P: Floats = np.sqrt(np.square(first_covariance_PF - second_covariance_PF).sum(axis=1))
    return mean_distance_P, covariance_distance_P
