"""Recurrent networks step by step give what torch's own kernels give."""

import pytest
import torch
from torch import nn

from nextvec.models import layers as steps
from nextvec.models.layers import run_recurrent


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_equals_torch(kind: type[nn.LSTM] | type[nn.GRU], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = kind(12, 16, 2, batch_first=True)
    input_BSD = torch.randn(5, 7, 12, requires_grad=True)
    expected = module(input_BSD)[0]
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in (*module.parameters(), input_BSD)]
    for parameter in (*module.parameters(), input_BSD):
        parameter.grad = None
    monkeypatch.setattr(steps.torch, "is_autocast_enabled", lambda device: True)  # its steps, in float32
    found = run_recurrent(module, input_BSD)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip((*module.parameters(), input_BSD), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_bfloat16_is_near(kind: type[nn.LSTM] | type[nn.GRU]) -> None:
    torch.manual_seed(0)
    module, input_BSD = kind(12, 16, 2, batch_first=True), torch.randn(5, 7, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        near = run_recurrent(module, input_BSD)
    torch.testing.assert_close(near.float(), module(input_BSD)[0].detach(), atol=0.03, rtol=0)


def test_dropout_lies_between_the_layers() -> None:
    torch.manual_seed(0)
    module, input_BSD = nn.LSTM(12, 16, 2, batch_first=True, dropout=0.5), torch.randn(5, 7, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(run_recurrent(module, input_BSD), run_recurrent(module, input_BSD))
        module.eval()
        assert torch.equal(run_recurrent(module, input_BSD), run_recurrent(module, input_BSD))
