"""The order of an epoch is a permutation, computed slice by slice, that statistics can't tell from a random one."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.order import LOOK_AHEAD, SMALL_COUNT, EpochOrder

SEEDS = st.integers(0, 2**63 - 1)
HUGE = 10**10 + 7


def orders(count, epochs, seed=3):
    """(E, W) the orders of the first epochs."""
    return np.stack([EpochOrder(count, seed, epoch)[:].numpy() for epoch in range(epochs)])


def excess(counts):
    """Return by how many standard deviations a chi-square statistic of equally likely cells exceeds its mean."""
    freedom = counts.size - 1
    return float((((counts - counts.mean()) ** 2).sum() / counts.mean() - freedom) / math.sqrt(2 * freedom))


FEW = [*range(20), *range(20, 300, 13)]
MANY = [SMALL_COUNT - 1, SMALL_COUNT, SMALL_COUNT + 1, 4095, 4096, 4097, 65_537, 99_991, 300_000]


@pytest.mark.parametrize("counts", [FEW, MANY])
def test_every_window_occurs_once_for_any_number_of_windows(counts):
    for count in counts:
        order = EpochOrder(count, seed=count, epoch=count % 7)[:]
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(count)), count


@settings(max_examples=25)
@given(st.integers(1, 5000), SEEDS, st.integers(0, 1000), st.data())
def test_a_slice_needs_nothing_but_count_seed_and_epoch(count, seed, epoch, data):
    torch.manual_seed(seed % 1000)
    order = EpochOrder(count, seed, epoch)[:]
    np.random.seed(1)
    torch.manual_seed(1)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    assert torch.equal(EpochOrder(count, seed, epoch)[start:stop], order[start:stop])
    positions = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), max_size=5)), dtype=torch.int64)
    assert torch.equal(EpochOrder(count, seed, epoch).at(positions), order[positions])


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("size", [1000, 7, LOOK_AHEAD, LOOK_AHEAD + 1, LOOK_AHEAD - 1])
def test_batches_continue_at_any_batch(size, first):
    order = EpochOrder(LOOK_AHEAD + 2500, 5, 1)
    batches = list(order.batches(size, first)) if size > 7 else list(itertools.islice(order.batches(size, first), 20))
    expected = order[first * size :].split(size)[: len(batches)]
    assert len(batches) == min(len(expected), len(batches))
    assert all(torch.equal(batch, part) for batch, part in zip(batches, expected, strict=True))
    if size > 7 and first * size < len(order):
        assert sum(map(len, batches)) == len(order) - first * size


def test_the_order_of_ten_billion_windows_is_a_bijection_where_it_is_looked_at():
    """No collision, range kept, and the last positions, which are in the table's short row, are windows as well."""
    order = EpochOrder(HUGE, 11, 2)
    ends = torch.cat([order[:50_000], order[HUGE - 50_000 :]])
    assert len(ends.unique()) == 100_000 and int(ends.min()) >= 0 and int(ends.max()) < HUGE
    assert excess(np.bincount(ends.numpy() * 200 // HUGE, minlength=200)) < 5
    # With the top of the int64 domain that multiplication can reach.
    beyond = EpochOrder(2**40 + 1, 11, 2)
    assert len(beyond[2**40 - 1000 :].unique()) == 1001


def test_orders_of_a_version_never_change():
    """A change of these numbers needs a new ORDER_VERSION: saved runs would resume in another order."""
    assert EpochOrder(10, 0, 0)[:].tolist() == [8, 1, 7, 9, 3, 4, 6, 5, 0, 2]
    assert EpochOrder(HUGE, 2**63 - 1, 9)[HUGE - 4 :].tolist() == [6561041914, 6998964499, 7214744535, 1265695573]


def test_epochs_and_seeds_have_different_orders():
    starts = [
        tuple(EpochOrder(5000, seed, epoch)[:50].tolist())
        for seed in (0, 1, 2, 2**32, 2**63 - 1)
        for epoch in (0, 1, 2, 1000)
    ]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    ("counts", "repeats"),
    [((2, 4), 10), pytest.param((3, 5, 6), 20, marks=pytest.mark.long)],
)
def test_every_order_of_few_windows_is_equally_likely(counts, repeats):
    for count in counts:
        numbers = {order: number for number, order in enumerate(itertools.permutations(range(count)))}
        drawn = orders(count, repeats * len(numbers))
        frequencies = np.bincount([numbers[tuple(order)] for order in drawn.tolist()], minlength=len(numbers))
        assert excess(frequencies) < 5 and frequencies.min() > 0, count


FULL = [pytest.param(*case, marks=pytest.mark.long) for case in ((7, 20_000), (30, 20_000), (100, 10_000))]


@pytest.mark.parametrize(("count", "epochs"), [(12, 200), (50, 150), *FULL])
def test_places_and_neighbors_are_as_likely_as_in_a_random_order(count, epochs):
    drawn = orders(count, epochs)
    # Each window at each place; each pair of windows in adjacent batches' places, near and far.
    at_place = np.stack([np.bincount(place, minlength=count) for place in drawn.T])
    assert abs(excess(at_place)) < 6
    is_pair = ~np.eye(count, dtype=bool)
    for distance in (1, 2, count // 2):
        pairs = (drawn[:, :-distance] * count + drawn[:, distance:]).ravel()
        assert abs(excess(np.bincount(pairs, minlength=count**2).reshape(count, count)[is_pair])) < 6, distance
    # Where adjacent windows, which are of one document, are in the order; which windows follow in the next epoch.
    place_of = np.argsort(drawn, axis=1)
    apart = (np.diff(place_of, axis=1) % count).ravel()
    assert abs(excess(np.bincount(apart, minlength=count)[1:])) < 6
    moved = ((drawn[1:] - drawn[:-1]) % count).ravel()
    assert abs(excess(np.bincount(moved, minlength=count))) < 6


@pytest.mark.parametrize("rows", [50, 548])
def test_batches_mix_documents_like_a_random_order(rows):
    """Pairs of windows of one document in a batch: their mean, and spread, are those of numpy's permutation.

    300,000 windows are a table of 548 columns, so that documents of 548 windows are its rows.
    """
    count, size = 300_000, 512

    def pairs_of_one_document(order):
        documents = np.sort(order[: count // size * size].reshape(-1, size) // rows, axis=1)
        numbers = np.arange(len(documents))[:, None] * count + documents
        sizes = np.unique(numbers, return_counts=True)[1]
        batch = np.unique(numbers) // count
        return np.bincount(batch, weights=sizes * (sizes - 1) / 2, minlength=len(documents))

    ours = np.concatenate([pairs_of_one_document(order) for order in orders(count, 1)])
    random = np.random.default_rng(0)
    theirs = np.concatenate([pairs_of_one_document(random.permutation(count)) for _ in range(1)])
    error = math.sqrt((ours.var() + theirs.var()) / len(ours))
    assert abs(ours.mean() - theirs.mean()) < 4.5 * error
    assert 0.8 < ours.var() / theirs.var() < 1.25


def test_neighbors_in_a_large_order_are_unrelated():
    """Differences of adjacent windows, and of the same places in two epochs, are uniform in a coarse grid."""
    for count in (SMALL_COUNT, 6400, HUGE):
        first, second = (EpochOrder(count, 1, epoch)[:100_000].numpy() for epoch in (0, 1))
        first, second = (
            (np.concatenate([EpochOrder(count, seed, epoch)[:].numpy() for seed in range(20)]) for epoch in (0, 1))
            if count < HUGE
            else (first, second)
        )
        for difference in (np.diff(first), first - second):
            shares = np.bincount((difference % count) * 64 // count, minlength=64)
            # A window is never its own neighbor, which a small count shows in the cell of difference 0.
            assert abs(excess(shares[1:-1])) < 6, count
