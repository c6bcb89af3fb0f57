"""Ranks equal a brute-force reference in exact arithmetic, for all repeats, ties, splits and contexts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.evaluation import retrieval
from nextvec.evaluation.retrieval import (
    Candidates,
    candidates_of,
    documents_of,
    in_document_ranks,
    mid_ranks,
    summarize_ranks,
    target_ranks,
)
from nextvec.evaluation.retrieval_faiss import approximate_ranks
from nextvec.models.baselines import CopyLast, DecayedMean


def candidates(vectors: torch.Tensor) -> Candidates:
    """Return the vectors as candidates, in the order of their rows."""
    repeats, originals = retrieval.find_repeats(vectors.numpy())
    rows = torch.arange(len(vectors), dtype=torch.int32)
    return Candidates(rows, vectors, torch.zeros_like(rows), torch.from_numpy(repeats), torch.from_numpy(originals))


NONE_EXCLUDED = torch.empty((2, 0), dtype=torch.int64)


def reference(query, vectors, target, excluded):
    """Return the rank of one query, by the definition."""
    target_score = float(query @ vectors[target])
    rivals = [row for row in range(len(vectors)) if row != target and row not in excluded]
    higher = sum(float(query @ vectors[row]) > target_score for row in rivals)
    equal = sum(float(query @ vectors[row]) == target_score for row in rivals)
    return 1 + higher + equal / 2


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_ranks_equal_brute_force(data):
    """Products of small integers are exact, so that ties do not depend on the order of summation."""
    count, dimensions = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 4))
    queries, excluded = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = torch.from_numpy(rng.integers(-2, 3, (count, dimensions)).astype(np.float32))
    query = torch.from_numpy(rng.integers(-2, 3, (queries, dimensions)).astype(np.float32))
    target, excluded_rows = rng.integers(count, size=queries), rng.integers(count, size=(queries, excluded))
    pairs = [(number, row) for number in range(queries) for row in excluded_rows[number]]
    excluded_2X = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    result = mid_ranks(query, candidates(vectors), torch.from_numpy(target), excluded_2X)
    expected = [reference(query[i], vectors, target[i], set(excluded_rows[i].tolist())) for i in range(queries)]
    assert result.tolist() == expected


def test_repeats_tie_exactly():
    """If the true chunk is repeated 40 times, its rank is the middle of the 41, whatever the rounding."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(5000, 33, generator=generator))
    places = torch.randperm(5000, generator=generator)[:41]
    vectors[places] = vectors[places[0]].clone()
    query = torch.nn.functional.normalize(vectors[places[0]] + 0.01 * torch.randn(7, 33, generator=generator))
    result = mid_ranks(query, candidates(vectors), places[:7], NONE_EXCLUDED)
    assert result.tolist() == [21.0] * 7


def test_rounding_cannot_decide_between_repeats():
    """Products of equal vectors can differ in the last digit; here one is made to differ."""
    vectors = torch.eye(4).repeat(2, 1)
    among = candidates(vectors.clone())
    for nudge in (0.999999, 1.000001):
        among.vectors_CD[5] = vectors[5] * nudge
        for target in (1, 5):
            result = mid_ranks(torch.eye(4)[1:2], among, torch.tensor([target]), NONE_EXCLUDED)
            assert result.tolist() == [1.5]


def test_a_constant_prediction_of_constant_candidates_gets_the_middle_rank():
    vectors = torch.ones(101, 4)
    result = mid_ranks(torch.ones(1, 4), candidates(vectors), torch.tensor([17]), NONE_EXCLUDED)
    assert result.tolist() == [51.0]


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("memory", [1, 500, 2**26])
def test_ranks_of_windows_equal_brute_force(world, predictors, monkeypatch, least, memory):
    """Candidates are the split's rows, short documents included, but the chunks before the target, in any blocks."""
    monkeypatch.setattr(retrieval, "MAX_SCORES", memory)
    windows = world.windows("val", 3, least)
    result = target_ranks(
        predictors["context-mean"], world.vectors, windows, candidates_of(world.vectors, world.documents, "val")
    )
    chosen = np.flatnonzero(np.repeat(world.documents.splits == 1, world.documents.rows))
    document = np.repeat(np.arange(len(world.documents)), world.documents.rows)
    for position in range(len(windows)):
        row = int(windows.targets[position])
        steps = 3 if windows.available is None else int(windows.available[position])
        query = world.vectors[row - steps : row].sum(dim=0)
        rivals = [other for other in chosen if other > row or document[other] != document[row]]
        expected = 1 + sum(float(query @ world.vectors[other]) > float(query @ world.vectors[row]) for other in rivals)
        assert result[position] == expected
    assert len(result) == len(windows) and len(rivals) < len(chosen)


def test_an_oracle_ranks_first_and_a_copy_cannot_find_its_input(world, predictors):
    windows = world.windows("val")
    among = candidates_of(world.vectors, world.documents, "val")
    assert (target_ranks(predictors["oracle"], world.vectors, windows, among) == 1).all()
    copied = target_ranks(predictors["copy-last"], world.vectors, windows, among)
    assert (copied == 1).any(), "the copied chunk itself is no candidate, so the next one can be first"


@pytest.mark.parametrize("method", ["exact", "faiss", "in-document"])
def test_ranks_do_not_depend_on_the_context_length(worlds, method):
    """A predictor of the newest vectors has the same MRR, whether it has read 5, 32 or 64 of them."""
    if method == "faiss":
        pytest.importorskip("faiss")
    world = worlds([70 + number for number in range(20)], ["val"] * 20)
    among = candidates_of(world.vectors, world.documents, "val")
    steep = DecayedMean(16).eval()
    steep.decay.fill_(0.01)
    for predictor in (CopyLast(16).eval(), steep):
        mrr = []
        for context in (5, 32, 64):
            windows = world.windows("val", context, 64)
            if method == "in-document":
                ranks = in_document_ranks(predictor, world.vectors, windows, world.documents)
            else:
                rank = target_ranks if method == "exact" else approximate_ranks
                ranks = rank(predictor, world.vectors, windows, among)
            assert len(ranks) == 310 and ranks.max() > 1
            mrr.append(float((1 / ranks).mean()))
        assert mrr == pytest.approx([mrr[0]] * 3, abs=1e-4), "0.01^5 is lost in rounding"


def test_candidates_are_the_rows_of_the_split(world):
    among = candidates_of(world.vectors.half(), world.documents, "ood")
    expected = np.flatnonzero(np.repeat(world.documents.splits == 2, world.documents.rows))
    assert among.rows.tolist() == expected.tolist() and len(among) == len(expected)
    assert among.positions(among.rows).tolist() == list(range(len(among)))
    torch.testing.assert_close(among.vectors_CD.norm(dim=1), torch.ones(len(among)))
    assert among.vectors_CD.dtype == torch.float32


def test_summary_equals_values_computed_by_hand():
    result = summarize_ranks(torch.tensor([1.0, 2.0, 5.0, 6.5, 10.0, 100.0]).double())
    assert (result.r_at_1, result.r_at_5, result.r_at_10) == pytest.approx((1 / 6, 3 / 6, 5 / 6))
    assert (
        result.r_at_50 == pytest.approx(5 / 6) and summarize_ranks(torch.tensor([50.0, 50.5]).double()).r_at_50 == 0.5
    )
    expected = [sum(rank <= k for rank in (1, 2, 5, 6.5, 10, 100)) / 6 for k in range(1, 101)]
    assert result.recall_curve == pytest.approx(expected)
    assert result.mrr == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6.5 + 1 / 10 + 1 / 100) / 6)
    assert result.median_rank == 5.75


def test_repeats_compare_all_numbers_of_a_row():
    """A closer look is taken only at rows that begin alike; what it finds must be the same."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 2, (300, 9)).astype(np.float32)
    rows = [row.tobytes() for row in vectors]
    expected = [(place, rows.index(row)) for place, row in enumerate(rows) if rows.index(row) != place]
    result = np.stack(retrieval.find_repeats(vectors), axis=1)
    assert 20 < len(expected) < 280 and sorted(map(tuple, result.tolist())) == expected
    assert retrieval.find_repeats(vectors[:0])[0].shape == (0,)


def in_document_reference(world, windows, predictor):
    """Return ranks among the chunks of each window's document, by the definition, in float64."""
    ranks = []
    for position in range(len(windows)):
        row = int(windows.targets[position])
        document = int(np.flatnonzero(world.documents.first_row <= row)[-1])
        first, count = int(world.documents.first_row[document]), int(world.documents.rows[document])
        steps = windows.context if windows.available is None else int(windows.available[position])
        context = torch.zeros((1, windows.context, world.vectors.shape[1]))
        context[0, -steps:] = world.vectors[row - steps : row]
        query = predictor.predict(context)[0].double()
        vectors = world.vectors[first : first + count].double()
        ranks.append(reference(query, vectors, row - first, set(range(row - first))))
    return ranks


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("name", ["context-mean", "constant", "copy-last"])
@pytest.mark.parametrize(
    ("together", "rows", "memory"), [(1, 1, 1), (7, 10**6, 2**26), (32, 40, 50), (10**6, 10**6, 9)]
)
def test_in_document_ranks_equal_brute_force(world, predictors, monkeypatch, least, name, together, rows, memory):
    """For any bundles, any order of windows, and blocks that cut through documents."""
    for limit, value in (("BUNDLE_WINDOWS", together), ("BUNDLE_ROWS", rows), ("MAX_SCORES", memory), ("BLOCK", 37)):
        monkeypatch.setattr(retrieval, limit, value)
    windows = world.windows("val", 3, least)
    windows = windows.take(torch.randperm(len(windows), generator=torch.Generator().manual_seed(1)))
    result = in_document_ranks(predictors[name], world.vectors, windows, world.documents)
    assert result.tolist() == in_document_reference(world, windows, predictors[name])
    assert result.max() > 1


def test_only_repeats_within_the_document_tie(worlds, predictors):
    world = worlds([8, 8, 8], ["val"] * 3)
    world.vectors[4] = world.vectors[6] = world.vectors[7]
    world.vectors[12] = world.vectors[7]
    windows = world.windows("val")
    result = in_document_ranks(
        predictors["constant"].__class__(world.vectors[7]), world.vectors, windows, world.documents
    )
    ranks = dict(zip(windows.targets.tolist(), result.tolist(), strict=True))
    assert ranks[4] == 2.0, "three copies, all of them candidates"
    assert ranks[6] == 1.5 and ranks[7] == 1.0, "copies in earlier text are excluded"
    assert ranks[12] == 1.0, "copies in another document do not count"


def test_the_last_chunk_is_the_only_candidate_and_has_rank_one(worlds, predictors):
    world = worlds([4, 4, 9], ["val"] * 3)
    result = in_document_ranks(predictors["constant"], world.vectors, world.windows("val"), world.documents)
    assert result[[0, 1, 7]].tolist() == [1.0, 1.0, 1.0]


def test_in_document_an_oracle_ranks_first_and_a_constant_in_the_middle(world, predictors):
    windows = world.windows("ood")
    assert (in_document_ranks(predictors["oracle"], world.vectors, windows, world.documents) == 1).all()
    constant = in_document_ranks(predictors["constant"], world.vectors, windows, world.documents)
    last_row_W = (world.documents.first_row + world.documents.rows)[documents_of(windows, world.documents)] - 1
    candidates_W = last_row_W - windows.targets.numpy() + 1
    assert constant.mean() == pytest.approx((candidates_W.mean() + 1) / 2, rel=0.15)
