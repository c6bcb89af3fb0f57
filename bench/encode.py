"""Measure MiniLM encoding: precisions of nextvec, sentence-transformers, and its graph in OpenVINO and ONNX Runtime.

nextvec truncates texts to 128 tokens, the length that the model was trained with; sentence-transformers truncates to
256. So sentence-transformers is measured with 128 tokens too, and so are the graphs, in nextvec's batches. The graphs
are those that the library's own ONNX and OpenVINO backends (package optimum) would run. A row is skipped if its package
is missing. Cosines are to nextvec in float32; with --threads 1 times are CPU seconds.

    python bench/encode.py --threads 1 --texts 400
    python bench/encode.py --source articles.jsonl.gz       # other text than the documentation of Python
    python bench/encode.py --quality 150 --source articles.jsonl.gz

With --quality, the scores of the shipped model are compared instead: the first documents of the source are encoded in
float32 and in int8, and on both stores the baselines are fitted and the same windows are evaluated.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from common import arguments, finish, in_turns

from nextvec.data.documents import Columns
from nextvec.data.encoders import int8_graph
from nextvec.data.encoders import sentence_transformers as sentence
from nextvec.data.readers import read_documents
from nextvec.data.readers.python_docs import BUILTIN
from nextvec.data.splits import SplitPlan
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.errors import MissingExtraError
from nextvec.training.evaluate import evaluate_checkpoint

OLD_BUDGET = 8_192
"""Tokens per batch of the first release, in float32: the rate that the others are compared with."""


class Graph(torch.nn.Module):
    """The model as a function of token numbers and mask, to be exported."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        """Return the sentence embeddings (B, D)."""
        return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]


def openvino_graph(encoder, example):
    """Return the model compiled by OpenVINO in float32."""
    import openvino

    graph = openvino.convert_model(Graph(encoder._model).eval(), example_input=example)
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    return lambda ids, mask: request.infer([ids, mask])[0]


def onnx_graph(encoder, example, *, int8):
    """Return the model in ONNX Runtime, in float32 or with dynamic int8 products (per channel)."""
    import onnxruntime

    batch, length = torch.export.Dim("batch", min=1, max=8192), torch.export.Dim("length", min=2, max=512)
    shapes = {name: {0: batch, 1: length} for name in example}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "model.onnx"))
        torch.onnx.export(
            Graph(encoder._model).eval(),
            tuple(example.values()),
            file,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(example),
            dynamic_shapes=shapes,
        )
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(file, file + "8", per_channel=True, weight_type=QuantType.QInt8)
            file += "8"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda ids, mask: session.run(None, dict(zip(names, (ids, mask), strict=True)))[0]


def graph_encoder(encoder, run):
    """Return a function that encodes texts with a graph, in the encoder's batches."""
    tokenizer, size = encoder._model.tokenizer, encoder._model.max_seq_length

    def encode(texts):
        tokens = tokenizer(texts, truncation=True, max_length=size)["input_ids"]
        lengths = np.array([len(ids) for ids in tokens])
        order = np.argsort(-lengths, kind="stable")
        vectors = np.empty((len(texts), encoder.space.dimensions), np.float32)
        for start, stop in encoder._batches(lengths[order]):
            rows = order[start:stop]
            padded = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="np")
            vectors[rows] = run(padded["input_ids"], padded["attention_mask"])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def graph_variants(encoder):
    """Return the graphs whose packages are installed, as functions of texts."""
    example = dict(encoder._model.tokenizer(["Two texts", "of few words"], padding=True, return_tensors="pt"))
    example = {name: example[name] for name in ("input_ids", "attention_mask")}
    makers = {
        "OpenVINO, fp32": lambda: openvino_graph(encoder, example),
        "ONNX Runtime, fp32": lambda: onnx_graph(encoder, example, int8=False),
        "ONNX Runtime, dynamic int8": lambda: onnx_graph(encoder, example, int8=True),
    }
    variants = {}
    for name, make in makers.items():
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            variants[name] = graph_encoder(encoder, make())
    return variants


def read_texts(source, count):
    """Return the first `count` paragraphs of more than 80 characters."""
    texts = []
    for document in read_documents(source, Columns()):
        texts += [text for text in document.paragraphs if len(text) > 80]
        if len(texts) >= count:
            break
    return texts[:count]


def measure_quality(source, documents):
    """Return rows with the scores of the shipped model on vectors in float32 and in int8, and their difference."""
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            plan = SplitPlan(val=0.5)
            config = BuildConfig((source,), encoder="minilm", precision=precision, limit=documents, split=plan)
            store = build_store(config, Path(folder, precision), quiet=True)
            result = evaluate_checkpoint("wiki-minilm", data=str(store.path), device="cpu", quiet=True).splits["val"]
            model = next(iter(result.predictors.values()))
            scores[precision] = {
                "windows": result.windows,
                "cosine": model.cosine.value,
                "gain": result.gain.value,
                "MRR": result.retrieval_gain.mrr,
                "MRR gain": result.retrieval_gain.gain.value,
            }
    exact, int8 = scores.values()
    difference = {name: int8[name] - value for name, value in exact.items()}
    return [{"what": name, **row} for name, row in {**scores, "difference": difference}.items()]


def main():
    """Encode the same texts with every variant, in turns."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--source", default=f"{BUILTIN}/stdlib")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--graphs", action="store_true", help="also measure OpenVINO and ONNX Runtime")
    parser.add_argument("--quality", type=int, default=0, help="number of documents whose scores are compared")
    ours, _ = parser.parse_known_args()
    options = arguments(__doc__)
    if ours.quality:
        finish("encode-quality", measure_quality(ours.source, ours.quality), source=Path(ours.source).name)
        return
    try:
        encoders = {
            name: sentence.open_sentence_encoder("minilm", device="cpu", precision=name)
            for name in ("fp32", "bf16", *(["int8"] if int8_graph.missing_package() is None else []))
            if name != "bf16" or sentence.resolve_precision("auto", torch.device("cpu")) == torch.bfloat16
        }
    except MissingExtraError as error:
        finish("encode", [], skipped=str(error))
        return
    from sentence_transformers import SentenceTransformer

    exact = encoders["fp32"]

    def in_old_batches(texts):
        budget, sentence._TOKENS_PER_BATCH["cpu"] = sentence._TOKENS_PER_BATCH["cpu"], OLD_BUDGET
        try:
            return exact.encode(texts)
        finally:
            sentence._TOKENS_PER_BATCH["cpu"] = budget

    plain, truncating = (SentenceTransformer(str(sentence._minilm_folder()), device="cpu") for _ in range(2))
    truncating.max_seq_length = sentence.MINILM_TOKENS
    encode = {
        "nextvec, fp32, batches of 8,192 tokens": in_old_batches,
        **{f"nextvec, {name}": encoder.encode for name, encoder in encoders.items()},
        "sentence-transformers, 256 tokens (its default)": plain.encode,
        "sentence-transformers, 128 tokens": truncating.encode,
        **(graph_variants(exact) if ours.graphs else {}),
    }
    texts = read_texts(ours.source, ours.texts)
    vectors = {name: np.asarray(function(texts)) for name, function in encode.items()}
    rates = in_turns({name: lambda f=f: len(f(texts)) for name, f in encode.items()}, options.rounds)
    base = next(iter(rates.values()))["median"]
    rows = []
    for name, rate in rates.items():
        lengths = np.linalg.norm(vectors[name], axis=1) * np.linalg.norm(vectors["nextvec, fp32"], axis=1)
        cosines = (vectors[name] * vectors["nextvec, fp32"]).sum(axis=1) / lengths
        row = {"what": name, "texts/s": rate["median"], "spread": rate["spread"], "ratio": rate["median"] / base}
        rows.append(row | {"mean cosine": float(cosines.mean()), "lowest cosine": float(cosines.min())})
    finish("encode", rows, texts=len(texts), source=Path(ours.source).name)


if __name__ == "__main__":
    main()
