"""Compare the embedding space of a split with train's: does each dimension mean the same in both?

Differences of adjacent chunks, x(t) − x(t−1), have no topic in common with their document, so their covariance depends
on the encoder far more than on the texts. Two figures compare it, and a third compares the vectors themselves:

Foreign dimensions. The *profile* of a dimension is its correlation with every other dimension. In one space, the
profile of dimension i in the split resembles that of dimension i in train more than those of most other dimensions;
between unrelated dimensions it does so in half of the cases. Twice the share of dimensions that fail is therefore the
share of dimensions that do not correspond (the estimate of the proportion of true null hypotheses with λ = 1/2: Storey,
J. Royal Statistical Society B 64, 2002). A rotation gives 1, a permutation of a quarter of the dimensions 0.25. A
dimension with the opposite sign always fails, so that a tenth of flipped signs gives 0.2. Dimensions that are constant
in one set only are foreign. The figure does not depend on the scale or the mean of a dimension.

Expected share. With few rows, or texts of very different topics, dimensions that correspond fail as well. The highest
similarities show how clearly dimensions correspond at best; the share that then fails by chance is expected.

Chance share. Every document has its own vocabulary and therefore its own correlations, so that few documents differ by
chance however many rows they have. The *chance share* is the highest share between parts of one set: between halves of
the split's documents, and between random documents of train, as many as the split has, and the other ones of train.

Variance correlation. The rank correlation, over the dimensions, of the variance of the differences. It is 1 at most,
and about 0 for unrelated dimensions. Another pooling of the same network keeps the profiles of its last layer but
changes the variances.

Displacement. The squared Mahalanobis distance of the split's mean from train's mean, divided by that of train's own
rows, which are measured against another half of train. Texts of one space lie in the directions in which train varies,
so that the mean of any topic is at most about as far as a single chunk of train (1). Another pooling or layer adds a
constant vector in other directions. `common_share` is the mean's share of the squared distance of the split's rows.

Letters in names: R rows of a sample, N differences of adjacent rows, U units of documents, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri  # scipy.stats takes half a second to import

from nextvec.data.checks.findings import Statistics
from nextvec.data.checks.sampling import Sample, usable_blocks

Singles = NDArray[np.float32]

MAX_DIFFERENCES = 10_000
"""Maximum number of differences of a split; more change the figures by less than 0.01."""
DRAWS = 8
"""Number of random divisions of each set by documents for the chance share."""
MAX_FOREIGN = 0.04
"""Share of foreign dimensions, beyond the expected one, up to which the spaces are the same: a tenth of the dimensions
permuted gives 0.07 to 0.15. Chance is measured above it only."""
MIN_DIMENSIONS = 8
"""Minimum number of dimensions with variance: profiles of fewer are alike by chance."""

_SHRINKAGE = 0.05
"""Weight of the identity in the covariance for the displacement, in units of the mean variance."""
_MIN_RELATIVE_VARIANCE = 1e-4
"""A dimension is constant if its variance is below this fraction of the median variance."""


@dataclass(frozen=True)
class SpaceProfile:
    """What a sample shows of its embedding space."""

    units: int
    """Number of independent units of documents."""
    differences: int
    """Number of differences of adjacent rows."""
    variance_D: Singles
    """Variance of the differences in each dimension."""
    profile_DD: Singles
    """Correlations of each dimension with the others, scaled to unit length; 0 with itself and constant dimensions."""
    mean_D: Singles
    """Mean of the rows."""
    covariance_DD: Singles
    """Covariance of the rows."""
    mean_strength: float
    """Squared length of the mean times the number of units of documents, relative to the variance; 0 if centered."""


@dataclass(frozen=True)
class SpaceReference:
    """What train shows of its embedding space, and how well: two halves of its units of documents are compared."""

    sample: Sample
    profile: SpaceProfile
    mean_D: Singles
    """Mean of the first half."""
    precision_DD: Singles
    """Inverse of the first half's covariance."""
    row_distance: float
    """Mean squared distance of the second half's rows from the first half's mean."""
    own_foreign: float
    """Share of foreign dimensions of one half in the other: about 1 if the dimensions are not correlated at all."""
    own_variance_correlation: float


def measure_profile(sample: Sample) -> SpaceProfile | None:
    """Return the profile of a sample; None if it has no adjacent rows."""
    later_N = _find_pairs(sample)
    if not len(later_N):
        return None
    difference_ND = sample.vectors_RD[later_N] - sample.vectors_RD[later_N - 1]
    moment_DD = np.asarray(difference_ND.T @ difference_ND / len(later_N), np.float32)
    usable = np.flatnonzero(sample.usable_R)
    sum_D = sum(rows_BD.sum(axis=0, dtype=np.float64) for rows_BD in usable_blocks(sample))
    mean_D = np.asarray(sum_D / len(usable), np.float32)
    centered_RD = sample.vectors_RD[usable[:MAX_DIFFERENCES]] - mean_D
    covariance_DD = np.asarray(centered_RD.T @ centered_RD / np.float32(len(centered_RD)), np.float32)
    strength = float(mean_D @ mean_D) * sample.units / max(float(np.trace(covariance_DD)), 1e-12)
    return SpaceProfile(
        sample.units, len(later_N), np.diagonal(moment_DD), _normalize(moment_DD), mean_D, covariance_DD, strength
    )


def measure_reference(train: Sample) -> SpaceReference | None:
    """Return the reference of train; None if it or a half of it has no adjacent rows, or too few dimensions vary."""
    whole = measure_profile(train)
    first, second = _divide(train, np.random.default_rng(1).permutation(train.units)[::2])
    shares = None if first is None or second is None else compare_dimensions(first, second)
    if whole is None or first is None or second is None or shares is None:
        return None
    # Shrink the covariance a little, so that directions in which train hardly varies are not infinitely unlikely.
    identity_DD = np.eye(len(first.mean_D), dtype=np.float32)
    shrinkage = _SHRINKAGE * float(np.trace(first.covariance_DD)) / len(identity_DD)
    precision_DD = np.asarray(np.linalg.inv(first.covariance_DD + max(shrinkage, 1e-12) * identity_DD), np.float32)
    row_distance = sum(_distances(second, first.mean_D, precision_DD))
    correlation = variance_correlation(first, second)
    return SpaceReference(train, whole, first.mean_D, precision_DD, row_distance, shares[0], correlation)


def compare_spaces(sample: Sample, train: SpaceReference) -> Statistics | None:
    """Return the figures described above and counts of differences and documents.

    None if the split has no adjacent rows, or too few dimensions vary.
    """
    split = measure_profile(sample)
    shares = None if split is None else compare_dimensions(split, train.profile)
    if split is None or shares is None:
        return None
    shift, spread = _distances(split, train.mean_D, train.precision_DD)
    return {
        "foreign_dimensions": round(shares[0], 4),
        "expected_foreign": round(shares[1], 4),
        "chance_foreign": round(_measure_chance(sample, train.sample), 4) if shares[0] > MAX_FOREIGN else None,
        "variance_correlation": round(variance_correlation(split, train.profile), 4),
        "displacement": round(shift / max(train.row_distance, 1e-12), 3),
        "common_share": round(shift / max(shift + spread, 1e-12), 3),
        "mean_strength": round(split.mean_strength, 3),
        "train_mean_strength": round(train.profile.mean_strength, 3),
        "units": split.units,
        "train_units": train.profile.units,
        "train_foreign": round(train.own_foreign, 4),
        "train_variance_correlation": round(train.own_variance_correlation, 4),
        "differences": split.differences,
        "train_differences": train.profile.differences,
        "dimensions": len(split.variance_D),
    }


def compare_dimensions(first: SpaceProfile, second: SpaceProfile) -> tuple[float, float] | None:
    """Return the share of foreign dimensions, 0 to 1, and the share that is expected in one space.

    None if too few dimensions vary, or all vectors of a set are equal.
    """
    varies_D, other_varies_D = (_varies(each.variance_D) for each in (first, second))
    both_D = varies_D & other_varies_D
    either = int((varies_D | other_varies_D).sum())
    if either < MIN_DIMENSIONS or not (varies_D.any() and other_varies_D.any()):
        return None
    # Similarity of every profile of one set with every profile of the other; dimension i should resemble dimension i.
    similarity_DD = (first.profile_DD @ second.profile_DD.T)[np.ix_(both_D, both_D)]
    same_D = np.diagonal(similarity_DD).copy()
    count = len(same_D)
    # Count how many other dimensions resemble it less, seen from both sets.
    lower_D = (similarity_DD < same_D[:, None]).sum(axis=1) + (similarity_DD < same_D).sum(axis=0)
    fails = int((lower_D < count - 1).sum())
    foreign = min(1.0, (2 * fails + either - count) / either)
    np.fill_diagonal(similarity_DD, 0)
    deviation = float(np.sqrt(np.square(similarity_DD).sum() / max(count * (count - 1), 1)))
    return foreign, _expect_foreign(same_D, deviation) if count else 1.0


def _expect_foreign(same_D: Singles, deviation: float) -> float:
    """Return the share of foreign dimensions that chance gives, if unrelated dimensions have this `deviation`."""
    # The highest quarter of the similarities shows where those of corresponding dimensions lie, because foreign
    # dimensions are not among them. Their deviation is that of chance, or less if all profiles are alike.
    upper, highest = np.quantile(same_D, (0.75, 0.9))
    scatter = min(deviation, float(highest - upper) / float(ndtri(0.9) - ndtri(0.75)))
    center = max(float(highest) - float(ndtri(0.9)) * scatter, 0.0)
    return float(2 * ndtr(-center / max(scatter, 1e-12)))


def variance_correlation(first: SpaceProfile, second: SpaceProfile) -> float:
    """Return Spearman's rank correlation of the variances of the dimensions; 0 if one set has equal variances."""
    first_D, second_D = (_average_ranks(each.variance_D) for each in (first, second))
    first_D, second_D = first_D - first_D.mean(), second_D - second_D.mean()
    return float(first_D @ second_D / max(float(np.sqrt((first_D @ first_D) * (second_D @ second_D))), 1e-12))


def _average_ranks(values_D: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the ranks (D,) of the values, from 1; equal values share the mean of their ranks."""
    _, inverse_D, count_V = np.unique(values_D, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(count_V) - (count_V - 1) / 2)[inverse_D]
    return ranks


def _measure_chance(split: Sample, train: Sample) -> float:
    """Return the chance share: the highest share of foreign dimensions between parts of one set; 1 if undivided."""
    own = _compare_parts(split, split.units // 2)
    return max(own, _compare_parts(train, min(split.units, train.units // 2)))


def _compare_parts(sample: Sample, units: int) -> float:
    """Return the highest share of foreign dimensions between random units of documents and all others of a sample."""
    random = np.random.default_rng(1)
    whole, later_N = measure_profile(sample), _find_pairs(sample)
    if whole is None or not units:
        return 1.0
    difference_ND, unit_N = sample.vectors_RD[later_N] - sample.vectors_RD[later_N - 1], sample.unit_R[later_N]
    whole_DD = difference_ND.T @ difference_ND
    shares = []
    for _ in range(DRAWS):
        part_ND = difference_ND[np.isin(unit_N, random.permutation(sample.units)[:units])]
        if not 0 < len(part_ND) < len(unit_N):
            return 1.0
        # The sum of squares and products of the other units is the difference of the sums.
        part_DD = part_ND.T @ part_ND
        counts = ((part_DD, len(part_ND)), (whole_DD - part_DD, len(unit_N) - len(part_ND)))
        moments = (np.asarray(moment_DD / count, np.float32) for moment_DD, count in counts)
        first, second = (replace(whole, variance_D=np.diagonal(each), profile_DD=_normalize(each)) for each in moments)
        compared = compare_dimensions(first, second)
        shares.append(1.0 if compared is None else compared[0])
    return max(shares)


def _divide(sample: Sample, units_U: NDArray[np.intp]) -> tuple[SpaceProfile | None, SpaceProfile | None]:
    """Return the profiles of some units of documents and of the others."""
    is_first_R = np.isin(sample.unit_R, units_U)
    first, second = (replace(sample, usable_R=sample.usable_R & part_R) for part_R in (is_first_R, ~is_first_R))
    return measure_profile(first), measure_profile(second)


def _find_pairs(sample: Sample) -> NDArray[np.intp]:
    """Return the later row (N,) of each pair of adjacent usable rows of a document, at most MAX_DIFFERENCES."""
    later_N = 1 + np.flatnonzero(sample.document_R[1:] == sample.document_R[:-1])
    # Documents of a sample are in random order, so the first pairs are a fair sample.
    return later_N[sample.usable_R[later_N] & sample.usable_R[later_N - 1]][:MAX_DIFFERENCES]


def _distances(rows: SpaceProfile, center_D: Singles, precision_DD: Singles) -> tuple[float, float]:
    """Return squared Mahalanobis distances: of the rows' mean from a center, and of the rows from their mean."""
    shift_D = rows.mean_D - center_D
    return float(shift_D @ precision_DD @ shift_D), float(np.vdot(precision_DD, rows.covariance_DD))


def _varies(variance_D: Singles) -> NDArray[np.bool_]:
    """Return which dimensions (D,) are not constant."""
    varies_D: NDArray[np.bool_] = variance_D > max(_MIN_RELATIVE_VARIANCE * float(np.median(variance_D)), 1e-12)
    return varies_D


def _normalize(moment_DD: Singles) -> Singles:
    """Return the profiles of a covariance: rows of its correlations, without the diagonal, scaled to unit length."""
    variance_D = np.diagonal(moment_DD)
    factor_D = np.where(_varies(variance_D), 1 / np.sqrt(np.maximum(variance_D, 1e-12)), 0)
    profile_DD: Singles = (moment_DD * np.outer(factor_D, factor_D)).astype(np.float32)
    np.fill_diagonal(profile_DD, 0)
    profile_DD /= np.maximum(np.linalg.norm(profile_DD, axis=1, keepdims=True), 1e-12)
    return profile_DD
