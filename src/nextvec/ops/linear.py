"""Linear layers with int16 products: twice the speed of float32 on CPUs without fast bfloat16.

A row of the input has 12 bits and a sign, and a weight about 11 bits, each with a scale per row or output: the relative
error is about 2e-4, where bfloat16 has 4e-3. The sums are exact integers, so that a row's result depends on this row
alone, not on the batch or the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nextvec.ops.native import native_library

_INPUT_LIMIT = 4095
"""Largest integer of an input."""
_WEIGHTS_LIMIT = 2**19
"""Largest sum of the absolute integer weights of an output: 2¹⁹ × 4095 is less than 2³¹, so that no sum overflows."""
_WEIGHT_LIMIT = 32767


class Int16Linear(nn.Module):
    """A linear layer of a trained model with int16 products, for inference on the CPU. Keeps the float32 weights."""

    def __init__(self, linear: nn.Linear, panel: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Some models read the format of a layer's weight, and an encoder's revision is a hash of all weights.
        self.weight, self.bias = linear.weight, linear.bias
        weight_NK = linear.weight.detach()
        largest_N = weight_NK.abs().amax(dim=1).clamp(min=1e-30)
        total_N = weight_NK.abs().sum(dim=1, dtype=torch.float64).clamp(min=1e-30)
        # Half a unit per weight, by which rounding may raise the sum, is kept free.
        room = _WEIGHTS_LIMIT - self.in_features / 2
        factor_N = torch.minimum(_WEIGHT_LIMIT / largest_N, (room / total_N).float())
        rounded_NK = torch.round(weight_NK * factor_N[:, None]).to(torch.int16)
        # The order in which the C code reads: panels of outputs, and in them pairs of inputs.
        pairs = rounded_NK.view(self.out_features // panel, panel, self.in_features // 2, 2)
        self._packed = pairs.permute(0, 2, 1, 3).contiguous()
        self._scales_N = 1 / factor_N
        bias = linear.bias if linear.bias is not None else torch.zeros(self.out_features)
        self._bias_N = bias.detach().clone()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (..., N) of float32 inputs (..., K). Records no gradient."""
        library = native_library()
        # Without the C code (`native_ops(False)`), the float32 weights are still here.
        if library is None or not inputs.is_cpu or inputs.dtype != torch.float32:
            return functional.linear(inputs, self.weight, self.bias)
        inputs_MK = inputs.detach().reshape(-1, self.in_features).contiguous()
        rows = len(inputs_MK)
        outputs = torch.empty(*inputs.shape[:-1], self.out_features)
        quantized_MK = torch.empty(rows, self.in_features, dtype=torch.int16)
        row_scales_M = torch.empty(rows)
        tensors = (outputs, inputs_MK, self._packed, self._scales_N, self._bias_N, quantized_MK, row_scales_M)
        addresses = [tensor.data_ptr() for tensor in tensors]
        library.nextvec_linear(*addresses, _INPUT_LIMIT, rows, self.out_features, self.in_features)
        return outputs


def has_int16() -> bool:
    """Return whether this CPU has fast int16 products, and the C code for them is available."""
    library = native_library()
    return library is not None and library.nextvec_linear_panel() > 0


def use_int16(model: nn.Module) -> dict[str, nn.Linear]:
    """Replace the linear layers of a float32 model on the CPU in place, as far as the C code fits their shape.

    Returns the replaced layers by name, for `restore_linear`. Call `has_int16` first.
    """
    library = native_library()
    assert library is not None
    panel = library.nextvec_linear_panel()
    replaced = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer.out_features % panel == 0 and layer.in_features % 2 == 0
    }
    for name, layer in replaced.items():
        model.set_submodule(name, Int16Linear(layer, panel))
    return replaced


def restore_linear(model: nn.Module, layers: dict[str, nn.Linear]) -> None:
    """Put back the layers that `use_int16` replaced."""
    for name, layer in layers.items():
        model.set_submodule(name, layer)
