"""The fast dropout of the CPU against the definition of dropout."""

import pytest
import torch

from nextvec.models.base import dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_fraction_p_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(501, 1001, requires_grad=True)  # the number of elements is not divisible by four
    dropped = dropout(ones, share, training=True)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.004)
    assert float(dropped.detach().mean()) == pytest.approx(1.0, abs=0.02)
    assert dropped.detach().unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-4)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())
    assert not torch.equal(dropout(ones, share, training=True), dropped), "each call draws new random numbers"


def test_dropout_zeroes_elements_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(4000, 64), 0.5, training=True) > 0).double()
    together = torch.corrcoef(kept.T) - torch.eye(64)
    assert float(together.abs().max()) < 0.1


def test_dropout_does_nothing_in_evaluation_or_at_p_zero() -> None:
    tensor = torch.randn(3, 5)
    assert torch.equal(dropout(tensor, 0.5, training=False), tensor)
    assert torch.equal(dropout(tensor, 0.0, training=True), tensor)
    assert torch.isfinite(dropout(tensor, 0.9999999, training=True)).all()
