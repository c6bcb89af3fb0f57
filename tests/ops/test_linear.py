"""Linear layers with int16 products against float64, and what must never happen to their integers."""

import copy
from collections.abc import Iterator

import pytest
import torch
from tests.ops.test_ops import require_native
from torch import nn
from torch.nn import functional as F

from nextvec import ops
from nextvec.ops.linear import Int16Linear


@pytest.fixture(autouse=True)
def int16() -> None:
    require_native()
    if not ops.has_int16():
        pytest.skip("this CPU has no fast int16 products")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(inputs: int, outputs: int, *, bias: bool = True) -> tuple[nn.Linear, Int16Linear]:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    layers = ops.use_int16(model := nn.Sequential(copy.deepcopy(linear)))
    assert list(layers) == ["0"]
    layer = model[0]
    assert isinstance(layer, Int16Linear)
    return linear, layer


# Rows below, at and above the sizes of a tile (6) and a block (48).
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 48, 101])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 32), (384, 96), (1536, 64)])
def test_products_are_close_to_float64(rows: int, inputs: int, outputs: int) -> None:
    linear, layer = make(inputs, outputs, bias=rows != 6)
    x = torch.randn(3, rows, inputs) * torch.logspace(-6, 6, rows or 1)[:rows, None]  # each row has its own scale
    with torch.no_grad():
        expected = F.linear(x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double())
        error = (layer(x).double() - expected).norm(dim=-1)
    size = x.double().norm(dim=-1) * linear.weight.double().norm() / outputs**0.5
    assert layer(x).shape == (3, rows, outputs)
    assert bool((error <= 2e-3 * size + 1e-6).all())


@pytest.mark.parametrize("inputs", [384, 4096])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_numbers_do_not_overflow(inputs: int, sign: float) -> None:
    linear = nn.Linear(inputs, 32, bias=False)
    nn.init.constant_(linear.weight, sign)
    ops.use_int16(model := nn.Sequential(linear))
    assert model(torch.ones(7, inputs)) == pytest.approx(sign * inputs, rel=1e-2)


def test_a_row_does_not_depend_on_other_rows_or_threads(threads: None) -> None:
    _, layer = make(384, 96)
    x = torch.randn(100, 384)
    together = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(0, 100, 7))
    for count in (1, 2):
        torch.set_num_threads(count)
        assert torch.equal(layer(x), together)
    assert torch.equal(layer(x.T.contiguous().T), together)  # strides do not matter


def test_non_finite_numbers_stay_in_their_row() -> None:
    _, layer = make(384, 32)
    x = torch.randn(8, 384)
    clean = layer(x)
    x[1, 5], x[3, 0], x[5, 383] = torch.nan, torch.inf, -torch.inf
    x[6], x[7] = 0, x[7] * 1e-42
    outputs = layer(x)
    assert outputs[[1, 3, 5]].isnan().all()
    assert torch.equal(outputs[[0, 2, 4]], clean[[0, 2, 4]])
    assert torch.equal(outputs[6], layer.bias)
    assert torch.equal(outputs[7], layer.bias)  # too small to have a scale


def test_layers_that_do_not_fit_stay_as_they_are_and_all_can_be_restored() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 33), nn.Linear(64, 32)))
    before = [id(layer) for layer in model.modules()]
    parameters = [id(parameter) for parameter in model.parameters()]
    replaced = ops.use_int16(model)
    assert list(replaced) == ["0", "1.2"]
    assert [id(parameter) for parameter in model.parameters()] == parameters  # the revision is a hash of these
    ops.restore_linear(model, replaced)
    assert [id(layer) for layer in model.modules()] == before


def test_without_the_c_code_the_float32_weights_are_used() -> None:
    linear, layer = make(64, 32)
    x = torch.randn(4, 64)
    with ops.native_ops(False), torch.no_grad():
        assert not ops.has_int16()
        assert torch.equal(layer(x), linear(x))
        assert layer(x.double().float()).dtype == torch.float32
