"""Ablations: each perturbation and each drop equals its definition, and known predictors lose what they rely on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.windows import WindowSet
from nextvec.evaluation import ablations
from nextvec.evaluation.ablations import ABLATIONS, draw_foreign_windows, measure_ablations, predict_context
from nextvec.evaluation.metrics import predict_block, score_windows
from nextvec.models.base import LatentModel


class Weighted(LatentModel):
    """Weights each place of the context differently, so that every perturbation changes its prediction."""

    name = "weighted"

    def _raw(self, context_BSD, mask_BS):
        return (context_BSD * torch.arange(1, context_BSD.shape[1] + 1)[:, None]).sum(dim=1)


class Recorder(Weighted):
    """Records every context and mask that it gets."""

    def __init__(self, dimensions):
        super().__init__(dimensions)
        self.calls = []

    def predict(self, context_BSD, mask_BS=None):
        self.calls.append((context_BSD, mask_BS))
        return super().predict(context_BSD, mask_BS)


def evaluated_in(world, split="val", context=3, least=None) -> WindowSet:
    return WindowSet(split, world.vectors, world.documents, world.windows(split, context, least))


def present(context_SD, mask_S) -> list[tuple[float, ...]]:
    """Return the unmasked vectors, oldest first."""
    kept_SD = context_SD if mask_S is None else context_SD[mask_S]
    return [tuple(vector) for vector in kept_SD.tolist()]


@pytest.mark.parametrize("least", [None, 1])
def test_each_ablation_perturbs_the_context_as_documented(world, least):
    evaluated, recorder = evaluated_in(world, context=4, least=least), Recorder(16).eval()
    measure_ablations(recorder, evaluated, 10, 0)
    intact, *perturbed = recorder.calls
    assert len(perturbed) == len(ABLATIONS)
    moved = 0
    for window in range(len(evaluated)):
        expected = present(intact[0][window], None if intact[1] is None else intact[1][window])
        shuffled, turned, last, younger, foreign = (
            present(context_BSD[window], None if mask_BS is None else mask_BS[window])
            for context_BSD, mask_BS in perturbed
        )
        assert (
            sorted(shuffled) == sorted(expected)
            and turned == expected[::-1]
            and last == expected[-1:]
            and younger == expected[1:]
        )
        assert not {*foreign} & {*expected} and len(foreign) in range(1, 5)
        moved += shuffled != expected
    assert moved > 0.7 * len(evaluated)
    for context_BSD, mask_BS in perturbed:
        if mask_BS is not None:
            assert (context_BSD[~mask_BS] == 0).all(), "masked vectors are zero, for predictors that ignore the mask"
            assert (mask_BS.diff(dim=1).int() >= 0).all(), "masked places are the oldest"


@pytest.mark.parametrize("least", [None, 1])
def test_drops_are_differences_of_scores(world, least):
    evaluated, recorder = evaluated_in(world, least=least), Recorder(16).eval()
    result = measure_ablations(recorder, evaluated, 100, 0)
    assert tuple(result) == ABLATIONS
    intact = score_windows(Weighted(16).eval(), evaluated.vectors, evaluated.windows).cosine.astype(float)
    target_BD = F.normalize(evaluated.batch().target_BD)
    for name, (context_BSD, mask_BS) in zip(ABLATIONS, recorder.calls[1:], strict=True):
        perturbed = F.cosine_similarity(Weighted(16).predict(context_BSD, mask_BS), target_BD).numpy()
        counted = np.ones(len(evaluated), bool)
        if name == "oldest removed" and least:
            counted = evaluated.windows.available.numpy() > 1
            assert 0 < counted.sum() < len(evaluated)
        assert result[name].value == pytest.approx((intact - perturbed)[counted].mean(), abs=1e-6)
        assert result[name].low < result[name].value < result[name].high


@pytest.mark.parametrize("least", [None, 1])
def test_known_predictors_lose_what_they_rely_on(world, predictors, least):
    evaluated = evaluated_in(world, least=least)
    mean, last, constant, oracle = (
        measure_ablations(predictors[name], evaluated, 200, 0)
        for name in ("context-mean", "copy-last", "constant", "oracle")
    )
    for name in ("shuffled", "reversed"):
        assert mean[name].value == pytest.approx(0, abs=1e-7) and mean[name].high < 1e-6, "a sum has no order"
        assert last[name].low > 0 and oracle[name].low > 0
    for name in ("last only", "oldest removed"):
        assert (last[name].value, last[name].low, last[name].high) == (0.0, 0.0, 0.0)
        assert oracle[name].value == 0
    for result in (mean, last, oracle):
        assert result["other document"].low > 0.1
    assert all((drop.value, drop.low, drop.high) == (0.0, 0.0, 0.0) for drop in constant.values())


def test_a_backward_predictor_gains_from_a_reversed_context(world):
    class CopyOldest:
        def predict(self, context_BSD, mask_BS=None):
            return F.normalize(context_BSD[:, 0])

    result = measure_ablations(CopyOldest(), evaluated_in(world), 200, 0)
    assert result["reversed"].high < 0 and result["shuffled"].high < 0


def test_a_context_of_one_vector_has_no_order_and_no_oldest(world):
    result = measure_ablations(Weighted(16).eval(), evaluated_in(world, context=1), 50, 0)
    assert list(result) == ["shuffled", "reversed", "last only", "other document"]
    assert all(result[name].value == 0 for name in ("shuffled", "reversed", "last only"))
    assert result["other document"].low > 0


def test_a_single_group_has_no_other_document(worlds):
    world = worlds([9, 9], ["val"] * 2, groups=[3, 3])
    result = measure_ablations(Weighted(16).eval(), evaluated_in(world), 50, 0)
    assert list(result) == list(ABLATIONS[:-1])
    assert (result["reversed"].low, result["reversed"].high) == (-2.0, 2.0)


def test_no_windows_give_no_drops(world):
    empty = evaluated_in(world)
    empty = WindowSet("val", world.vectors, world.documents, empty.windows.take(torch.arange(0)))
    assert measure_ablations(Weighted(16).eval(), empty, 50, 0) == {}


def test_drops_depend_on_the_seed_and_not_on_the_block_size(world, monkeypatch):
    evaluated, model = evaluated_in(world, least=1), Weighted(16).eval()
    first = measure_ablations(model, evaluated, 50, 7)
    assert measure_ablations(model, evaluated, 50, 7) == first
    another = measure_ablations(model, evaluated, 50, 8)
    assert another["shuffled"].value != first["shuffled"].value and another["reversed"].value == first["reversed"].value
    monkeypatch.setattr(ablations, "BLOCK", 10)
    for name, drop in measure_ablations(model, evaluated, 50, 7).items():
        assert drop.value == pytest.approx(first[name].value, abs=1e-6)


def test_predict_context_equals_predict_block(world):
    evaluated, model = evaluated_in(world, least=1), Weighted(16).eval()
    batch, expected_BD = predict_block(model, evaluated.vectors, evaluated.windows, slice(0, len(evaluated)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_BD = predict_context(model, batch.context_BSD, batch.mask_BS)
    assert torch.equal(found_BD, expected_BD) and found_BD.dtype == torch.float32


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 2**32))
def test_foreign_windows_are_always_of_another_group(groups, seed):
    groups_W = np.array(groups, np.int32)
    result = draw_foreign_windows(groups_W, np.random.default_rng(seed))
    if len(set(groups)) == 1:
        assert result is None
    else:
        assert result.shape == groups_W.shape and (groups_W[result] != groups_W).all()


def test_foreign_windows_are_drawn_uniformly():
    groups_W = np.array([4, 1, 4, 4, 4, 2, 1])  # the largest group holds more than half
    drawn = np.stack([draw_foreign_windows(groups_W, np.random.default_rng(seed)) for seed in range(3000)])
    for window, group in enumerate(groups_W):
        shares = np.bincount(drawn[:, window], minlength=7) / 3000
        expected = (groups_W != group) / (groups_W != group).sum()
        np.testing.assert_allclose(shares, expected, atol=0.04)
