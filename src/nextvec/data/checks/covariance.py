"""Which directions a split's vectors use: spectrum, alignment of spaces, and whether two splits are of one source.

Effective rank: exp of the entropy of the covariance's eigenvalues, taken as shares (Roy and Vetterli, "The effective
rank", EUSIPCO 2007); from 1 to D, lower on small samples.

Alignment: the energy (mean squared length) of a split in train's strongest K directions, over that in as many of its
own; from about K / D to 1. A space's texts share their strongest directions, whatever they speak of; vectors of
another encoder do not.

Likeness: a two-sample test by permutation (Good, "Permutation Tests", 2nd edition, chapter 3). How far are the mean and
the covariance of a split from train's, in parts of the 99th percentile of what random parts of train's own documents
of that size give? Whole units of documents are drawn, since rows of one document are alike. At most 1 for documents of
train's sources; above that, the split is of another source, domain or encoder.

Letters in names: R rows of a sample, U units of documents, D dimensions, K directions, F features, P permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.sampling import Sample

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
"""Eigenvalues of single precision are exact to 1e-6 of the largest, and take half the time."""

DIRECTIONS = 32
"""Most of train's principal directions that order and likeness are looked for in."""
PERMUTATIONS = 400
"""Random parts of train that a likeness is compared with."""

_SMALLEST = 1e-6  # directions with less than this part of the strongest one's variance are rounding


@dataclass(frozen=True)
class Moments:
    """Mean, and what is spread around the origin and the mean, of the rows of a sample."""

    mean_D: Floats
    about_origin_DD: Singles

    @property
    def covariance_DD(self) -> Singles:  # noqa: N802
        """The mean outer product of rows, less that of the mean."""
        return self.about_origin_DD - np.outer(self.mean_D, self.mean_D).astype(np.float32)


@dataclass(frozen=True)
class Coordinates:
    """Train's principal directions, scaled so that train has variance 1 along each."""

    mean_D: NDArray[np.float32]
    directions_DK: NDArray[np.float32]

    def read(self, sample: Sample) -> NDArray[np.float32]:
        """The coordinates (R, K) of a sample's rows; zero, train's mean, for rows without a direction."""
        read_RK: NDArray[np.float32] = sample.vectors_RD @ self.directions_DK - self.mean_D @ self.directions_DK
        read_RK[~sample.usable_R] = 0
        return read_RK


def measure_moments(sample: Sample) -> Moments:
    """The moments of the rows that have a direction; zero where there are none."""
    rows_RD = sample.directions_RD
    count = max(len(rows_RD), 1)
    return Moments(rows_RD.sum(axis=0, dtype=np.float64) / count, rows_RD.T @ rows_RD / np.float32(count))


def measure_spectrum(covariance_DD: Singles) -> dict[str, float]:
    """Effective rank, and the share of all variance that the first direction has; 0 where nothing varies."""
    variance_D = np.maximum(np.linalg.eigvalsh(covariance_DD), 0).astype(np.float64)
    total = variance_D.sum()
    if total <= _SMALLEST:
        return {"effective_rank": 0.0, "first_share": 0.0}
    shares = variance_D[variance_D > 0] / total
    rank = float(np.exp(-(shares * np.log(shares)).sum()))
    return {"effective_rank": round(rank, 2), "first_share": round(float(shares.max()), 4)}


def make_coordinates(moments: Moments) -> Coordinates | None:
    """The strongest directions of a covariance, at most DIRECTIONS and half of D; None where nothing varies."""
    variance_D, directions_DD = np.linalg.eigh(moments.covariance_DD)
    count = min(DIRECTIONS, max(len(variance_D) // 2, 1))
    variance_K = variance_D[-count:]
    kept_K = variance_K > max(_SMALLEST * variance_D[-1], 1e-12)
    if not kept_K.any():
        return None
    directions_DK = directions_DD[:, -count:][:, kept_K] / np.sqrt(variance_K[kept_K])
    return Coordinates(moments.mean_D.astype(np.float32), directions_DK)


def strongest_directions(moments: Moments) -> Singles:
    """(D, K) orthonormal: the K = D / 8 directions around the origin that hold the most energy."""
    count = max(len(moments.mean_D) // 8, 1)
    directions_DK: Singles = np.linalg.eigh(moments.about_origin_DD)[1][:, -count:]
    return directions_DK


def measure_alignment(moments: Moments, directions_DK: Singles) -> float | None:
    """The energy of a split in train's strongest directions over that in its own strongest; None where it has none."""
    own = np.linalg.eigvalsh(moments.about_origin_DD)[-directions_DK.shape[1] :].sum()
    captured = np.vdot(directions_DK, moments.about_origin_DD @ directions_DK)
    return round(float(captured / own), 4) if own > 0 else None


def measure_likeness(
    train_RK: NDArray[np.float32], train: Sample, other_RK: NDArray[np.float32], other: Sample
) -> dict[str, float] | None:
    """How far the mean and the covariance of `other` are from train's, 1 being the 99th percentile of chance.

    Rows are in train's coordinates. None where train has fewer than 8 units of documents, or `other` no rows.
    """
    if train.units < 8 or not other.usable_R.any():
        return None
    features_UF, rows_U = _features(train_RK, train)
    others_UF, others_U = _features(other_RK, other)
    whole_F, rows = features_UF.sum(axis=0), rows_U.sum()
    far = _distances(others_UF.sum(axis=0)[None] / others_U.sum(), whole_F[None] / rows, train_RK.shape[1])
    # Parts of train as large as the other split, or half of train, each against all the rest.
    random = np.random.default_rng(0)
    order_PU = np.argsort(random.random((PERMUTATIONS, train.units)), axis=1)
    before_PU = np.cumsum(rows_U[order_PU], axis=1) - rows_U[order_PU]
    chosen_PU = np.zeros(order_PU.shape)
    np.put_along_axis(chosen_PU, order_PU, (before_PU < min(others_U.sum(), rows / 2)).astype(float), axis=1)
    part_PF, part_P1 = chosen_PU @ features_UF, (chosen_PU @ rows_U)[:, None]
    rest_PF = (whole_F - part_PF) / np.maximum(rows - part_P1, 1)
    by_chance = _distances(part_PF / np.maximum(part_P1, 1), rest_PF, train_RK.shape[1])
    return {
        name: round(float(found[0] / max(np.quantile(chance_P, 0.99), 1e-12)), 3)
        for name, found, chance_P in zip(("mean", "covariance"), far, by_chance, strict=True)
    }


def _features(read_RK: NDArray[np.float32], sample: Sample) -> tuple[Floats, Floats]:
    """For each unit the sums of coordinates and of their outer products (U, K + K²), and its usable rows (U,)."""
    order_R = np.argsort(sample.unit_R, kind="stable")
    ends_U = np.cumsum(np.bincount(sample.unit_R, minlength=sample.units))
    sums = []
    for rows in np.split(order_R, ends_U[:-1]):
        read = read_RK[rows]
        sums.append(np.concatenate([read.sum(axis=0), (read.T @ read).ravel()]))
    usable_U: Floats = np.bincount(sample.unit_R, sample.usable_R, minlength=sample.units).astype(np.float64)
    return np.array(sums, np.float64), usable_U


def _distances(one_PF: Floats, other_PF: Floats, count: int) -> tuple[Floats, Floats]:
    """Distance of the means, and of the covariances (Frobenius norm), that mean features stand for: (P,) each."""
    moments = []
    for features_PF in (one_PF, other_PF):
        mean_PK = features_PF[:, :count]
        outer_PKK = mean_PK[:, :, None] * mean_PK[:, None, :]
        moments.append((mean_PK, features_PF[:, count:] - outer_PKK.reshape(len(mean_PK), -1)))
    (mean_PK, covariance_PF), (other_PK, other_covariance_PF) = moments
    means_apart_P: Floats = np.sqrt(np.square(mean_PK - other_PK).sum(axis=1))
    covariances_apart_P: Floats = np.sqrt(np.square(covariance_PF - other_covariance_PF).sum(axis=1))
    return means_apart_P, covariances_apart_P
