"""LSTM and GRU step by step against torch's own modules."""

import pytest
import torch
from torch import nn

from nextvec.models import layers
from nextvec.models.layers import run_recurrent


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_steps_equal_torchs_modules(kind: type[nn.LSTM] | type[nn.GRU], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = kind(12, 16, 2, batch_first=True)
    input_BSD = torch.randn(5, 7, 12, requires_grad=True)
    expected = module(input_BSD)[0]
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in (*module.parameters(), input_BSD)]
    for parameter in (*module.parameters(), input_BSD):
        parameter.grad = None
    monkeypatch.setattr(
        layers.torch, "is_autocast_enabled", lambda device: True
    )  # takes the path of autocast, in float32
    actual = run_recurrent(module, input_BSD)
    actual.square().sum().backward()
    torch.testing.assert_close(actual, expected)
    for parameter, gradient in zip((*module.parameters(), input_BSD), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_bfloat16_steps_are_close_to_float32(kind: type[nn.LSTM] | type[nn.GRU]) -> None:
    torch.manual_seed(0)
    module, input_BSD = kind(12, 16, 2, batch_first=True), torch.randn(5, 7, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        near = run_recurrent(module, input_BSD)
    torch.testing.assert_close(near.float(), module(input_BSD)[0].detach(), atol=0.03, rtol=0)


def test_dropout_between_layers_acts_in_training_only() -> None:
    torch.manual_seed(0)
    module, input_BSD = nn.LSTM(12, 16, 2, batch_first=True, dropout=0.5), torch.randn(5, 7, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(run_recurrent(module, input_BSD), run_recurrent(module, input_BSD))
        module.eval()
        assert torch.equal(run_recurrent(module, input_BSD), run_recurrent(module, input_BSD))
