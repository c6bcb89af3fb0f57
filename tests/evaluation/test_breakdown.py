"""Breakdown of a gain by document, source and coherence: planted gains appear where they were planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nextvec.data.windows import WindowSet
from nextvec.evaluation.breakdown import MAX_SOURCES, context_coherence, measure_breakdown, win_rate
from nextvec.evaluation.results import Estimate


def evaluated(world, least=None, context=3) -> WindowSet:
    return WindowSet("val", world.vectors, world.documents, world.windows("val", context, least))


def with_sources(world, sources):
    world.documents = replace(world.documents, sources=list(sources))
    return world


def test_win_rate_is_a_fraction_of_groups_not_of_windows():
    """One long document lost by little, three short ones won, one drawn: 3.5 of 5, though most windows lose."""
    groups = np.array([7] * 100 + [1, 2, 3, 4, 4])
    gain = np.array([-0.1] * 100 + [0.2, 0.3, 0.01, 0.25, -0.25])
    result = win_rate(gain, groups, 2000, 0)
    assert result.value == pytest.approx(3.5 / 5)
    assert 0 <= result.low < 0.5 < 0.9 < result.high <= 1
    order = np.random.default_rng(0).permutation(len(gain))
    assert win_rate(gain[order], groups[order], 2000, 0) == result


def test_win_rate_covers_the_truth():
    """In about 95 of 100 worlds the interval holds the share that the world was made with."""
    rng = np.random.default_rng(0)
    covered = 0
    for world in range(300):
        gain = np.where(rng.random(50) < 0.7, 0.1, -0.1)
        result = win_rate(gain, np.arange(50), 300, world)
        covered += result.low <= 0.7 <= result.high
    assert covered / 300 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("groups", "wilson"), [(2, 0.342), (5, 0.566), (100, 0.963)])
def test_winning_every_group_leaves_an_interval(groups, wilson):
    """Against n / (n + 3.8415), Wilson's lower bound at n of n."""
    won = win_rate(np.full(groups, 0.1), np.arange(groups), 200, 0)
    assert (won.value, won.high) == (1.0, 1.0) and won.low == pytest.approx(wilson, abs=1e-3)
    lost = win_rate(np.full(groups, -0.1), np.arange(groups), 200, 0)
    assert (lost.value, lost.low) == (0.0, 0.0) and lost.high == pytest.approx(1 - wilson, abs=1e-3)


def test_equal_scores_win_exactly_half_and_one_group_proves_nothing(world):
    scores = np.random.default_rng(0).random(len(evaluated(world))).astype(np.float32)
    result = measure_breakdown(scores, scores, evaluated(world), 200, 0)
    assert result.win_rate == Estimate(0.5, 0.5, 0.5)
    assert all(subset.gain == Estimate(0, 0, 0) for subset in (*result.by_source, *result.by_coherence))
    assert win_rate(np.array([0.1, 0.2]), np.array([3, 3]), 200, 0) == Estimate(1.0, 0.0, 1.0)


def test_a_gain_in_one_source_appears_there(worlds):
    world = with_sources(worlds([9] * 31, ["val"] * 30 + ["ood"]), ["news"] * 12 + ["books"] * 18 + ["elsewhere"])
    windows = evaluated(world)
    news = windows.windows.targets.numpy() < 12 * 9
    rng = np.random.default_rng(0)
    baseline = rng.normal(0.4, 0.05, len(windows)).astype(np.float32)
    model = baseline + np.where(news, 0.1, -0.02).astype(np.float32)
    result = measure_breakdown(model, baseline, windows, 500, 0)
    books, news_row = result.by_source  # a source without windows here has no part
    assert (books.name, books.windows, books.groups) == ("books", 18 * 6, 18)
    assert (news_row.name, news_row.windows, news_row.groups) == ("news", 12 * 6, 12)
    assert news_row.gain.value == pytest.approx(0.1, abs=1e-6) and books.gain.high < 0
    assert news_row.cosine.value == pytest.approx(float(model[news].mean()), abs=1e-6)
    assert news_row.cosine.low < news_row.cosine.value < news_row.cosine.high
    assert result.win_rate.value == pytest.approx(12 / 30)


def test_sources_are_sorted_by_windows_and_small_ones_share_a_row(worlds):
    names = [f"source-{number:02}" for number in range(MAX_SOURCES + 3)]
    rows = [5 + number for number in range(len(names))]
    world = with_sources(worlds([*rows, 50], ["val"] * len(names) + ["ood"]), [*names, "elsewhere"])
    scores = np.zeros(len(evaluated(world)), np.float32)
    result = measure_breakdown(scores, scores, evaluated(world), 100, 0)
    assert [subset.name for subset in result.by_source] == [*names[:2:-1], "other sources"]
    assert result.by_source[-1].windows == 2 + 3 + 4 and result.by_source[-1].groups == 3
    assert sum(subset.windows for subset in result.by_source) == len(scores)
    exactly = with_sources(worlds([9] * MAX_SOURCES, ["val"] * MAX_SOURCES), names[:MAX_SOURCES])
    scores = np.zeros(len(evaluated(exactly)), np.float32)
    result = measure_breakdown(scores, scores, evaluated(exactly), 100, 0)
    assert [subset.name for subset in result.by_source] == names[:MAX_SOURCES], (
        "equal sources in the order of their names"
    )


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("context", [1, 2, 4])
def test_coherence_equals_its_definition(world, least, context):
    windows = evaluated(world, least, context)
    result = context_coherence(windows)
    for position in range(len(windows)):
        row = int(windows.windows.targets[position])
        steps = context if windows.windows.available is None else int(windows.windows.available[position])
        vectors = world.vectors[row - steps : row].double()
        pairs = [float(vectors[place] @ vectors[place + 1]) for place in range(steps - 1)]
        if pairs:
            assert result[position] == pytest.approx(np.mean(pairs), abs=1e-5)
        else:
            assert np.isnan(result[position])


def test_a_gain_on_coherent_contexts_appears_there(world):
    windows = evaluated(world)
    coherence = context_coherence(windows)
    edges = np.quantile(coherence, [0, 0.25, 0.5, 0.75, 1])
    gain = np.where(coherence > edges[3], 0.2, 0.0).astype(np.float32)
    result = measure_breakdown(0.3 + gain, np.full_like(gain, 0.3), windows, 200, 0).by_coherence
    assert [subset.name for subset in result] == [f"coherence {edges[i]:.2f}–{edges[i + 1]:.2f}" for i in range(4)]
    assert [round(subset.gain.value, 6) for subset in result] == [0, 0, 0, 0.2]
    assert all(subset.windows == pytest.approx(len(windows) / 4, abs=1) for subset in result)
    assert sum(subset.windows for subset in result) == len(windows)


def test_contexts_of_one_vector_are_in_no_quartile(world):
    short = evaluated(world, 1)
    known = int((~np.isnan(context_coherence(short))).sum())
    scores = np.zeros(len(short), np.float32)
    result = measure_breakdown(scores, scores, short, 100, 0)
    assert 0 < known < len(short) == sum(subset.windows for subset in result.by_source)
    assert sum(subset.windows for subset in result.by_coherence) == known
    alone = evaluated(world, None, 1)
    assert measure_breakdown(scores[: len(alone)], scores[: len(alone)], alone, 100, 0).by_coherence == ()


def test_equal_coherence_is_one_quartile_and_close_quartiles_have_unique_names(worlds):
    world = worlds([6] * 10, ["val"] * 10)
    world.vectors = torch.eye(16)[:1].repeat(60, 1)
    scores = np.zeros(len(evaluated(world)), np.float32)
    (subset,) = measure_breakdown(scores, scores, evaluated(world), 100, 0).by_coherence
    assert subset.windows == len(scores) and subset.name == "coherence 1.0000–1.0000"
    angle = torch.linspace(0.01, 0.1, 60).cumsum(0)
    world.vectors = torch.stack([angle.cos(), angle.sin()], dim=1)
    result = measure_breakdown(scores, scores, evaluated(world), 100, 0).by_coherence
    assert len({subset.name for subset in result}) == len(result) == 4


def test_a_split_of_one_window_does_not_crash(worlds):
    windows = evaluated(worlds([4], ["val"]))
    result = measure_breakdown(np.array([0.5], np.float32), np.array([0.4], np.float32), windows, 100, 0)
    assert result.win_rate == Estimate(1.0, 0.0, 1.0)
    (source,), (quartile,) = result.by_source, result.by_coherence
    assert (source.windows, quartile.windows, source.groups) == (1, 1, 1)
    assert (source.gain.low, source.gain.high) == (-2.0, 2.0)
