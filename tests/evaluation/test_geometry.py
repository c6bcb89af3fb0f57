"""Geometry equals brute force over all pairs and known closed forms, and is finite for collapsed predictions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet
from nextvec.evaluation import geometry
from nextvec.evaluation.geometry import effective_rank, measure_geometry, measure_target_geometry, uniformity
from nextvec.evaluation.metrics import predict_block, score_windows
from nextvec.models.base import LatentModel
from nextvec.models.baselines import ContextMean


class Longer(LatentModel):
    """The newest vector, with the length of 2 plus its first coordinate."""

    name = "longer"

    def _raw(self, context_BSD, mask_BS):
        return F.normalize(context_BSD[:, -1]) * (2 + context_BSD[:, -1, :1])


class Fixed:
    """Predicts fixed vectors, in the order of the windows."""

    def __init__(self, vectors):
        self.vectors, self.count = vectors, 0

    def predict(self, context_BSD, mask_BS=None):
        self.count += len(context_BSD)
        return self.vectors[self.count - len(context_BSD) : self.count]


def evaluated_in(world, split="val", context=3, least=None) -> WindowSet:
    return WindowSet(split, world.vectors, world.documents, world.windows(split, context, least))


def random_directions(count, dimensions, seed=0):
    return F.normalize(torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)))


def pairs(vectors):
    """(cosines, squared distances) of all pairs, one by one."""
    vectors = vectors.double().numpy()
    both = [(a, b) for position, a in enumerate(vectors) for b in vectors[:position]]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in both]
    return np.array(cosines), np.array([((a - b) ** 2).sum() for a, b in both])


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("least", [None, 1])
def test_geometry_equals_brute_force(world, monkeypatch, block, least):
    monkeypatch.setattr(geometry, "BLOCK", block)
    evaluated, model = evaluated_in(world, least=least), Longer(16).eval()
    batch, prediction_BD = predict_block(model, evaluated.vectors, evaluated.windows, slice(0, len(evaluated)))
    result = measure_geometry(model, evaluated)
    lengths = 2 + batch.context_BSD[:, -1, 0].double().numpy()
    assert result.norm == pytest.approx(lengths.mean(), abs=1e-6)
    assert result.norm_cv == pytest.approx(lengths.std() / lengths.mean(), abs=1e-6)
    cosines, distances = pairs(prediction_BD)
    assert result.dispersion == pytest.approx(1 - cosines.mean(), abs=1e-6)
    assert result.uniformity == pytest.approx(math.log(np.exp(-2 * distances).mean()), abs=1e-6)
    centred = prediction_BD.double().numpy() - prediction_BD.double().numpy().mean(axis=0)
    shares = np.linalg.svd(centred, compute_uv=False) ** 2
    shares /= shares.sum()
    assert result.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert result.alignment == pytest.approx(16 * score_windows(model, evaluated.vectors, evaluated.windows).mean_mse)


def test_the_target_geometry_is_that_of_an_oracle(world, predictors):
    evaluated = evaluated_in(world)
    result, expected = measure_target_geometry(evaluated), measure_geometry(predictors["oracle"], evaluated)
    assert (result.norm, result.norm_cv, result.alignment) == (1.0, 0.0, 0.0)
    for name in ("dispersion", "effective_rank", "uniformity"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-6)


@pytest.mark.parametrize("rows", [4, 90])
def test_a_constant_is_a_single_point(worlds, predictors, rows):
    """One window (a document of four) and many."""
    evaluated = evaluated_in(worlds([rows], ["val"]))
    result = measure_geometry(predictors["constant"], evaluated)
    assert (result.norm, result.norm_cv, result.dispersion, result.effective_rank) == (1.0, 0.0, 0.0, 1.0)
    assert result.uniformity == pytest.approx(0, abs=1e-6)
    assert result.alignment > 0
    if rows == 4:
        assert (
            measure_target_geometry(evaluated).dispersion == 0
            and measure_target_geometry(evaluated).effective_rank == 1
        )


def test_rounding_error_has_no_direction(worlds):
    """A constant with noise in its last digits has the rank of a constant; ten thousand times the noise has not."""
    evaluated = evaluated_in(worlds([103], ["val"]))
    constant, noise = F.normalize(torch.ones(16), dim=0), random_directions(100, 16)
    assert measure_geometry(Fixed(F.normalize(constant + 3e-8 * noise)), evaluated).effective_rank == 1
    result = measure_geometry(Fixed(F.normalize(constant + 3e-4 * noise)), evaluated)
    assert result.effective_rank > 12 and 0 < result.dispersion < 1e-6


def test_random_directions_have_full_dispersion_and_rank(worlds):
    """In many dimensions D: dispersion near 1, effective rank near D, and uniformity near −4 + 8/D."""
    evaluated = evaluated_in(worlds([3003], ["val"], dimensions=64))
    result = measure_geometry(Fixed(random_directions(3000, 64)), evaluated)
    assert result.dispersion == pytest.approx(1, abs=0.01)
    assert 62 < result.effective_rank <= 64
    assert result.uniformity == pytest.approx(-4 + 8 / 64, abs=0.02)
    assert result.alignment == pytest.approx(2, abs=0.05)


def test_two_opposite_points_have_effective_rank_one(worlds):
    evaluated = evaluated_in(worlds([103], ["val"]))
    signs = torch.ones(100, 1)
    signs[::2] = -1
    result = measure_geometry(Fixed(signs * F.normalize(torch.ones(16), dim=0)), evaluated)
    assert result.dispersion == pytest.approx(1 + 1 / 99) and result.effective_rank == pytest.approx(1)
    assert result.uniformity == pytest.approx(math.log((49 + 50 * math.exp(-8)) / 99), abs=1e-5)


def test_effective_rank_equals_values_computed_by_hand():
    """Equal variances count fully; shares of ¾ and ¼ have entropy 2 ln 2 − ¾ ln 3."""
    assert effective_rank(torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]).double())) == pytest.approx(3)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]).double())) == pytest.approx(4 / 3**0.75)
    assert effective_rank(torch.zeros(5, 5).double()) == 1


def test_uniformity_samples_a_large_cloud(worlds, monkeypatch):
    """At most MAX_PAIRED vectors, spread over all windows, the same ones for every predictor."""
    evaluated, cloud = evaluated_in(worlds([1503], ["val"], dimensions=8)), random_directions(1500, 8)
    every = measure_geometry(Fixed(cloud), evaluated).uniformity
    assert every == pytest.approx(uniformity(cloud))
    monkeypatch.setattr(geometry, "MAX_PAIRED", 500)
    sampled = measure_geometry(Fixed(cloud), evaluated).uniformity
    assert sampled != every and sampled == pytest.approx(every, abs=0.05)
    assert measure_geometry(Fixed(cloud), evaluated).uniformity == sampled
    halves = measure_geometry(Fixed(torch.cat([cloud[:1].expand(750, -1), cloud[750:]])), evaluated).uniformity
    assert halves > sampled + 0.5, "a sample of the first windows, or the last, would not see both halves"


def test_uniformity_of_one_is_zero():
    assert uniformity(random_directions(1, 4)) == 0


def test_a_model_of_zeros_has_no_dispersion(world):
    class Zeros(ContextMean):
        def _raw(self, context_BSD, mask_BS):
            return 0 * context_BSD[:, 0]

    result = measure_geometry(Zeros(16).eval(), evaluated_in(world))
    assert (result.norm, result.norm_cv, result.dispersion, result.effective_rank) == (0.0, 0.0, 0.0, 1.0)
    assert math.isfinite(result.uniformity) and result.alignment == pytest.approx(1)
