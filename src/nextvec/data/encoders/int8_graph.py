"""The transformer of a sentence encoder with int8 products: its graph, quantized and run by ONNX Runtime.

The graph is made once per machine, which takes about half a minute, and kept in the cache folder:

    graphs/KEY.onnx    SHA-256 of the graph (64 hexadecimal digits), then the graph; KEY is a hash of the weights, the
                       configuration and the versions of the packages that made it

Tokenizer, pooling and other layers stay those of sentence-transformers, so that they are the same in every precision.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextvec.core.cache_folder import cache_folder
from nextvec.core.console import quiet_libraries, show
from nextvec.core.files import write_bytes
from nextvec.core.locks import exclusive
from nextvec.errors import OutputError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""Packages that make and run the graph."""
GRAPHS = "graphs"
"""Folder of the graphs in the cache folder."""
VERSION = 1
"""Version of `_quantize`; part of the key."""
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "last_hidden_state"
_DIGEST = 64


def missing_package() -> str | None:
    """Return the name of the first package that is not installed; None if there are all."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), None)


class Int8Transformer(nn.Module):
    """A transformer that computes its token vectors with the quantized graph; keeps the float32 weights."""

    def __init__(self, exact: nn.Module, graph: bytes) -> None:
        super().__init__()
        # Layers of sentence-transformers read the configuration; an encoder's revision is a hash of the weights.
        self.exact, self.config = exact, exact.config
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> dict[str, Tensor]:
        """Return the vectors (B, L, D) of the tokens (B, L) as ``last_hidden_state``."""
        inputs = dict(zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        return {OUTPUT: torch.from_numpy(self._session.run(None, inputs)[0])}


def use_int8(transformer: Any, revision: str) -> nn.Module:
    """Give a Transformer of sentence-transformers int8 products; return its model before, to be put back.

    `revision` is a hash of its weights. Raises ValueError if the model is not one of tokens and a mask.
    """
    exact: nn.Module = transformer.model
    if transformer.modality_config.get("text") != {"method": "forward", "method_output_name": OUTPUT}:
        raise ValueError("it is not a model of tokens and a mask")
    transformer.model = Int8Transformer(exact, _load_graph(exact, revision))
    return exact


def _load_graph(exact: nn.Module, revision: str) -> bytes:
    """Return the graph of a model from the cache, or make it and keep it there."""
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "torch", "transformers")}
    facts = json.dumps([VERSION, revision, repr(exact.config), versions])
    file = cache_folder() / GRAPHS / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.onnx"
    if (graph := _read(file)) is not None:
        return graph
    try:
        # If several processes need the graph, one makes it. Without a writable cache, each has its own.
        with exclusive(file):
            if (graph := _read(file)) is None:
                graph = _make_graph(exact)
                write_bytes(file, hashlib.sha256(graph).hexdigest().encode() + graph)
    except OutputError:
        graph = graph or _make_graph(exact)
    return graph


def _read(file: Path) -> bytes | None:
    """Return the graph in a file of the cache; None if it is missing or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, graph = content[:_DIGEST], content[_DIGEST:]
    return graph if hashlib.sha256(graph).hexdigest().encode() == digest else None


def _make_graph(exact: nn.Module) -> bytes:
    """Export a model and quantize its products."""
    show(["making the int8 graph of the encoder, once on this machine (--precision fp32 needs none)"])
    with tempfile.TemporaryDirectory(prefix="nextvec-") as folder, quiet_libraries():
        exported, folded, quantized = (Path(folder, name) for name in ("exported", "folded", "quantized"))
        exported.write_bytes(_export(exact))
        # The quantizer only finds weights that are constants of the graph, not transposed or cast ones.
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        runtime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
        _quantize(folded, quantized)
        return quantized.read_bytes()


class _Tokens(nn.Module):
    """A transformer as a function of its two tensors, to be exported."""

    def __init__(self, exact: nn.Module) -> None:
        super().__init__()
        self.exact = exact

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_BLD: Tensor = self.exact(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[OUTPUT]
        return hidden_BLD


def _export(exact: Any) -> bytes:
    """Return a model in ONNX, for batches (B, L) of any size."""
    example = torch.ones(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch", min=1, max=65_536), 1: torch.export.Dim("length", min=2, max=512)}
    attention = exact.config._attn_implementation
    # Plain attention has a graph of a fifth fewer nodes than torch's fused one, and ONNX Runtime fuses its own.
    exact.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            # Without the exporter's own optimizer, which takes half of the time.
            program: Any = torch.onnx.export(
                _Tokens(exact).eval(),
                example,
                dynamo=True,
                dynamic_shapes=(axes, axes),
                input_names=INPUTS,
                output_names=[OUTPUT],
                optimize=False,
                verbose=False,
            )
    finally:
        exact.set_attn_implementation(attention)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _quantize(source: Path, target: Path) -> None:
    """Write a graph with int8 products: weights per output channel, inputs by the range that each has at run time."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load(source).graph
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    sizes = {node.name: weights[node.input[1]] for node in graph.node if node.input[1:] and node.input[1] in weights}
    # A layer with more inputs than outputs follows an activation, whose few large values take the range of all others.
    exact = [name for name, size in sizes.items() if len(size) == 2 and size[0] > size[1]]
    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=exact,
        per_channel=True,
        # 7 bits per weight: CPUs without VNNI add two products of 8 bits in 16, which overflows.
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
    )
