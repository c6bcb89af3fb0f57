"""What is written out for speed does what torch's own operations do: dropout from random bits."""

import pytest
import torch

from nextvec.models.base import drop


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(501, 1001, requires_grad=True)  # a number of elements that four doesn't divide
    dropped = drop(ones, share, training=True)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.004)
    assert float(dropped.detach().mean()) == pytest.approx(1.0, abs=0.02)
    assert dropped.detach().unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-4)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())
    assert not torch.equal(drop(ones, share, training=True), dropped), "each call draws anew"


def test_dropout_drops_numbers_each_by_itself() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(4000, 64), 0.5, training=True) > 0).double()
    together = torch.corrcoef(kept.T) - torch.eye(64)
    assert float(together.abs().max()) < 0.1


def test_dropout_rests_when_it_should() -> None:
    tensor = torch.randn(3, 5)
    assert torch.equal(drop(tensor, 0.5, training=False), tensor)
    assert torch.equal(drop(tensor, 0.0, training=True), tensor)
    assert torch.isfinite(drop(tensor, 0.9999999, training=True)).all()
