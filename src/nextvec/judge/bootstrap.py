"""Intervals by resampling documents: how much a mean over windows would move with other documents.

Windows of one document are alike, so that they are no independent draws; documents are. Each resample draws as many
documents as there are, with replacement, and takes the mean over all their windows (the cluster bootstrap; Efron &
Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13; Davison & Hinkley 1997, section 3.8). Several
quantities share each resample, so that the interval of a difference is that of paired windows.

A resample costs one draw of documents and one product with the documents' sums, whatever the number of windows.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STREAM = 2**63 + 1  # keeps these draws apart from those of windows.py under the same seed


def bootstrap_means(
    values: NDArray[np.floating], groups: NDArray[np.integer], resamples: int, seed: int
) -> NDArray[np.float64]:
    """(P, R) means of P quantities over W windows in R resamples of the groups (documents) that the windows belong to.

    `values` is (P, W), `groups` (W,) any integers that name each window's document; W is at least 1. Equal rows give
    equal means, a row of zeros exact zeros. A pure function of its arguments.
    """
    assert values.ndim == 2 and values.shape[1] == len(groups) > 0, (values.shape, groups.shape)
    _, group_of_window = np.unique(groups, return_inverse=True)
    counts_G = np.bincount(group_of_window).astype(np.float64)
    sums_PG = np.stack([np.bincount(group_of_window, weights=row) for row in values])
    count = len(counts_G)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64)))
    means_RP = np.empty((resamples, len(values)))
    for resample in range(resamples):
        times_drawn_G = np.bincount(rng.integers(count, size=count), minlength=count)
        means_RP[resample] = (sums_PG * times_drawn_G).sum(axis=1) / (counts_G * times_drawn_G).sum()
    return means_RP.T


def interval(
    samples: ArrayLike, groups: int, *, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """The percentile interval of `samples` (R,), widened for few groups and cut to `bounds`.

    The plain percentile interval is too narrow for a small number n of groups. Its distance from the samples' mean is
    therefore stretched by t(n−1) / z · √(n / (n−1)), t and z being the quantiles of Student's and the normal
    distribution: the correction of Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.2, here
    applied to the distance, not to the level, so that two documents give a wide interval. It is 1.03 at n = 60, 9 at
    n = 2; a single document says nothing, and the interval is `bounds`.
    """
    assert groups >= 1 and 0 < level < 1, (groups, level)
    if groups == 1:
        return bounds
    from scipy.special import stdtrit

    samples = np.asarray(samples, dtype=np.float64)
    tail = (1 - level) / 2
    stretch = stdtrit(groups - 1, 1 - tail) / NormalDist().inv_cdf(1 - tail) * np.sqrt(groups / (groups - 1))
    centre = samples.mean()
    low, high = centre + stretch * (np.quantile(samples, [tail, 1 - tail]) - centre)
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))
