"""What is written out for speed does what torch's own operations do: dropout from random bits, joined means."""

import pytest
import torch
import torch.nn.functional as F

from nextvec.models.base import drop
from nextvec.models.mixture import side_by_side


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


def test_joined_means_and_their_gradient_are_those_of_plain_products() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 3, 5, generator=generator).softmax(dim=2).requires_grad_()
    context, matrix = torch.randn(6, 5, 8, generator=generator), torch.randn(24, 8, generator=generator)
    first, joined = side_by_side(weights, context)
    means = torch.bmm(weights, context)
    assert torch.equal(first, means[:, 0]) and torch.equal(joined, means.flatten(1))
    (found,) = torch.autograd.grad((first + joined @ matrix).square().sum(), weights)
    (expected,) = torch.autograd.grad((means[:, 0] + means.flatten(1) @ matrix).square().sum(), weights)
    torch.testing.assert_close(found, expected)


def test_joined_means_are_in_the_format_of_products() -> None:
    weights, context = torch.full((2, 2, 3), 1 / 3, requires_grad=True), F.normalize(torch.randn(2, 3, 4), dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        first, joined = side_by_side(weights, context)
    assert (first.dtype, joined.dtype) == (torch.float32, torch.bfloat16)
    (first.sum() + joined.float().sum()).backward()
    assert weights.grad is not None and weights.grad.dtype == torch.float32
