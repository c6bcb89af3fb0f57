"""Bootstrap: it resamples documents, is paired, has the claimed coverage, and is wide for few documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.evaluation.bootstrap import MAX_BLOCKS, MIN_BLOCK_WINDOWS, assign_blocks, bootstrap_means, interval


def simulate(rng, documents, mean_rows=8, worlds=None):
    """(values, groups) of windows in documents: each document has its own level, documents are of all lengths.

    `values` is (W,), or (P, W) for P `worlds` with documents of the same lengths.
    """
    rows = 1 + rng.poisson(mean_rows - 1, size=documents)
    groups = np.repeat(np.arange(documents), rows)
    leading = () if worlds is None else (worlds,)
    level, noise = rng.normal(size=(*leading, documents)), rng.normal(size=(*leading, len(groups)))
    return level[..., groups] + noise, groups


@pytest.mark.parametrize(("documents", "tolerance"), [(60, 0.02), (200, 0.02), (5, 0.04)])
def test_intervals_have_the_claimed_coverage(documents, tolerance):
    """In 93 to 97 of 100 simulations the interval contains the true mean, which is 0; with five documents in 91 to 99.

    The standard error of the coverage in 4,000 simulations is 0.3 percent. Each 20 of them share their resamples.
    """
    rng, covered = np.random.default_rng(documents), []
    for seed in range(200):
        values, groups = simulate(rng, documents, worlds=20)
        for means in bootstrap_means(values, groups, 400, seed):
            low, high = interval(means, documents)
            covered.append(low <= 0 <= high)
    assert len(covered) == 4_000 and np.mean(covered) == pytest.approx(0.95, abs=tolerance)


def test_resampling_windows_would_give_far_too_narrow_intervals():
    """Windows of a document are correlated; resampling them as if independent narrows the interval."""
    values, groups = simulate(np.random.default_rng(0), 100, mean_rows=30)
    by_document = interval(bootstrap_means(values[None], groups, 1000, 0)[0], 100)
    by_window = interval(bootstrap_means(values[None], np.arange(len(values)), 1000, 0)[0], len(values))
    assert np.ptp(by_document) > 2.5 * np.ptp(by_window)


def test_means_equal_explicit_resampling():
    """Every resampled mean is the mean over the windows of some drawn documents: with two documents, one of three."""
    values, groups = np.array([[1.0, 2.0, 3.0, 10.0]]), np.array([7, 7, 7, -2])
    means = bootstrap_means(values, groups, 4000, 0)[0]
    result, counts = np.unique(means.round(9), return_counts=True)
    np.testing.assert_allclose(result, [2.0, 4.0, 10.0])
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**63 - 1))
def test_means_stay_within_the_values_and_keep_their_pairing(documents, windows, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(documents, size=windows)
    left, right = rng.normal(size=(2, windows)).astype(np.float32)
    means = bootstrap_means(np.stack([left, right, left, left - left, left + 1]), groups, 50, seed)
    assert means.shape == (5, 50)
    assert means[0].min() >= left.min() - 1e-9 and means[0].max() <= left.max() + 1e-9
    assert (means[2] == means[0]).all(), "equal values, equal means"
    assert (means[3] == 0).all(), "the gain over an identical predictor is exactly zero"
    np.testing.assert_allclose(means[4] - means[0], 1, atol=1e-6, err_msg="every row shares the resamples")


def test_means_depend_on_the_seed_and_not_on_the_order_of_windows():
    values, groups = simulate(np.random.default_rng(3), 30)
    means = bootstrap_means(values[None], groups, 100, 5)
    assert (means == bootstrap_means(values[None], groups, 100, 5)).all()
    assert (means != bootstrap_means(values[None], groups, 100, 6)).any()
    order = np.random.default_rng(4).permutation(len(values))
    np.testing.assert_allclose(means, bootstrap_means(values[None, order], groups[order], 100, 5), atol=1e-12)


def test_a_paired_gain_has_a_narrower_interval_than_its_scores():
    rng = np.random.default_rng(1)
    base, groups = simulate(rng, 80)
    better = base + 0.1 + rng.normal(0, 0.1, len(base))
    means = bootstrap_means(np.stack([base, better, better - base]), groups, 1000, 0)
    gain = interval(means[2], 80)
    assert gain[0] > 0 and np.ptp(gain) < 0.2 * np.ptp(interval(means[0], 80))


@pytest.mark.parametrize(("groups", "stretch"), [(2, 9.168), (3, 2.689), (20, 1.0957), (60, 1.0296), (100_000, 1.0)])
def test_few_documents_widen_the_interval(groups, stretch):
    """Against t(n−1; 0.975) / 1.95996 · √(n / (n−1)) from tables: 12.706, 4.303, 2.093, 2.001."""
    samples = np.linspace(-1, 1, 4001)
    low, high = interval(samples, groups)
    assert high == pytest.approx(0.95 * stretch, rel=2e-3) and low == pytest.approx(-high)


def test_one_document_gives_the_bounds():
    assert interval(np.full(100, 0.6), 1, bounds=(-1.0, 1.0)) == (-1.0, 1.0)


def test_intervals_are_clipped_to_bounds_and_nest_by_level():
    samples = np.random.default_rng(0).normal(size=2000)
    assert interval(samples, 2, bounds=(-1.0, 1.0)) == (-1.0, 1.0)
    narrow, wide = interval(samples, 50, level=0.5), interval(samples, 50, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_difference_of_zero_has_no_width():
    assert interval(np.zeros(100), 2, bounds=(-2.0, 2.0)) == (0.0, 0.0)


def test_runs_are_joined_or_cut_into_ordered_blocks_of_one_size():
    """A run that is no longer than a block stays whole; single windows that follow each other are probably related."""
    result = assign_blocks(np.repeat(np.arange(400), 5))
    assert (np.bincount(result) == 100).all() and len(set(result)) == MAX_BLOCKS and (np.diff(result) >= 0).all()
    result = assign_blocks(np.concatenate([np.zeros(1500, np.int64), np.repeat(np.arange(1, 9), 60), np.full(20, 9)]))
    assert (np.bincount(result)[:15] == 100).all(), "a long run is cut"
    assert all(len(set(result[start : start + 60])) == 1 for start in range(1500, 1980, 60)), "a short one is not"


def test_windows_that_share_vectors_stay_together():
    scattered = np.concatenate([np.arange(500), np.arange(500)])
    assert (assign_blocks(scattered)[:500] == assign_blocks(scattered)[500:]).all()


@pytest.mark.parametrize(
    ("windows", "count"), [(1, 1), (2, 2), (99, 2), (300, 6), (2_000, MAX_BLOCKS), (100_000, MAX_BLOCKS)]
)
def test_a_single_run_is_cut_into_few_long_blocks(windows, count):
    result = assign_blocks(np.zeros(windows, np.int64))
    sizes = np.bincount(result)
    assert (
        len(sizes) == count
        and np.ptp(sizes) <= 1
        and (windows < 2 * MIN_BLOCK_WINDOWS or sizes.min() >= MIN_BLOCK_WINDOWS)
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=400))
def test_blocks_never_cut_a_run_that_fits(groups):
    groups = np.array(groups)
    result = assign_blocks(groups)
    size = len(groups) / max(2, min(len(groups) // MIN_BLOCK_WINDOWS, MAX_BLOCKS))
    for group in np.unique(groups):
        assert (groups == group).sum() > size or len(set(result[groups == group])) == 1


def autocorrelated(rng, worlds, windows):
    """(P, W) AR(1) with 0.8: neighbours are alike over some ten windows."""
    values = rng.normal(size=(worlds, windows)) * 0.6
    values[:, 0] /= 0.6
    for step in range(1, windows):
        values[:, step] += 0.8 * values[:, step - 1]
    return values


def undivided(rng, worlds, windows):
    """(P, W) documents of 25 windows on average, each with its own level, that nobody divided."""
    values = rng.normal(size=(worlds, windows))
    for row in values:
        row += rng.normal(size=windows)[np.cumsum(rng.random(windows) < 1 / 25)]
    return values


@pytest.mark.parametrize(("process", "least", "windows_cover"), [(autocorrelated, 0.93, 0.55), (undivided, 0.87, 0.45)])
def test_blocks_of_a_single_run_have_nearly_the_claimed_coverage(process, least, windows_cover):
    """2,000 windows without documents; the second process is hard, because one document is as long as half a block."""
    rng, covered = np.random.default_rng(0), {"blocks": [], "windows": []}
    groups = {"blocks": assign_blocks(np.zeros(2_000, np.int64)), "windows": np.arange(2_000)}
    for seed in range(40):
        values = process(rng, 25, 2_000)
        for name, grouping in groups.items():
            for means in bootstrap_means(values, grouping, 300, seed):
                low, high = interval(means, len(np.unique(grouping)))
                covered[name].append(low <= 0 <= high)
    assert np.mean(covered["blocks"]) >= least > windows_cover > np.mean(covered["windows"])
