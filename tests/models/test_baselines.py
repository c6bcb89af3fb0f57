"""Baselines equal their definitions, computed one window at a time."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextvec.data.windows import Batch
from nextvec.errors import InputError
from nextvec.models.base import unit
from nextvec.models.baselines import BASELINES, DECAYS, fit_baselines
from nextvec.models.registry import LatentModel

WINDOWS, CONTEXT, DIMENSIONS = 400, 4, 8


def windows(*, masked: bool = False, seed: int = 0, offset: float = 0.5) -> Batch:
    """Return documents of 10 windows whose target is the newest vector, slightly rotated, around a common mean."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator))[0]
    noise = torch.randn(WINDOWS, CONTEXT + 1, DIMENSIONS, generator=generator)
    vectors = torch.randn(WINDOWS, 1, DIMENSIONS, generator=generator) + 0.5 * noise.cumsum(dim=1) + offset
    vectors[:, -1] = 0.3 * vectors[:, -2] @ turn + vectors[:, -2] + 0.2 * noise[:, -1]
    vectors = F.normalize(vectors, dim=-1)
    mask = None
    if masked:
        present = torch.randint(1, CONTEXT + 1, (WINDOWS,), generator=generator)
        mask = torch.arange(CONTEXT) >= CONTEXT - present[:, None]
    context = vectors[:, :-1] if mask is None else vectors[:, :-1] * mask[:, :, None]
    return Batch(context, vectors[:, -1], torch.arange(WINDOWS) // 10, mask)


def fit(*batches: Batch) -> dict[str, LatentModel]:
    origin = batches[0].target_BD.float().mean(dim=0) if batches else torch.zeros(DIMENSIONS)
    return fit_baselines(iter(batches), origin, CONTEXT, quiet=True)


def split(batch: Batch, *sizes: int) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        mask = None if batch.mask_BS is None else batch.mask_BS[rows]
        yield Batch(batch.context_BSD[rows], batch.target_BD[rows], batch.group_B[rows], mask)
        start += size


def mean_cosine(model: LatentModel, batch: Batch) -> float:
    return float((model.predict(batch.context_BSD, batch.mask_BS) * unit(batch.target_BD)).sum(dim=1).mean())


def test_all_baselines_are_fitted_in_order() -> None:
    assert tuple(fit(windows())) == BASELINES


@pytest.mark.parametrize("masked", [False, True])
def test_simple_baselines_equal_their_definitions(masked: bool) -> None:
    batch = windows(masked=masked)
    fitted = fit(batch)
    decay = float(fitted["decayed-mean"].decay)  # type: ignore[arg-type]
    present = torch.ones(WINDOWS, CONTEXT) if batch.mask_BS is None else batch.mask_BS
    for row in range(20):
        vectors = batch.context_BSD[row][present[row].bool()].double()
        ages = range(len(vectors) - 1, -1, -1)
        decayed = sum(decay**age * vector for age, vector in zip(ages, vectors, strict=True))
        expected = {
            "copy-last": vectors[-1],
            "context-mean": vectors.sum(dim=0) / len(vectors),
            "decayed-mean": decayed,
            "train-mean": batch.target_BD.double().mean(dim=0),
        }
        for name, vector in expected.items():
            assert isinstance(vector, Tensor)
            prediction = fitted[name].predict(batch.context_BSD, batch.mask_BS)[row]
            torch.testing.assert_close(prediction, (vector / vector.norm()).float(), msg=name)


@pytest.mark.parametrize("masked", [False, True])
def test_the_fitted_decay_has_the_highest_mean_cosine(masked: bool) -> None:
    batch = windows(masked=masked)
    fitted = fit(*split(batch, 1, 150, 249))["decayed-mean"]
    cosines = []
    best = float(fitted.decay)  # type: ignore[arg-type]
    for decay in DECAYS:
        fitted.decay.fill_(float(decay))  # type: ignore[operator]
        cosines.append(mean_cosine(fitted, batch))
    assert best == pytest.approx(float(DECAYS[int(np.argmax(cosines))]))
    assert 0.05 < best < 1


@pytest.mark.parametrize("decay", [0.05, 0.37, 1.0])
def test_the_fit_recovers_the_decay_that_generated_the_targets(decay: float) -> None:
    context_BSD = windows(offset=0.0).context_BSD
    ages = torch.arange(CONTEXT - 1, -1, -1)
    target_BD = unit((decay ** ages[:, None] * context_BSD).sum(dim=1))
    fitted = fit(Batch(context_BSD, target_BD, torch.arange(WINDOWS), None))
    assert float(fitted["decayed-mean"].decay) == pytest.approx(decay)  # type: ignore[arg-type]


def test_fitted_baselines_beat_fixed_ones_on_learnable_targets() -> None:
    fitted, unseen = fit(windows()), windows()
    cosines = {name: mean_cosine(model, unseen) for name, model in fitted.items()}
    assert max(cosines, key=lambda name: cosines[name]) == "ridge"
    assert cosines["ridge"] > cosines["decayed-mean"] + 0.03
    assert cosines["decayed-mean"] > cosines["context-mean"] > cosines["train-mean"]


@pytest.mark.parametrize("masked", [False, True])
def test_the_batch_size_does_not_change_the_fit(masked: bool) -> None:
    batch = windows(masked=masked)
    one_batch, four_batches = fit(batch), fit(*split(batch, 1, 7, 192, 200))
    for name in BASELINES:
        torch.testing.assert_close(
            one_batch[name].predict(batch.context_BSD), four_batches[name].predict(batch.context_BSD), atol=5e-5, rtol=0
        )


def test_a_mask_without_absent_vectors_equals_no_mask() -> None:
    batch = windows()
    masked = Batch(batch.context_BSD, batch.target_BD, batch.group_B, torch.ones(WINDOWS, CONTEXT, dtype=torch.bool))
    without_mask, with_mask = fit(batch), fit(masked)
    for name in BASELINES:
        for key, tensor in without_mask[name].state_dict().items():
            torch.testing.assert_close(tensor, with_mask[name].state_dict()[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_gives_float32_baselines(dtype: torch.dtype) -> None:
    batch = windows()
    typed = Batch(batch.context_BSD.to(dtype), batch.target_BD.to(dtype), batch.group_B, None)
    exact, fitted = fit(batch), fit(typed)
    for name in BASELINES:
        assert all(tensor.dtype == torch.float32 for tensor in fitted[name].state_dict().values())
        assert mean_cosine(fitted[name], batch) == pytest.approx(mean_cosine(exact[name], batch), abs=5e-3)


def test_fitting_without_windows_fails() -> None:
    with pytest.raises(InputError, match="no training windows"):
        fit()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["context", "target"])
def test_fitting_nonfinite_vectors_fails(bad: float, where: str) -> None:
    batch = windows()
    (batch.context_BSD if where == "context" else batch.target_BD)[5, ..., 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        fit(batch)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_vectors_give_finite_baselines(value: float) -> None:
    context_BSD, target_BD = torch.full((50, CONTEXT, DIMENSIONS), value), torch.full((50, DIMENSIONS), value)
    for baseline in fit(Batch(context_BSD, target_BD, torch.arange(50), None)).values():
        assert torch.isfinite(baseline.predict(context_BSD)).all()


def test_gradients_flow_through_predictions_but_buffers_have_none() -> None:
    context_BSD = windows().context_BSD.requires_grad_()
    for name, baseline in fit(windows()).items():
        prediction = baseline.predict(context_BSD)
        if name != "train-mean":
            prediction.sum().backward()
        assert not any(buffer.requires_grad or buffer.is_inference() for buffer in baseline.buffers())
