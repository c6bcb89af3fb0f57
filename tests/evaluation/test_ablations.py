"""Falls equal their definitions window by window; planted predictors lose exactly what they rely on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.windows import WindowSet
from nextvec.evaluation import ablations as ablation
from nextvec.evaluation.ablations import ABLATIONS, draw_foreign_windows, measure_ablations, predict_context
from nextvec.evaluation.metrics import predict_block, score_windows
from nextvec.models.base import LatentModel


class Weighted(LatentModel):
    """Each place of the context has its own weight: what no reordering, masking or exchange leaves as it was."""

    name = "weighted"

    def _raw(self, context_BSD, mask_BS):
        return (context_BSD * torch.arange(1, context_BSD.shape[1] + 1)[:, None]).sum(dim=1)


class Witness(Weighted):
    """Remembers every context and mask that it was asked about."""

    def __init__(self, dimensions):
        super().__init__(dimensions)
        self.seen = []

    def predict(self, context_BSD, mask_BS=None):
        self.seen.append((context_BSD, mask_BS))
        return super().predict(context_BSD, mask_BS)


def evaluated_in(world, split="val", context=3, least=None) -> WindowSet:
    return WindowSet(split, world.vectors, world.documents, world.windows(split, context, least))


def present(context_SD, mask_S) -> list[tuple[float, ...]]:
    """The vectors that are there, oldest first."""
    kept_SD = context_SD if mask_S is None else context_SD[mask_S]
    return [tuple(vector) for vector in kept_SD.tolist()]


@pytest.mark.parametrize("least", [None, 1])
def test_every_context_is_spoilt_as_its_name_says(world, least):
    evaluated, witness = evaluated_in(world, context=4, least=least), Witness(16).eval()
    measure_ablations(witness, evaluated, 10, 0)
    intact, *spoilt = witness.seen
    assert len(spoilt) == len(ABLATIONS)
    moved = 0
    for window in range(len(evaluated)):
        own = present(intact[0][window], None if intact[1] is None else intact[1][window])
        shuffled, turned, last, younger, foreign = (
            present(context_BSD[window], None if mask_BS is None else mask_BS[window])
            for context_BSD, mask_BS in spoilt
        )
        assert sorted(shuffled) == sorted(own) and turned == own[::-1] and last == own[-1:] and younger == own[1:]
        assert not {*foreign} & {*own} and len(foreign) in range(1, 5)
        moved += shuffled != own
    assert moved > 0.7 * len(evaluated)
    for context_BSD, mask_BS in spoilt:
        if mask_BS is not None:
            assert (context_BSD[~mask_BS] == 0).all(), "absent is zero, for who reads no mask"
            assert (mask_BS.diff(dim=1).int() >= 0).all(), "absent are the oldest"


@pytest.mark.parametrize("least", [None, 1])
def test_falls_are_differences_of_scores(world, least):
    evaluated, witness = evaluated_in(world, least=least), Witness(16).eval()
    found = measure_ablations(witness, evaluated, 100, 0)
    assert tuple(found) == ABLATIONS
    intact = score_windows(Weighted(16).eval(), evaluated.vectors, evaluated.windows).cosine.astype(float)
    target_BD = F.normalize(evaluated.batch().target_BD)
    for name, (context_BSD, mask_BS) in zip(ABLATIONS, witness.seen[1:], strict=True):
        spoilt = F.cosine_similarity(Weighted(16).predict(context_BSD, mask_BS), target_BD).numpy()
        counted = np.ones(len(evaluated), bool)
        if name == "oldest removed" and least:
            counted = evaluated.windows.available.numpy() > 1
            assert 0 < counted.sum() < len(evaluated)
        assert found[name].value == pytest.approx((intact - spoilt)[counted].mean(), abs=1e-6)
        assert found[name].low < found[name].value < found[name].high


@pytest.mark.parametrize("least", [None, 1])
def test_oracles_lose_what_they_rely_on(world, predictors, least):
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
    for found in (mean, last, oracle):
        assert found["other document"].low > 0.1
    assert all((fall.value, fall.low, fall.high) == (0.0, 0.0, 0.0) for fall in constant.values())


def test_who_looks_back_is_better_off_reversed(world):
    class CopyOldest:
        def predict(self, context_BSD, mask_BS=None):
            return F.normalize(context_BSD[:, 0])

    found = measure_ablations(CopyOldest(), evaluated_in(world), 200, 0)
    assert found["reversed"].high < 0 and found["shuffled"].high < 0


def test_a_context_of_one_has_no_oldest_and_no_order(world):
    found = measure_ablations(Weighted(16).eval(), evaluated_in(world, context=1), 50, 0)
    assert list(found) == ["shuffled", "reversed", "last only", "other document"]
    assert all(found[name].value == 0 for name in ("shuffled", "reversed", "last only"))
    assert found["other document"].low > 0


def test_a_single_group_has_no_other(worlds):
    world = worlds([9, 9], ["val"] * 2, groups=[3, 3])
    found = measure_ablations(Weighted(16).eval(), evaluated_in(world), 50, 0)
    assert list(found) == list(ABLATIONS[:-1])
    assert (found["reversed"].low, found["reversed"].high) == (-2.0, 2.0)


def test_no_windows_no_falls(world):
    empty = evaluated_in(world)
    empty = WindowSet("val", world.vectors, world.documents, empty.windows.take(torch.arange(0)))
    assert measure_ablations(Weighted(16).eval(), empty, 50, 0) == {}


def test_blocks_and_repetition_change_nothing_and_the_seed_does(world, monkeypatch):
    evaluated, model = evaluated_in(world, least=1), Weighted(16).eval()
    first = measure_ablations(model, evaluated, 50, 7)
    assert measure_ablations(model, evaluated, 50, 7) == first
    other = measure_ablations(model, evaluated, 50, 8)
    assert other["shuffled"].value != first["shuffled"].value and other["reversed"].value == first["reversed"].value
    monkeypatch.setattr(ablation, "BLOCK", 10)
    for name, fall in measure_ablations(model, evaluated, 50, 7).items():
        assert fall.value == pytest.approx(first[name].value, abs=1e-6)


def test_contexts_are_predicted_as_windows_are(world):
    evaluated, model = evaluated_in(world, least=1), Weighted(16).eval()
    batch, expected_BD = predict_block(model, evaluated.vectors, evaluated.windows, slice(0, len(evaluated)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_BD = predict_context(model, batch.context_BSD, batch.mask_BS)
    assert torch.equal(found_BD, expected_BD) and found_BD.dtype == torch.float32


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 2**32))
def test_others_are_always_of_another_group(groups, seed):
    groups_W = np.array(groups, np.int32)
    found = draw_foreign_windows(groups_W, np.random.default_rng(seed))
    if len(set(groups)) == 1:
        assert found is None
    else:
        assert found.shape == groups_W.shape and (groups_W[found] != groups_W).all()


def test_others_are_drawn_evenly():
    groups_W = np.array([4, 1, 4, 4, 4, 2, 1])  # the largest group holds more than half
    drawn = np.stack([draw_foreign_windows(groups_W, np.random.default_rng(seed)) for seed in range(3000)])
    for window, group in enumerate(groups_W):
        shares = np.bincount(drawn[:, window], minlength=7) / 3000
        expected = (groups_W != group) / (groups_W != group).sum()
        np.testing.assert_allclose(shares, expected, atol=0.04)
