"""A network as a graph for other runtimes: ONNX for onnxruntime, pt2 for torch alone. It needs no code of nextvec.

    inputs     context  (B, S, D) float32, unit vectors, oldest first; any B, any S up to the context length
               mask     (B, S) bool, True where a vector is present; absent ones are the oldest
    outputs    prediction and query (B, D) float32, unit length; query only if the network has one

Letters in names: B contexts of a batch, S context length, D dimensions.
"""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextvec import ops
from nextvec.core.console import quiet_libraries
from nextvec.core.files import write_bytes
from nextvec.errors import MissingExtraError
from nextvec.inference.model import LatentVectorModel
from nextvec.models.base import LatentModel

ONNX_FILE = "model.onnx"
PT2_FILE = "model.pt2"
OPSET = 20


class PaddedNetwork(nn.Module):
    """All outputs of a network, for contexts of any length up to `context_length`.

    Every context is padded to the full length with absent vectors, which never change an output. The network's own
    graph then has one length, so that its loops over steps can be unrolled.
    """

    def __init__(self, network: LatentModel, context_length: int) -> None:
        super().__init__()
        self.network = network
        self.context_length = context_length

    def forward(self, context_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, ...]:
        """Return the prediction and, if the network has one, the query; each (B, D)."""
        batch, length = context_BSD.shape[0], self.context_length
        # Put absent vectors before the oldest, then keep the newest `length`.
        padding_BSD = context_BSD.new_zeros(batch, length, context_BSD.shape[2])
        context_BSD = torch.cat([padding_BSD, context_BSD], dim=1)[:, -length:]
        mask_BS = torch.cat([mask_BS.new_zeros(batch, length), mask_BS], dim=1)[:, -length:]
        prediction_BD = self.network.predict(context_BSD, mask_BS)
        if not self.network.has_query:
            return (prediction_BD,)
        return prediction_BD, self.network.query(context_BSD, mask_BS)


def write_onnx(model: LatentVectorModel, file: Path) -> None:
    """Write the network as an ONNX file. Raises MissingExtraError if the packages of the extra onnx are missing."""
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(package, "onnx", "export to ONNX") from error
    network, example, shapes = _export_inputs(model)
    with quiet_libraries(), torch.no_grad(), ops.native_ops(False):
        program: Any = torch.onnx.export(
            network,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["context", "mask"],
            output_names=list(model.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    # One file: the weights of the largest network are far below the limit of 2 GB.
    write_bytes(file, program.model_proto.SerializeToString())


def write_pt2(model: LatentVectorModel, file: Path) -> None:
    """Write the network as a `torch.export` program, which `torch.export.load` reads."""
    network, example, shapes = _export_inputs(model)
    with quiet_libraries(), torch.no_grad(), ops.native_ops(False):
        program = torch.export.export(network, example, dynamic_shapes=shapes, strict=False)
        content = io.BytesIO()
        torch.export.save(program, content)
    write_bytes(file, content.getbuffer())


def _export_inputs(model: LatentVectorModel) -> tuple[PaddedNetwork, tuple[Tensor, Tensor], Any]:
    """Return the network on the CPU in float32, example inputs, and the dynamic axes of both."""
    network = PaddedNetwork(model.network.cpu().float(), model.context_length).eval()
    # A size of 1 would become a constant of the graph, so the example has more of everything.
    length = max(2, model.context_length)
    example = torch.randn(3, length, model.dimensions), torch.ones(3, length, dtype=torch.bool)
    batch, steps = torch.export.Dim("batch"), torch.export.Dim("length", min=1, max=length)
    return network, example, ({0: batch, 1: steps}, {0: batch, 1: steps})
