"""Loss terms against brute force and published definitions; gradient shares against the weights that ask for them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from nextvec import ops
from nextvec.losses import (
    MIN_GRADIENT_RATIO,
    Objective,
    info_nce,
    moment_matching,
    mse,
    query_nce,
    variance_floor,
)
from nextvec.losses.gradients import Directions, gradient_norms, mix_gradients, query_nce_gradient
from nextvec.models.base import unit
from nextvec.recipe import ObjectiveRecipe

TERMS = ("mse", "info", "moment", "variance")


def pair(batch: int = 12, dimensions: int = 10, *, seed: int = 0, length: float = 1.0) -> tuple[Tensor, Tensor]:
    """Raw predictions that lean towards unit-length targets, float64."""
    generator = torch.Generator().manual_seed(seed)
    target_BD = unit(torch.randn(batch, dimensions, generator=generator, dtype=torch.float64) + 0.5)
    noise_BD = torch.randn(batch, dimensions, generator=generator, dtype=torch.float64)
    return length * (target_BD + 0.3 * noise_BD), target_BD


def pure_terms(
    tau: float = 0.3, group_B: Tensor | None = None, block: int | None = None
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {
        "mse": mse,
        "info": lambda prediction_BD, target_BD: info_nce(prediction_BD, target_BD, tau, group_B, block),
        "moment": moment_matching,
        "variance": lambda prediction_BD, target_BD: variance_floor(prediction_BD),
    }


def objective(**fields: object) -> Objective:
    if "info" in fields:  # terms have short names, fields of a recipe long ones
        fields["info_nce"] = fields.pop("info")
    return Objective(ObjectiveRecipe.model_validate({"mse": 0.0, **fields}))


def backward(
    chosen: Objective, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The gradient at the raw prediction, and the metrics."""
    leaf_BD = prediction_BD.detach().float().requires_grad_()
    metrics = chosen.backward(leaf_BD, target_BD.float(), group_B)
    assert leaf_BD.grad is not None
    assert all(metric.shape == () and not metric.requires_grad for metric in metrics.values())
    return leaf_BD.grad, {name: float(metric) for name, metric in metrics.items()}


def gradient_of(term: Callable[[Tensor, Tensor], Tensor], prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    leaf_BD = prediction_BD.detach().double().requires_grad_()
    return torch.autograd.grad(term(unit(leaf_BD), target_BD.double()), leaf_BD)[0]


# The terms


def test_mse_has_the_runbooks_unit() -> None:
    prediction_BD, target_BD = torch.zeros(4, 768), torch.zeros(4, 768)
    prediction_BD[:, 0], target_BD[:, 0], target_BD[:, 1] = 1.0, 0.55, math.sqrt(1 - 0.55**2)
    assert float(mse(prediction_BD, target_BD)) == pytest.approx((2 - 1.1) / 768, rel=1e-6)
    for values in (
        objective(mse=1.0).values(prediction_BD, target_BD),
        backward(objective(mse=1.0), prediction_BD, target_BD)[1],
    ):
        assert float(values["loss_mse"]) == pytest.approx((2 - 1.1) / 768, rel=1e-6)
        assert float(values["cosine"]) == pytest.approx(0.55, rel=1e-6)


def test_mse_equals_torchs_mse_loss() -> None:
    prediction_BD, target_BD = pair()
    assert torch.equal(mse(prediction_BD, target_BD), F.mse_loss(prediction_BD, target_BD))


@pytest.mark.parametrize("tau", [0.05, 0.07, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("block", [None, 5], ids=["one block", "blocks of 5, 5 and 2"])
def test_info_nce_equals_a_double_loop(tau: float, grouped: bool, block: int | None) -> None:
    prediction_BD, target_BD = (unit(vectors) for vectors in pair())
    group_B = torch.arange(12) // 3 if grouped else None
    total = 0.0
    for i in range(12):
        for one, other in ((prediction_BD, target_BD), (target_BD, prediction_BD)):
            scores = [
                math.exp(float(one[i] @ other[j]) / tau)
                for j in range(12)
                if (block is None or i // block == j // block)
                and (j == i or group_B is None or group_B[i] != group_B[j])
            ]
            total -= math.log(math.exp(float(one[i] @ other[i]) / tau) / sum(scores)) / 12
    assert float(info_nce(prediction_BD, target_BD, tau, group_B, block)) == pytest.approx(total, rel=1e-9)


def test_info_nce_has_the_runbooks_unit() -> None:
    # Both directions are summed: equal predictions for all targets cost log B twice.
    vectors = unit(torch.ones(32, 768))
    assert float(info_nce(vectors, vectors, 0.07)) == pytest.approx(2 * math.log(32), rel=1e-5)


def test_info_nce_without_negatives_has_no_loss_and_no_gradient() -> None:
    for batch, group_B in ((1, None), (1, torch.zeros(1)), (12, torch.zeros(12))):
        prediction_BD, target_BD = pair(batch)
        leaf_BD = prediction_BD.requires_grad_()
        loss = info_nce(unit(leaf_BD), target_BD, 0.07, group_B)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
        assert leaf_BD.grad is not None
        assert float(leaf_BD.grad.abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_info_nce_masks_nothing_if_every_window_has_its_own_group() -> None:
    prediction_BD, target_BD = pair()
    assert torch.equal(
        info_nce(prediction_BD, target_BD, 0.1, torch.arange(12)), info_nce(prediction_BD, target_BD, 0.1)
    )


def test_moment_matching_equals_its_definition() -> None:
    prediction_BD, target_BD = pair()
    p, t = prediction_BD.numpy(), target_BD.numpy()
    expected = ((p.mean(0) - t.mean(0)) ** 2).sum() + ((p.var(0) - t.var(0)) ** 2).sum()
    assert float(moment_matching(prediction_BD, target_BD)) == pytest.approx(expected)
    assert float(moment_matching(target_BD.flip(0), target_BD)) == pytest.approx(0.0, abs=1e-15)
    shifted = float(moment_matching(target_BD + torch.tensor([3.0, 4.0] + [0.0] * 8), target_BD))
    assert shifted == pytest.approx(25.0)


def test_variance_floor_equals_its_definition() -> None:
    prediction_BD = unit(pair()[0])
    deviations = np.sqrt(prediction_BD.numpy().var(0) + 1e-4 / 10)
    expected = np.maximum(0.0, 1 / math.sqrt(10) - deviations).mean()
    assert float(variance_floor(prediction_BD)) == pytest.approx(expected)
    collapsed = prediction_BD[:1].expand(12, -1)
    assert float(variance_floor(collapsed)) == pytest.approx(0.99 / math.sqrt(10))
    spread = torch.cat([torch.eye(10), -torch.eye(10)])  # each dimension's variance is exactly 1/10
    assert float(variance_floor(spread)) == 0.0


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("term", TERMS)
def test_gradients_equal_finite_differences(term: str, grouped: bool) -> None:
    prediction_BD, target_BD = pair(6, 5)
    function = pure_terms(group_B=torch.arange(6) // 2 if grouped else None)[term]
    inputs = (prediction_BD.requires_grad_(), target_BD)
    assert torch.autograd.gradcheck(lambda p, t: function(unit(p), unit(t)), inputs)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(2, 9), dimensions=st.integers(2, 9))
def test_terms_are_invariant_to_window_order_and_rotation(seed: int, batch: int, dimensions: int) -> None:
    prediction_BD, target_BD = (unit(vectors) for vectors in pair(batch, dimensions, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    order, group_B = torch.randperm(batch, generator=generator), torch.arange(batch) // 2
    turn = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))[0]
    for term, function in pure_terms(group_B=group_B).items():
        permuted = pure_terms(group_B=group_B[order])[term](prediction_BD[order], target_BD[order])
        torch.testing.assert_close(permuted, function(prediction_BD, target_BD), msg=term)
        if term in ("mse", "info"):  # the other terms treat each dimension by itself
            torch.testing.assert_close(
                function(prediction_BD @ turn, target_BD @ turn), function(prediction_BD, target_BD)
            )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.floats(1e-3, 1e3))
def test_metrics_do_not_depend_on_the_length_of_the_prediction(seed: int, length: float) -> None:
    chosen = objective(mse=0.4, info_nce=0.4, moment=0.1, variance=0.1)
    one = chosen.values(*(vectors.float() for vectors in pair(seed=seed)))
    other = chosen.values(*(vectors.float() for vectors in pair(seed=seed, length=length)))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("loss_weighting", ["gradient_norm", "raw"])
def test_golden_values(loss_weighting: str) -> None:
    """Numbers from the definitions in numpy, shares of raw weighting from central differences."""
    prediction_BD = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0], [1.0, 1.0, 1.0], [0.0, 0.0, -1.0]])
    target_BD = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.6, 0.0, -0.8]])
    chosen = objective(mse=0.5, info_nce=0.5, moment=0.25, variance=0.25, tau=0.5, loss_weighting=loss_weighting)
    _, metrics = backward(chosen, prediction_BD, target_BD, torch.tensor([0, 1, 1, 2]))
    shares = {"gradient_norm": (1 / 3, 1 / 3, 1 / 6, 1 / 6), "raw": (0.19739944, 0.65375250, 0.05111833, 0.09772973)}
    assert metrics == pytest.approx(
        {
            "loss_mse": 0.13710829,
            "loss_info": 0.95050042,
            "loss_moment": 0.02004811,
            "loss_variance": 0.14615252,
            "cosine": 0.79433757,
            **{f"share_{term}": share for term, share in zip(TERMS, shares[loss_weighting], strict=True)},
        },
        rel=1e-5,
    )


# Gradient shares


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5, 0.0, 0.0), (0.5, 0.5, 0.001, 0.001), (0.0, 1.0, 0.0, 0.0), (3.0, 0.2, 1.0, 2.0)]
)
@pytest.mark.parametrize("tau", [0.01, 0.07, 50.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dimensions", [4, 768])
def test_weights_are_gradient_shares_at_any_scale(
    weights: tuple[float, ...], tau: float, length: float, dimensions: int
) -> None:
    prediction_BD, target_BD = pair(8, dimensions, length=length)
    given_weights = dict(zip(TERMS, weights, strict=True))
    gradient_BD, metrics = backward(
        objective(**given_weights, tau=tau, mask_same_document=False), prediction_BD, target_BD
    )
    for term, weight in given_weights.items():
        assert (f"share_{term}" in metrics) == (weight > 0)
        assert metrics.get(f"share_{term}", 0.0) == pytest.approx(weight / sum(weights), abs=1e-5)
    # The reference: unit-norm gradients by autograd in float64, mixed by the shares.
    reference = gradient_of(mse, prediction_BD, target_BD).norm() * dimensions / 2
    expected = torch.zeros_like(prediction_BD)
    for term, weight in given_weights.items():
        if weight:
            raw = gradient_of(pure_terms(tau)[term], prediction_BD, target_BD)
            expected += reference * weight / sum(weights) * raw / raw.norm()
    assert float((gradient_BD - expected).norm()) < 2e-4 * float(expected.norm())


def test_mse_alone_has_the_gradient_of_one_minus_cosine() -> None:
    prediction_BD, target_BD = pair()
    for weight in (1.0, 1e-6, 1e6):
        gradient_BD, metrics = backward(objective(mse=weight), prediction_BD, target_BD)
        expected = gradient_of(lambda p, t: 1 - (p * t).sum(dim=1).mean(), prediction_BD, target_BD)
        torch.testing.assert_close(gradient_BD.double(), expected, atol=1e-7, rtol=1e-5)
        assert metrics["share_mse"] == 1.0


def test_the_gradient_norm_is_that_of_one_minus_cosine_for_every_term() -> None:
    prediction_BD, target_BD = pair(16, 768)
    reference = gradient_of(lambda p, t: 1 - (p * t).sum(dim=1).mean(), prediction_BD, target_BD).norm()
    for term in TERMS:
        gradient_BD, _ = backward(objective(**{term: 7.0}), prediction_BD, target_BD)
        assert float(gradient_BD.norm()) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.001, 0.001), (0.0, 2.0, 0.0, 1.0)])
def test_raw_weighting_has_the_gradient_of_the_weighted_sum(weights: tuple[float, ...]) -> None:
    prediction_BD, target_BD = pair()
    group_B = torch.arange(12) // 2
    chosen = objective(**dict(zip(TERMS, weights, strict=True)), tau=0.3, loss_weighting="raw")
    gradient_BD, metrics = backward(chosen, prediction_BD, target_BD, group_B)
    terms = pure_terms(0.3, group_B)

    def raw_sum(p: Tensor, t: Tensor) -> Tensor:
        return sum((weight * terms[term](p, t) for term, weight in zip(TERMS, weights, strict=True)), torch.tensor(0.0))

    torch.testing.assert_close(
        gradient_BD.double(), gradient_of(raw_sum, prediction_BD, target_BD), atol=1e-6, rtol=1e-4
    )
    assert float(chosen.loss(metrics)) == pytest.approx(float(raw_sum(unit(prediction_BD), target_BD)), rel=1e-5)
    norms = {
        t: w * float(gradient_of(terms[t], prediction_BD, target_BD).norm())
        for t, w in zip(TERMS, weights, strict=True)
    }
    for term, weight in zip(TERMS, weights, strict=True):
        if weight:
            assert metrics[f"share_{term}"] == pytest.approx(norms[term] / sum(norms.values()), rel=1e-4)


def test_raw_weights_of_one_half_give_mse_less_than_a_hundredth_of_the_gradient() -> None:
    prediction_BD, target_BD = pair(32, 768)
    weights = {"mse": 0.5, "info_nce": 0.5}
    raw = backward(objective(**weights, loss_weighting="raw"), prediction_BD, target_BD)[1]
    balanced = backward(objective(**weights), prediction_BD, target_BD)[1]
    assert raw["share_mse"] < 0.01
    assert balanced["share_mse"] == pytest.approx(0.5, abs=1e-5)


def test_a_term_with_zero_gradient_adds_nothing() -> None:
    prediction_BD, target_BD = pair()
    alone, _ = backward(objective(mse=0.5), prediction_BD, target_BD)
    same_document = torch.zeros(12)
    mixed, metrics = backward(objective(mse=0.5, info_nce=0.5), prediction_BD, target_BD, same_document)
    torch.testing.assert_close(mixed, alone / 2)
    assert (metrics["share_mse"], metrics["share_info"]) == (1.0, 0.0)


def test_a_vanishing_gradient_is_not_rescaled_to_its_share() -> None:
    # InfoNCE separates these two windows almost perfectly: its gradient is far below that of MSE.
    prediction_BD = torch.tensor([[1.0, 0.02], [-1.0, 0.02]])
    target_BD = unit(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    chosen = objective(mse=0.5, info_nce=0.5, tau=0.07)
    _, metrics = backward(chosen, prediction_BD, target_BD)
    weak = gradient_of(lambda p, t: info_nce(p, t, 0.07), prediction_BD, target_BD).norm() / 2
    strong = gradient_of(lambda p, t: 1 - (p * t).sum(dim=1).mean(), prediction_BD, target_BD).norm()
    assert weak / strong < MIN_GRADIENT_RATIO / 10
    assert metrics["share_info"] < 0.1
    assert metrics["share_mse"] > 0.9


@pytest.mark.parametrize("loss_weighting", ["gradient_norm", "raw"])
@pytest.mark.parametrize("batch", [1, 12])
@pytest.mark.parametrize("case", ["identical", "opposite", "zero", "one zero", "tiny", "all the same"])
def test_gradients_and_metrics_stay_finite(loss_weighting: str, batch: int, case: str) -> None:
    _, target_BD = pair(batch)
    predictions = {
        "identical": target_BD,
        "opposite": -target_BD,
        "zero": 0 * target_BD,
        "one zero": target_BD * (torch.arange(batch) > 0)[:, None],
        "tiny": 1e-30 * target_BD,
        "all the same": target_BD[:1].expand(batch, -1),
    }
    chosen = objective(mse=0.4, info_nce=0.4, moment=0.1, variance=0.1, loss_weighting=loss_weighting)
    for group_B in (None, torch.arange(batch), torch.zeros(batch)):
        gradient_BD, metrics = backward(chosen, predictions[case], target_BD, group_B)
        assert torch.isfinite(gradient_BD).all()
        assert all(math.isfinite(metric) for metric in metrics.values()), metrics


def test_zero_predictions_are_moved_towards_their_targets() -> None:
    _, target_BD = pair()
    gradient_BD, _ = backward(objective(mse=1.0), 0 * target_BD, target_BD)
    torch.testing.assert_close(unit(-gradient_BD), target_BD.float())


def test_short_predictions_have_the_same_direction_as_in_models() -> None:
    prediction_BD, target_BD = (vectors.float() for vectors in pair(length=1e-6))
    cosine = objective(mse=1.0).values(prediction_BD, target_BD)["cosine"]
    assert torch.equal(cosine, (unit(prediction_BD) * unit(target_BD)).sum(dim=1).mean())


def test_nan_predictions_give_nan_losses_and_gradients() -> None:
    prediction_BD, target_BD = pair()
    prediction_BD[3, 3] = torch.nan
    gradient_BD, metrics = backward(objective(mse=0.5, info_nce=0.5), prediction_BD, target_BD)
    assert gradient_BD.isnan().any()
    assert math.isnan(metrics["loss_mse"])


def test_the_recipe_decides_whether_pairs_of_one_document_are_masked() -> None:
    prediction_BD, target_BD = (vectors.float() for vectors in pair())
    group_B = torch.arange(12) // 4
    masked = objective(info_nce=1.0).values(prediction_BD, target_BD, group_B)["loss_info"]
    unmasked = objective(info_nce=1.0, mask_same_document=False).values(prediction_BD, target_BD, group_B)["loss_info"]
    torch.testing.assert_close(masked, info_nce(unit(prediction_BD), target_BD, 0.07, group_B))
    torch.testing.assert_close(unmasked, info_nce(unit(prediction_BD), target_BD, 0.07))
    assert masked < unmasked


def test_metrics_contain_mse_and_the_weighted_terms() -> None:
    prediction_BD, target_BD = pair()
    _, metrics = backward(objective(info_nce=1.0), prediction_BD, target_BD)
    assert list(metrics) == ["loss_mse", "loss_info", "cosine", "share_info"]
    chosen = objective(mse=0.4, info_nce=0.4, moment=0.1, variance=0.1)
    values = chosen.values(prediction_BD.float(), target_BD.float())
    assert list(values) == [*(f"loss_{term}" for term in TERMS), "cosine"]
    _, metrics = backward(chosen, prediction_BD, target_BD)
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {name: metrics[name] for name in values}, rel=1e-6
    )


def test_the_loss_scales_every_term_to_about_one() -> None:
    chosen = objective(mse=2.0, info_nce=1.0, moment=0.5, variance=0.5)
    values = {"loss_mse": 0.9 / 768, "loss_info": 3.0, "loss_moment": 0.1, "loss_variance": 0.02, "cosine": 0.55}
    assert chosen.loss(values) == pytest.approx((2.0 * 0.45 + 1.0 * 1.5 + 0.5 * 0.1 + 0.5 * 0.02) / 4)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    assert isinstance(chosen.loss(tensors), Tensor)
    assert float(objective(info_nce=1.0).loss(tensors)) == pytest.approx(1.5)
    prediction_BD, target_BD = pair()
    single = objective(mse=1.0)
    metrics = single.values(prediction_BD, target_BD)
    assert float(single.loss(metrics)) == pytest.approx(10 / 2 * float(metrics["loss_mse"]), rel=1e-5)


def test_losses_of_half_precision_predictions_are_computed_in_float32() -> None:
    prediction_BD, target_BD = (vectors.float() for vectors in pair(16, 64))
    weights = torch.eye(64, requires_grad=True)
    chosen = objective(mse=0.5, info_nce=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        raw_BD = prediction_BD @ weights
        metrics = chosen.backward(raw_BD, target_BD)  # even inside autocast
    assert raw_BD.dtype == torch.bfloat16
    assert all(metric.dtype == torch.float32 for metric in metrics.values())
    exact = chosen.values(raw_BD.detach(), target_BD)
    assert all(float(metrics[name]) == pytest.approx(float(value), rel=1e-6) for name, value in exact.items())
    assert weights.grad is not None
    assert float(metrics["share_info"]) == pytest.approx(0.5, abs=1e-5)


def test_backward_never_reads_a_value_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a value was read back, which waits for the device")

    for method in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, method, refuse)
    prediction_BD, target_BD = pair()
    weights = torch.ones(10, requires_grad=True)
    chosen = objective(mse=0.4, info_nce=0.4, moment=0.1, variance=0.1)
    assert len(chosen.backward(prediction_BD.float() * weights, target_BD.float(), torch.arange(12))) == 9
    assert len(chosen.values(prediction_BD.float(), target_BD.float(), torch.arange(12))) == 5


# The query


def test_query_nce_equals_a_loop_over_the_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    query_BD, target_BD = (unit(torch.randn(6, 8, generator=generator, dtype=torch.float64)) for _ in range(2))
    negative_BKD = unit(torch.randn(6, 3, 8, generator=generator, dtype=torch.float64))
    group_B = torch.tensor([0, 0, 1, 2, 2, 3])
    has_negatives_B = torch.tensor([True, True, False, True, True, True])
    expected = 0.0
    for row in range(6):
        scores = [float(query_BD[row] @ target_BD[row])]
        scores += [float(query_BD[row] @ target_BD[other]) for other in range(6) if group_B[other] != group_B[row]]
        scores += (
            [float(query_BD[row] @ negative_D) for negative_D in negative_BKD[row]] if has_negatives_B[row] else []
        )
        # Each target of another group counts e times.
        weights = [1.0, *[math.e] * int((group_B != group_B[row]).sum()), 1.0, 1.0, 1.0]
        total = sum(weight * math.exp(score / 0.2) for score, weight in zip(scores, weights, strict=False))
        expected -= math.log(math.exp(scores[0] / 0.2) / total) / 6
    actual = query_nce(query_BD, target_BD, 3 * negative_BKD, has_negatives_B, 0.2, group_B)
    assert float(actual) == pytest.approx(expected, rel=1e-9)
    first = query_nce(query_BD[:1], target_BD, negative_BKD[:1], has_negatives_B[:1], 0.2, group_B)
    scores = torch.cat([query_BD[0] @ target_BD[[0, 2, 3, 4, 5]].T, negative_BKD[0] @ query_BD[0]]) / 0.2
    scores[1:5] += 1  # the targets of other groups
    assert float(first) == pytest.approx(float(scores.logsumexp(0) - scores[0]), rel=1e-9)


def test_query_nce_without_hard_negatives_equals_cross_entropy_over_the_batch() -> None:
    query_BD, target_BD = (vectors.float() for vectors in pair(5))
    group_B = torch.arange(5)
    nothing = torch.zeros(5, 0, 10), torch.ones(5, dtype=torch.bool)
    actual = query_nce(unit(query_BD), target_BD, *nothing, 0.3, group_B)
    expected = F.cross_entropy(unit(query_BD) @ target_BD.T / 0.3 + 1 - torch.eye(5), group_B)
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)


def test_backward_query_gives_the_gradient_at_the_raw_query() -> None:
    raw_BD, target_BD = (vectors.float() for vectors in pair(5, length=3.0))
    negative_BKD, has_negatives_B, group_B = torch.randn(5, 2, 10), torch.ones(5, dtype=torch.bool), torch.arange(5)
    chosen, leaf_BD = objective(mse=1.0, query_tau=0.3), raw_BD.clone().requires_grad_()
    metrics = chosen.backward_query(leaf_BD, target_BD, negative_BKD.half(), has_negatives_B, group_B)
    other_BD = raw_BD.clone().requires_grad_()
    negative_BKD = F.normalize(negative_BKD.half().float(), dim=2)
    loss = query_nce(unit(other_BD), target_BD, negative_BKD, has_negatives_B, 0.3, group_B)
    loss.backward()
    torch.testing.assert_close(leaf_BD.grad, other_BD.grad)
    assert list(metrics) == ["loss_query"] and float(metrics["loss_query"]) == pytest.approx(
        float(loss.detach()), rel=1e-6
    )


# The gradients in closed form


@pytest.mark.parametrize("length", [3.0, 1e-3, 1e-8], ids=["long", "short", "without a direction"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("term", "block"), [*((term, None) for term in TERMS), ("info", 4), ("info", 5), ("info", 20)])
def test_closed_form_gradients_equal_autograds(term: str, block: int | None, grouped: bool, length: float) -> None:
    prediction_BD, target_BD = pair(length=length)
    group_B = torch.arange(12) // 3 if grouped else None
    directions = Directions.of(prediction_BD)
    chosen = objective(**{term: 1.0}, tau=0.3, info_nce_block=block)
    gradient = chosen._term_gradients(directions, target_BD, group_B)[0][term]
    leaf_BD = prediction_BD.clone().requires_grad_()
    value = pure_terms(0.3, group_B, block)[term](F.normalize(leaf_BD, dim=1, eps=ops.MIN_LENGTH), target_BD)
    (expected_BD,) = torch.autograd.grad(value, leaf_BD)
    torch.testing.assert_close(gradient.value, value.detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient_norms(directions, [gradient])[0], expected_BD.norm(), rtol=1e-9, atol=1e-12)
    mixed_BD = mix_gradients(directions, target_BD, [gradient], torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(mixed_BD, expected_BD, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("queries", [6, 4])
@pytest.mark.parametrize("negatives", [0, 3])
def test_closed_form_query_gradient_equals_autograds(negatives: int, queries: int) -> None:
    query_BD, target_BD = pair(6, 8)
    query_BD = query_BD[:queries]
    negative_BKD = torch.randn(queries, negatives, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    has_negatives_B = torch.tensor([True, True, False, True, True, True])[:queries]
    group_B = torch.tensor([0, 0, 1, 2, 2, 3])
    leaf_BD = unit(query_BD).requires_grad_()
    expected = query_nce(leaf_BD, target_BD, negative_BKD, has_negatives_B, 0.2, group_B)
    (expected_BD,) = torch.autograd.grad(expected, leaf_BD)
    value, gradient_BD = query_nce_gradient(
        unit(query_BD), target_BD, negative_BKD, has_negatives_B, tau=0.2, group_B=group_B
    )
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_BD, expected_BD, rtol=1e-9, atol=1e-12)
