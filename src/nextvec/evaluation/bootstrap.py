"""Confidence intervals from resampling documents (the cluster bootstrap).

Windows of one document are similar, so they are not independent samples; documents are. Each resample draws as many
documents as there are, with replacement, and averages over all their windows. Several quantities share each resample,
so that the interval of a difference is that of paired windows. A resample costs one draw of documents and one product
with the sums of the documents, whatever the number of windows.
Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13; Davison & Hinkley 1997, section
3.8.

Letters in names: P quantities, W windows, G groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nextvec.evaluation.results import Estimate

_STREAM = 2**63 + 1  # separates these random draws from those of windows.py under the same seed

MAX_BLOCKS, MIN_BLOCK_WINDOWS = 20, 50
"""For data without documents: the number of blocks, and the shortest block, about twice a usual document."""


def bootstrap_means(
    values: NDArray[np.floating], groups: NDArray[np.integer], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return (P, R) means of P quantities over W windows in R resamples of the groups.

    `values` is (P, W) with W ≥ 1. `groups` is (W,), any integers that identify each window's group of documents. Equal
    rows give equal means, and a row of zeros gives exact zeros. A pure function of its arguments.
    """
    assert values.ndim == 2 and values.shape[1] == len(groups) > 0, (values.shape, groups.shape)
    # A group enters a resample only by its number of windows and its sum of each quantity.
    _, group_W = np.unique(groups, return_inverse=True)
    counts_G = np.bincount(group_W).astype(np.float64)
    sums_PG = np.stack([np.bincount(group_W, weights=row) for row in values])
    count = len(counts_G)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64)))
    means_RP = np.empty((resamples, len(values)))
    for resample in range(resamples):
        # The mean over all windows of the drawn groups, from the groups' sums and sizes.
        times_drawn_G = np.bincount(rng.integers(count, size=count), minlength=count)
        means_RP[resample] = (sums_PG * times_drawn_G).sum(axis=1) / (counts_G * times_drawn_G).sum()
    return means_RP.T


def estimate_means(
    values_PW: NDArray[np.floating],
    groups_W: NDArray[np.integer],
    resamples: int,
    seed: int,
    *,
    bounds: Sequence[tuple[float, float]],
) -> list[Estimate]:
    """Return the mean of each of P quantities over W windows, with the interval of `bootstrap_means`.

    `bounds` are the lowest and highest possible value of each quantity.
    """
    means_PR = bootstrap_means(values_PW, groups_W, resamples, seed)
    groups = len(np.unique(groups_W))
    return [
        Estimate(float(row.mean(dtype=np.float64)), *interval(means, groups, bounds=limits))
        for row, means, limits in zip(values_PW, means_PR, bounds, strict=True)
    ]


def estimate_gains(
    values: Mapping[str, NDArray[np.floating]],
    groups_W: NDArray[np.integer],
    resamples: int,
    seed: int,
    model: str | None,
    *,
    bounds: tuple[float, float],
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return each predictor's mean of values within `bounds`, and the model's gain over each baseline.

    All intervals come from the same resamples of documents, so that a gain is a paired difference.
    """
    # One row for each predictor, then one for each gain, in one bootstrap.
    gains = {} if model is None else {name: values[model] - values[name] for name in values if name != model}
    rows_PW = np.stack([*values.values(), *gains.values()])
    span = bounds[1] - bounds[0]
    limits = [bounds] * len(values) + [(-span, span)] * len(gains)
    estimates = iter(estimate_means(rows_PW, groups_W, resamples, seed, bounds=limits))
    # The first dict takes the estimates of the predictors, and the second those of the gains that remain.
    return dict(zip(values, estimates, strict=False)), dict(zip(gains, estimates, strict=True))


def assign_blocks(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return (W,) the block that each window is resampled with if the documents are unknown.

    `groups` (W,) are runs of windows that share vectors: part of a document, a whole one, or many that were never
    divided. The windows, in the order of their runs, are cut into at most MAX_BLOCKS blocks of equal size. A run that
    is at most as long as a block is not cut. Blocks are independent only if they are much longer than the correlation
    of windows. Cut every 25 windows, as long as a usual document, intervals covered the truth in 75 of 100
    simulations; these cover it in 90. `interval` is widened for few blocks.

    Source: Carlstein 1986, Künsch 1989, and Davison & Hinkley 1997, section 8.2.3, for resampling blocks; Schmeiser
    1982, "Batch Size Effects in the Analysis of Simulation Output", for 10 to 30 long blocks rather than many short
    ones.
    """
    _, first_G, group_W, windows_G = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    # Count the windows of all runs that begin earlier, then place every window on one line.
    order_G = np.argsort(first_G)
    before_G = np.empty_like(windows_G)
    before_G[order_G] = np.cumsum(windows_G[order_G]) - windows_G[order_G]
    place_W = np.empty(len(groups))
    place_W[np.argsort(before_G[group_W], kind="stable")] = np.arange(len(groups))
    # A run that fits into a block moves as a whole to the place of its middle.
    size = len(groups) / np.clip(len(groups) // MIN_BLOCK_WINDOWS, 2, MAX_BLOCKS)
    fits_W = windows_G[group_W] <= size
    place_W[fits_W] = (before_G + windows_G / 2)[group_W[fits_W]]
    block_W: NDArray[np.int64] = (place_W // size).astype(np.int64)
    return block_W


def interval(
    samples: ArrayLike, groups: int, *, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Return the percentile interval of `samples` (R,), widened for few groups and clipped to `bounds`.

    The plain percentile interval is too narrow for a small number n of groups. Its distance from the mean is therefore
    multiplied by t(n−1) / z · √(n / (n−1)), with t and z the quantiles of Student's and the normal distribution. The
    factor is 1.03 at n = 60 and 9 at n = 2. A single group proves nothing, so the interval is `bounds`.
    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.2, here applied to the distance
    and not to the level.
    """
    assert groups >= 1 and 0 < level < 1, (groups, level)
    if groups == 1:
        return bounds
    # Imported here: scipy takes 0.2 s, and training needs no interval before the first evaluation.
    from scipy.special import stdtrit

    # Stretch both quantiles away from the mean by the factor for few groups.
    samples = np.asarray(samples, dtype=np.float64)
    tail = (1 - level) / 2
    stretch = stdtrit(groups - 1, 1 - tail) / NormalDist().inv_cdf(1 - tail) * np.sqrt(groups / (groups - 1))
    center = samples.mean()
    low, high = center + stretch * (np.quantile(samples, [tail, 1 - tail]) - center)
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))
