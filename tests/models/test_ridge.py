"""Ridge equals its closed form, and its penalty is the best of all penalties on the held-out groups."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from nextvec.models import ridge
from nextvec.models.base import read_context
from nextvec.models.ridge import Ridge, RidgeFit, count_slots, find_minimum, is_held_out, select_slots

WINDOWS, CONTEXT, DIMENSIONS = 300, 3, 6
Array = NDArray[np.float64]


def problem(*, noise: float = 0.5, masked: bool = False, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return contexts, targets that are a linear map of them plus noise, masks, and groups of 6 windows."""
    generator = torch.Generator().manual_seed(seed)
    context_BSD = torch.randn(WINDOWS, CONTEXT, DIMENSIONS, generator=generator) * 0.3 + 0.4
    linear_map = torch.randn(CONTEXT * DIMENSIONS, DIMENSIONS, generator=generator) / 4
    mask_BS = None
    if masked:
        present = torch.randint(1, CONTEXT + 1, (WINDOWS,), generator=generator)
        mask_BS = torch.arange(CONTEXT) >= CONTEXT - present[:, None]
        context_BSD *= mask_BS[:, :, None]
    target_BD = context_BSD.flatten(1) @ linear_map + noise * torch.randn(WINDOWS, DIMENSIONS, generator=generator) + 1
    return context_BSD, target_BD, mask_BS, torch.arange(WINDOWS) // 6


def fit(data: tuple[Tensor, Tensor, Tensor | None, Tensor]) -> Ridge:
    fitting = RidgeFit(DIMENSIONS, CONTEXT, data[1].mean(dim=0))
    fitting.add(*data)
    fitting.finish()
    return fitting.solve()[0]


def reference_ridge(
    data: tuple[Tensor, Tensor, Tensor | None, Tensor], penalty: float, rows: NDArray[np.bool_]
) -> Callable[[NDArray[np.bool_]], Array]:
    """Fit ridge on `rows` by its formula; return the function that predicts other rows. Absent vectors count as 0."""
    slots, present = (tensor.numpy() for tensor in select_slots(read_context(data[0], data[2]), data[2], CONTEXT))
    features, targets = slots.astype(np.float64), data[1].numpy().astype(np.float64)
    means = np.stack([features[rows, s][present[rows, s]].mean(0) for s in range(CONTEXT)])
    centered = ((features - means) * present[:, :, None]).reshape(WINDOWS, -1)
    x, y = centered[rows], targets[rows] - targets[rows].mean(0)
    weights = np.linalg.solve(x.T @ x + penalty * np.mean(np.diag(x.T @ x)) * np.eye(x.shape[1]), x.T @ y)
    return lambda rows_to_predict: centered[rows_to_predict] @ weights + targets[rows].mean(0)


ALL_ROWS = np.ones(WINDOWS, bool)


@pytest.mark.parametrize("masked", [False, True])
def test_ridge_equals_its_closed_form(masked: bool) -> None:
    data = problem(masked=masked)
    model = fit(data)
    expected = reference_ridge(data, float(model.penalty), ALL_ROWS)(ALL_ROWS)
    np.testing.assert_allclose(model(data[0], data[2]).numpy(), expected, atol=1e-5)


def test_ridge_equals_scikit_learn() -> None:
    from sklearn.linear_model import Ridge as Reference

    data = problem()
    model, x, y = fit(data), data[0].flatten(1).double().numpy(), data[1].double().numpy()
    alpha = float(model.penalty) * (x - x.mean(0)).var(axis=0).mean() * WINDOWS
    np.testing.assert_allclose(model(data[0]).numpy(), Reference(alpha=alpha).fit(x, y).predict(x), atol=1e-5)


def test_ridge_equals_least_squares_if_the_targets_have_no_noise() -> None:
    data = problem(noise=0.0)
    model = fit(data)
    assert float(model.penalty) == pytest.approx(1e-4)
    x = np.hstack([data[0].flatten(1).double().numpy(), np.ones((WINDOWS, 1))])
    expected = x @ np.linalg.lstsq(x, data[1].double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(model(data[0]).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("noise", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("masked", [False, True])
def test_the_penalty_has_the_least_error_on_the_held_out_groups(noise: float, masked: bool) -> None:
    data = problem(noise=noise, masked=masked, seed=3)
    held_out = is_held_out(data[3]).numpy()
    errors = {}
    for half_decades in range(ridge.MIN_HALF_DECADES, ridge.MAX_HALF_DECADES + 1):
        prediction = reference_ridge(data, 10 ** (half_decades / 2), ~held_out)(held_out)
        errors[half_decades] = float(((data[1].numpy()[held_out] - prediction) ** 2).sum())
    best = min(errors, key=lambda key: errors[key])
    assert float(fit(data).penalty) == pytest.approx(10 ** (best / 2))


def test_noisier_targets_get_a_larger_penalty() -> None:
    penalties = [float(fit(problem(noise=noise, seed=1)).penalty) for noise in (0.01, 1.0, 30.0)]
    assert penalties[0] < penalties[1] < penalties[2]


def test_a_single_group_gets_the_initial_penalty() -> None:
    context_BSD, target_BD, mask_BS, group_B = problem()
    model = fit((context_BSD, target_BD, mask_BS, torch.zeros_like(group_B)))
    assert float(model.penalty) == 1.0
    assert torch.isfinite(model(context_BSD)).all()


def test_about_a_fifth_of_the_groups_is_held_out_and_no_group_is_split() -> None:
    for groups in (torch.arange(1000), torch.arange(1000) * 64, torch.arange(-500, 500), torch.arange(1000) + 2**30):
        assert 150 < int(is_held_out(groups).sum()) < 250
        assert torch.equal(is_held_out(groups), is_held_out(groups.int()))
    repeated = torch.arange(100).repeat_interleave(7)
    assert torch.equal(is_held_out(repeated), is_held_out(torch.arange(100)).repeat_interleave(7))


def test_moments_of_float32_vectors_are_accurate() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(9000, 64, generator=generator) * 0.05 + 0.3, dim=-1)
    context_BSD, target_BD = vectors.view(3000, 3, 64), vectors.roll(1, 0)[:3000]  # cosine of two vectors: 0.97
    fitting = RidgeFit(64, 3, target_BD.mean(dim=0))
    for rows in range(0, 3000, 500):
        batch = slice(rows, rows + 500)
        fitting.add(context_BSD[batch], target_BD[batch], None, torch.ones(500))
    moments = fitting.fit_moments
    moments.finish()
    before = moments.gram.clone()
    moments.center(*moments.means())
    gram, target_products = moments.gram.clone(), moments.target_products
    x, y = context_BSD.flatten(1).double(), target_BD.double()
    x, y = x - x.mean(0), y - y.mean(0)
    torch.testing.assert_close(gram, x.T @ x, atol=2e-6 * float((x.T @ x).diagonal().mean()), rtol=0)
    torch.testing.assert_close(target_products, x.T @ y, atol=2e-6 * float((x.T @ x).diagonal().mean()), rtol=0)
    torch.testing.assert_close(gram, gram.T, atol=1e-5, rtol=0)
    moments.uncenter()
    torch.testing.assert_close(moments.gram, before, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize(
    ("dimensions", "context", "slots"),
    [(768, 5, 5), (768, 7, 7), (768, 20, 8), (384, 20, 16), (4096, 5, 1), (9000, 5, 1), (8, 1, 1)],
)
def test_the_number_of_features_is_limited(dimensions: int, context: int, slots: int) -> None:
    assert count_slots(dimensions, context) == slots
    assert slots * dimensions <= ridge.MAX_FEATURES or slots == 1


def test_a_long_context_becomes_its_newest_vectors_and_the_mean_of_the_older_ones() -> None:
    context_BSD = torch.arange(12.0).view(2, 6, 1)
    mask_BS = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    slots, present = select_slots(read_context(context_BSD, mask_BS), mask_BS, 3)
    assert slots[:, :, 0].tolist() == [[1.5, 4.0, 5.0], [8.5, 10.0, 11.0]]
    assert present.all()
    mask_BS[1, :5] = False
    slots, present = select_slots(read_context(context_BSD, mask_BS), mask_BS, 3)
    assert present.tolist() == [[True] * 3, [False, False, True]]
    assert slots[1, :, 0].tolist() == [0.0, 0.0, 11.0]
    assert select_slots(context_BSD, None, 1)[0][:, :, 0].tolist() == [[5.0], [11.0]]
    assert torch.equal(select_slots(context_BSD, None, 6)[0], context_BSD)


@pytest.mark.parametrize("slots", [1, 2])
def test_fit_and_prediction_shorten_a_context_in_the_same_way(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    monkeypatch.setattr(ridge, "MAX_FEATURES", slots * DIMENSIONS)
    data = problem()
    model = fit(data)
    assert model.config == {"kind": "ridge", "dimensions": DIMENSIONS, "context": CONTEXT, "slots": slots}
    older, newest = data[0][:, :-1].mean(dim=1), data[0][:, -1]
    x = (newest if slots == 1 else torch.cat([older, newest], dim=1)).double().numpy()
    y = data[1].double().numpy()
    centered = x - x.mean(0)
    gram = centered.T @ centered
    weights = np.linalg.solve(
        gram + float(model.penalty) * np.diag(gram).mean() * np.eye(len(gram)), centered.T @ (y - y.mean(0))
    )
    np.testing.assert_allclose(model(data[0]).numpy(), centered @ weights + y.mean(0), atol=3e-5)


def test_ridge_predicts_from_longer_and_shorter_contexts() -> None:
    data = problem(masked=True)
    model = fit(data)
    longer = torch.cat([torch.randn(WINDOWS, 2, DIMENSIONS), data[0]], dim=1)
    assert torch.equal(model(longer), model(data[0]))
    newest_only = torch.zeros(WINDOWS, CONTEXT, dtype=torch.bool)
    newest_only[:, -1] = True
    torch.testing.assert_close(model(data[0][:, -1:]), model(data[0], newest_only))


@given(lowest=st.integers(ridge.MIN_HALF_DECADES - 3, ridge.MAX_HALF_DECADES + 3), first_solvable=st.integers(-12, -6))
def test_the_search_returns_the_minimum_and_evaluates_no_penalty_twice(lowest: int, first_solvable: int) -> None:
    evaluated = []

    def error(half_decades: int) -> float:
        evaluated.append(half_decades)
        return math.inf if half_decades < first_solvable else abs(half_decades - lowest) ** 1.5

    expected = min(max(lowest, ridge.MIN_HALF_DECADES, first_solvable), ridge.MAX_HALF_DECADES)
    assert find_minimum(error) == expected
    assert len(evaluated) == len(set(evaluated)) <= abs(expected) + 3
