"""The native update of the weights against torch's clipping, AdamW and moving average."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nextvec import ops
from nextvec.ops.weights import CHUNK

SHAPES = ((3, 5), (7,), (2, CHUNK), (1,), (CHUNK - 1,))
"""Tensors smaller than a chunk, of whole chunks, and between."""
RATE, BETAS, EPSILON, DECAYS, FACTORS = 1e-2, (0.9, 0.999), 1e-8, (0.1, 0.0), (1.0, 0.25)


def make_weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def update(
    weights: Sequence[Tensor], averages: Sequence[Tensor | None], gradients: Sequence[Tensor], state: dict
) -> bool:
    """Update natively; the tensors have different factors and decays in turn."""
    updates = []
    for number, (tensor, average, gradient) in enumerate(zip(weights, averages, gradients, strict=True)):
        moments = state.setdefault(number, (torch.zeros_like(tensor), torch.zeros_like(tensor), torch.zeros(())))
        updates.append(
            ops.WeightUpdate(
                tensor.detach(), gradient, *moments[:2], average, moments[2], FACTORS[number % 2], DECAYS[number % 2]
            )
        )
    return ops.update_weights(updates, rate=RATE, betas=BETAS, epsilon=EPSILON, average_decay=0.7)


def train(threads: int, steps: int = 6) -> tuple[list[Tensor], list[Tensor], dict]:
    """Return weights, averages and state after some native steps."""
    weights, state, generator = make_weights(), {}, torch.Generator().manual_seed(1)
    averages = [tensor.detach().clone() for tensor in weights]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(steps):
            gradients = [torch.randn(shape, generator=generator) for shape in SHAPES]
            if not update(weights, averages, gradients, state):
                pytest.skip("no native ops")
    finally:
        torch.set_num_threads(before)
    return [tensor.detach() for tensor in weights], averages, state


def test_the_update_equals_torchs_up_to_rounding() -> None:
    weights, averages, state = train(threads=1)
    expected, generator = make_weights(), torch.Generator().manual_seed(1)
    groups = [{"params": expected[number::2], "weight_decay": DECAYS[number]} for number in range(2)]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON, fused=True)
    expected_averages = [tensor.detach().clone() for tensor in expected]
    for _ in range(6):
        for number, tensor in enumerate(expected):
            tensor.grad = torch.randn(SHAPES[number], generator=generator) * FACTORS[number % 2]
        optimizer.step()
        torch._foreach_lerp_(expected_averages, [tensor.detach() for tensor in expected], 1 - 0.7)
    for number, tensor in enumerate(expected):
        torch.testing.assert_close(weights[number], tensor.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(averages[number], expected_averages[number], rtol=1e-5, atol=1e-6)
        saved = optimizer.state[tensor]
        for mine, name in zip(state[number], ("exp_avg", "exp_avg_sq", "step"), strict=True):
            torch.testing.assert_close(mine, saved[name], rtol=1e-5, atol=1e-7)


def test_the_update_does_not_depend_on_the_number_of_threads() -> None:
    (weights, averages, _), (weights_2, averages_2, _) = train(threads=1), train(threads=2)
    for mine, other in zip([*weights, *averages], [*weights_2, *averages_2], strict=True):
        assert torch.equal(mine, other)


def test_without_the_c_code_or_with_other_formats_nothing_changes() -> None:
    weights = make_weights()
    before = [tensor.detach().clone() for tensor in weights]
    gradients = [torch.ones(shape) for shape in SHAPES]
    with ops.native_ops(False):
        assert not update(weights, [None] * len(SHAPES), gradients, {})
    doubles = [tensor.detach().double() for tensor in weights]
    assert not update(doubles, [None] * len(SHAPES), [tensor.double() for tensor in gradients], {})
    assert all(torch.equal(tensor, value) for tensor, value in zip(weights, before, strict=True))
