"""Ranks by faiss agree with the exact ones up to their limit, and nothing gains by the cut."""

import sys

import numpy as np
import pytest
import torch

from nextvec.errors import MissingExtraError
from nextvec.evaluation.retrieval import candidates_of, target_ranks
from nextvec.evaluation.retrieval_faiss import approximate_ranks, flat_index


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss")


@pytest.fixture
def large(worlds):
    """2,000 val chunks, and repeats of texts within and across documents."""
    world = worlds([20] * 100, ["val"] * 100, dimensions=24)
    places = np.random.default_rng(0).choice(2000, 60, replace=False)
    world.vectors[places] = world.vectors[places[0]].clone()
    return world


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("neighbors", [1, 5, 100, 1500, 5000])
def test_ranks_equal_the_exact_ranks_up_to_the_limit(faiss, large, predictors, neighbors, least):
    windows, among = large.windows("val", 3, least), candidates_of(large.vectors, large.documents, "val")
    exact = target_ranks(predictors["context-mean"], large.vectors, windows, among)
    result = approximate_ranks(predictors["context-mean"], large.vectors, windows, among, neighbors=neighbors)
    # A target whose sixty ties reach beyond the list is given up.
    repeated = torch.isin(among.positions(windows.targets), torch.cat([among.repeats, among.originals]))
    decided = (exact <= neighbors) & ~repeated
    assert (result[decided] == exact[decided]).all() and decided.any()
    assert (result[exact > neighbors] == neighbors + 1).all()
    tied = result[repeated & (exact <= neighbors)]
    assert ((tied == exact[repeated & (exact <= neighbors)]) | (tied == neighbors + 1)).all()
    if neighbors >= 1500:
        assert (result[exact <= 1400] == exact[exact <= 1400]).all(), "far from the limit ties are decided, too"


def test_a_constant_prediction_gains_nothing_by_the_limit(faiss, worlds, predictors):
    world = worlds([20] * 10, ["val"] * 10)
    world.vectors = torch.nn.functional.normalize(torch.ones(200, 16))
    windows, among = world.windows("val"), candidates_of(world.vectors, world.documents, "val")
    result = approximate_ranks(predictors["constant"], world.vectors, windows, among, neighbors=50)
    assert (result == 51).all()
    whole = approximate_ranks(predictors["constant"], world.vectors, windows, among, neighbors=200)
    assert (whole == target_ranks(predictors["constant"], world.vectors, windows, among)).all()


def test_an_approximate_index_can_be_passed(faiss, large, predictors):
    """An index that searches all cells is exact; one that searches few misses targets."""
    windows, among = large.windows("val"), candidates_of(large.vectors, large.documents, "val")
    index = faiss.index_factory(24, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(among.vectors_CD.numpy())
    index.add(among.vectors_CD.numpy())
    exact = target_ranks(predictors["context-mean"], large.vectors, windows, among)
    for probes in (16, 1):
        index.nprobe = probes
        result = approximate_ranks(
            predictors["context-mean"], large.vectors, windows, among, neighbors=2000, index=index
        )
        if probes == 16:
            assert (result == exact).all()
        else:
            assert (result == 2001).any() and (result[result <= 2000] <= exact[result <= 2000]).all()


def test_no_windows_give_no_ranks(faiss, large, predictors):
    windows, among = large.windows("ood"), candidates_of(large.vectors, large.documents, "val")
    assert approximate_ranks(predictors["copy-last"], large.vectors, windows, among).shape == (0,)
    assert flat_index(among).ntotal == len(among)


def test_without_faiss_the_error_names_the_extra(monkeypatch, world, predictors):
    monkeypatch.setitem(sys.modules, "faiss", None)
    among = candidates_of(world.vectors, world.documents, "val")
    with pytest.raises(MissingExtraError, match=r"faiss-cpu: pip install 'nextvec\[faiss\]'"):
        approximate_ranks(predictors["copy-last"], world.vectors, world.windows("val"), among)
