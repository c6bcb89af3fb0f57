"""Scores equal their closed forms and a loop over single windows, and do not depend on the block size."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nextvec.evaluation import metrics
from nextvec.evaluation.metrics import WindowScores, predict_block, score_windows


def test_cosine_ignores_length():
    left = torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    right = torch.tensor([[0.0, 2.0], [1.0, 0.0], [-5.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(metrics.cosine(left, right), torch.tensor([0.0, math.sqrt(0.5), -1.0, 0.0]))


def test_cosines_never_exceed_one():
    vectors = torch.randn(5000, 33, generator=torch.Generator().manual_seed(0))
    assert metrics.cosine(vectors, vectors).max() <= 1 and metrics.cosine(vectors, -vectors).min() >= -1


def test_mse_of_unit_vectors_is_a_function_of_their_cosine():
    generator = torch.Generator().manual_seed(0)
    left, right = (F.normalize(torch.randn(50, 768, generator=generator)) for _ in range(2))
    expected = (2 - 2 * metrics.cosine(left, right)) / 768
    torch.testing.assert_close(metrics.mse(left, right), expected, rtol=1e-4, atol=1e-8)


def test_margin_of_a_copy_is_its_cosine_minus_one():
    last, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    torch.testing.assert_close(metrics.margin(last, target, last), torch.tensor([-0.4]))
    torch.testing.assert_close(metrics.margin(target, target, last), torch.tensor([0.4]))


@pytest.mark.parametrize("least", [None, 1])
def test_scores_equal_a_loop_over_single_windows(world, predictors, least):
    windows = world.windows("val", 3, least)
    scores = score_windows(predictors["context-mean"], world.vectors, windows)
    for position in range(len(windows)):
        row = int(windows.targets[position])
        steps = 3 if windows.available is None else int(windows.available[position])
        context, target = world.vectors[row - steps : row].double(), world.vectors[row].double()
        prediction = F.normalize(context.sum(dim=0), dim=0)
        assert scores.cosine[position] == pytest.approx(float(prediction @ target), abs=1e-5)
        assert scores.mse[position] == pytest.approx(float(((prediction - target) ** 2).mean()), abs=1e-6)
        expected = float(prediction @ target - prediction @ context[-1])
        assert scores.margin[position] == pytest.approx(expected, abs=1e-5)
    assert least is None or int(windows.available.min()) == 1


def test_scores_do_not_depend_on_the_block_size(world, predictors):
    windows = world.windows("val")
    whole = score_windows(predictors["context-mean"], world.vectors, windows)
    for block in (1, 7, len(windows)):
        parts = score_windows(predictors["context-mean"], world.vectors, windows, block=block)
        np.testing.assert_allclose(parts.cosine, whole.cosine, atol=1e-6)
    again = score_windows(predictors["context-mean"], world.vectors, windows)
    assert whole.cosine.tobytes() == again.cosine.tobytes()


def test_a_perfect_prediction_of_float16_vectors_scores_one(worlds):
    """The rounding of float16 leaves lengths off by 0.0005; that must not show in a score."""
    world = worlds([9] * 12, ["val"] * 12, dimensions=64, dtype=np.float16)

    class Target:
        def predict(self, context_BSD, mask_BS=None):
            assert context_BSD.dtype == torch.float32
            return F.normalize(world.vectors[world.windows("val").targets].float())

    scores = score_windows(Target(), world.vectors, world.windows("val"))
    assert scores.cosine.min() > 1 - 1e-6 and scores.cosine.dtype == np.float32
    assert scores.mse.max() < 1e-12


def test_a_surrounding_autocast_changes_nothing(world):
    torch.manual_seed(0)

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def predict(self, context_BSD, mask_BS=None):
            return F.normalize(self.layer(context_BSD[:, -1]))

    model, windows = Linear().eval(), world.windows("val")
    plain = score_windows(model, world.vectors, windows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = score_windows(model, world.vectors, windows)
    assert plain.cosine.tobytes() == inside.cosine.tobytes()
    with torch.no_grad():
        prediction_BD = model.predict(world.vectors[windows.targets - 1][:, None])
    expected = metrics.cosine(prediction_BD, world.vectors[windows.targets])
    np.testing.assert_allclose(plain.cosine, expected, atol=1e-6)
    with pytest.raises(AssertionError, match="eval"):
        score_windows(model.train(), world.vectors, windows)


def test_the_predictor_gets_the_mask_and_zeros_at_masked_places(world):
    calls = []

    class Recorder:
        def predict(self, context_BSD, mask_BS=None):
            calls.append((context_BSD, mask_BS))
            return F.normalize(context_BSD[:, -1])

    score_windows(Recorder(), world.vectors, world.windows("val"))
    assert calls.pop()[1] is None, "every window has a full context"
    windows = world.windows("val", 3, 1)
    score_windows(Recorder(), world.vectors, windows)
    context_BSD, mask_BS = calls.pop()
    assert mask_BS.sum(dim=1).tolist() == windows.available.tolist() and mask_BS[:, -1].all()
    assert (context_BSD[~mask_BS] == 0).all() and (context_BSD[mask_BS].norm(dim=1) > 0.9).all()


def test_predictions_carry_no_gradient(world):
    weight = torch.ones(16, requires_grad=True)

    class Scaled:
        def predict(self, context_BSD, mask_BS=None):
            return F.normalize(context_BSD[:, -1] * weight)

    _, prediction_BD = predict_block(Scaled(), world.vectors, world.windows("val"), slice(0, 4))
    assert prediction_BD.shape == (4, 16) and not prediction_BD.requires_grad


def test_nan_predictions_are_not_finite(world):
    class Broken:
        def predict(self, context_BSD, mask_BS=None):
            prediction = F.normalize(context_BSD[:, -1])
            prediction[0] = torch.nan
            return prediction

    windows = world.windows("val")
    assert not score_windows(Broken(), world.vectors, windows).is_finite


def test_means_are_summed_in_float64():
    """In float32 the sum of so many 0.1 drifts by more than a last digit."""
    scores = WindowScores(*np.full((3, 2**24 + 1), 0.1, np.float32))
    assert scores.mean_cosine == pytest.approx(float(np.float32(0.1)), abs=1e-12)
    assert scores.is_finite and len(scores) == 2**24 + 1


def test_without_windows_means_are_nan(worlds, predictors):
    world = worlds([2, 2], ["val", "val"])
    scores = score_windows(predictors["copy-last"], world.vectors, world.windows("val"))
    assert len(scores) == 0 and scores.is_finite
    assert all(math.isnan(mean) for mean in (scores.mean_cosine, scores.mean_mse, scores.mean_margin))
