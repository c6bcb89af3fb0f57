"""A gain taken apart: by document, source and coherence, with planted gains that must come out where they were put."""

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


def test_win_rate_is_a_share_of_groups_not_of_windows():
    """One long document lost by little, three short ones won, one drawn: 3.5 of 5, though most windows lose."""
    groups = np.array([7] * 100 + [1, 2, 3, 4, 4])
    gain = np.array([-0.1] * 100 + [0.2, 0.3, 0.01, 0.25, -0.25])
    found = win_rate(gain, groups, 2000, 0)
    assert found.value == pytest.approx(3.5 / 5)
    assert 0 <= found.low < 0.5 < 0.9 < found.high <= 1
    order = np.random.default_rng(0).permutation(len(gain))
    assert win_rate(gain[order], groups[order], 2000, 0) == found


def test_win_rate_covers_the_truth():
    """In about 95 of 100 worlds the interval holds the share that the world was made with."""
    rng = np.random.default_rng(0)
    held = 0
    for world in range(300):
        gain = np.where(rng.random(50) < 0.7, 0.1, -0.1)
        found = win_rate(gain, np.arange(50), 300, world)
        held += found.low <= 0.7 <= found.high
    assert held / 300 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(("groups", "sure"), [(2, 0.342), (5, 0.566), (100, 0.963)])
def test_winning_everywhere_is_not_certainty(groups, sure):
    """Against n / (n + 3.8415), Wilson's lower bound at n of n."""
    won = win_rate(np.full(groups, 0.1), np.arange(groups), 200, 0)
    assert (won.value, won.high) == (1.0, 1.0) and won.low == pytest.approx(sure, abs=1e-3)
    lost = win_rate(np.full(groups, -0.1), np.arange(groups), 200, 0)
    assert (lost.value, lost.low) == (0.0, 0.0) and lost.high == pytest.approx(1 - sure, abs=1e-3)


def test_a_draw_with_oneself_is_exactly_half_and_one_group_says_nothing(world):
    scores = np.random.default_rng(0).random(len(evaluated(world))).astype(np.float32)
    found = measure_breakdown(scores, scores, evaluated(world), 200, 0)
    assert found.win_rate == Estimate(0.5, 0.5, 0.5)
    assert all(part.gain == Estimate(0, 0, 0) for part in (*found.by_source, *found.by_coherence))
    assert win_rate(np.array([0.1, 0.2]), np.array([3, 3]), 200, 0) == Estimate(1.0, 0.0, 1.0)


def test_a_gain_from_one_source_is_seen_there(worlds):
    world = with_sources(worlds([9] * 31, ["val"] * 30 + ["ood"]), ["news"] * 12 + ["books"] * 18 + ["elsewhere"])
    windows = evaluated(world)
    news = windows.windows.targets.numpy() < 12 * 9
    rng = np.random.default_rng(0)
    baseline = rng.normal(0.4, 0.05, len(windows)).astype(np.float32)
    model = baseline + np.where(news, 0.1, -0.02).astype(np.float32)
    found = measure_breakdown(model, baseline, windows, 500, 0)
    books_part, news_part = found.by_source  # a source without windows here has no part
    assert (books_part.name, books_part.windows, books_part.groups) == ("books", 18 * 6, 18)
    assert (news_part.name, news_part.windows, news_part.groups) == ("news", 12 * 6, 12)
    assert news_part.gain.value == pytest.approx(0.1, abs=1e-6) and books_part.gain.high < 0
    assert news_part.cosine.value == pytest.approx(float(model[news].mean()), abs=1e-6)
    assert news_part.cosine.low < news_part.cosine.value < news_part.cosine.high
    assert found.win_rate.value == pytest.approx(12 / 30)


def test_small_sources_share_a_part_and_order_is_by_windows(worlds):
    names = [f"source-{number:02}" for number in range(MAX_SOURCES + 3)]
    rows = [5 + number for number in range(len(names))]
    world = with_sources(worlds([*rows, 50], ["val"] * len(names) + ["ood"]), [*names, "elsewhere"])
    scores = np.zeros(len(evaluated(world)), np.float32)
    found = measure_breakdown(scores, scores, evaluated(world), 100, 0)
    assert [part.name for part in found.by_source] == [*names[:2:-1], "other sources"]
    assert found.by_source[-1].windows == 2 + 3 + 4 and found.by_source[-1].groups == 3
    assert sum(part.windows for part in found.by_source) == len(scores)
    exactly = with_sources(worlds([9] * MAX_SOURCES, ["val"] * MAX_SOURCES), names[:MAX_SOURCES])
    scores = np.zeros(len(evaluated(exactly)), np.float32)
    found = measure_breakdown(scores, scores, evaluated(exactly), 100, 0)
    assert [part.name for part in found.by_source] == names[:MAX_SOURCES], "equal sources in the order of their names"


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("context", [1, 2, 4])
def test_coherence_equals_its_definition(world, least, context):
    windows = evaluated(world, least, context)
    found = context_coherence(windows)
    for position in range(len(windows)):
        row = int(windows.windows.targets[position])
        steps = context if windows.windows.available is None else int(windows.windows.available[position])
        vectors = world.vectors[row - steps : row].double()
        pairs = [float(vectors[place] @ vectors[place + 1]) for place in range(steps - 1)]
        if pairs:
            assert found[position] == pytest.approx(np.mean(pairs), abs=1e-5)
        else:
            assert np.isnan(found[position])


def test_a_gain_on_coherent_contexts_alone_is_seen_there(world):
    windows = evaluated(world)
    coherence = context_coherence(windows)
    edges = np.quantile(coherence, [0, 0.25, 0.5, 0.75, 1])
    gain = np.where(coherence > edges[3], 0.2, 0.0).astype(np.float32)
    found = measure_breakdown(0.3 + gain, np.full_like(gain, 0.3), windows, 200, 0).by_coherence
    assert [part.name for part in found] == [f"coherence {edges[i]:.2f}–{edges[i + 1]:.2f}" for i in range(4)]
    assert [round(part.gain.value, 6) for part in found] == [0, 0, 0, 0.2]
    assert all(part.windows == pytest.approx(len(windows) / 4, abs=1) for part in found)
    assert sum(part.windows for part in found) == len(windows)


def test_contexts_of_one_vector_are_in_no_quartile(world):
    short = evaluated(world, 1)
    known = int((~np.isnan(context_coherence(short))).sum())
    scores = np.zeros(len(short), np.float32)
    found = measure_breakdown(scores, scores, short, 100, 0)
    assert 0 < known < len(short) == sum(part.windows for part in found.by_source)
    assert sum(part.windows for part in found.by_coherence) == known
    alone = evaluated(world, None, 1)
    assert measure_breakdown(scores[: len(alone)], scores[: len(alone)], alone, 100, 0).by_coherence == ()


def test_equal_coherence_is_one_part_and_close_ones_have_names_of_their_own(worlds):
    world = worlds([6] * 10, ["val"] * 10)
    world.vectors = torch.eye(16)[:1].repeat(60, 1)
    scores = np.zeros(len(evaluated(world)), np.float32)
    (part,) = measure_breakdown(scores, scores, evaluated(world), 100, 0).by_coherence
    assert part.windows == len(scores) and part.name == "coherence 1.0000–1.0000"
    angle = torch.linspace(0.01, 0.1, 60).cumsum(0)
    world.vectors = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = measure_breakdown(scores, scores, evaluated(world), 100, 0).by_coherence
    assert len({part.name for part in found}) == len(found) == 4


def test_a_split_of_one_window_does_not_crash(worlds):
    windows = evaluated(worlds([4], ["val"]))
    found = measure_breakdown(np.array([0.5], np.float32), np.array([0.4], np.float32), windows, 100, 0)
    assert found.win_rate == Estimate(1.0, 0.0, 1.0)
    (source,), (quartile,) = found.by_source, found.by_coherence
    assert (source.windows, quartile.windows, source.groups) == (1, 1, 1)
    assert (source.gain.low, source.gain.high) == (-2.0, 2.0)
