"""Measure exports: a graph's parity with its network on 1,000 windows, its size, and its time to the first prediction.

python bench/export.py [--model MODEL --store STORE]

Without a model, a new network of every kind is measured on windows of the synthetic store. Times are wall-clock
seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import torch
from common import OUT, arguments, finish, open_run, store_path

from nextvec.core.files import make_folder
from nextvec.data.store import open_store
from nextvec.data.windows import Batch, gather, index_windows, sample
from nextvec.inference.graph import write_onnx
from nextvec.inference.load import load_model
from nextvec.inference.model import LatentVectorModel

WINDOWS, BATCHES, KINDS = 1000, (1, 5, 32), ("amn", "lstm", "gru", "transformer")
FIRST_PREDICTION = """
import numpy, onnxruntime, sys
session = onnxruntime.InferenceSession(sys.argv[1])
shape = (1, 1, session.get_inputs()[0].shape[2])
session.run(None, {"context": numpy.ones(shape, numpy.float32), "mask": numpy.ones(shape[:2], bool)})
"""


def windows_of(model: LatentVectorModel, store: str) -> Batch:
    """Return 1,000 random windows of all splits of a store, in float32."""
    source = open_store(store)
    windows = index_windows(source.documents, None, model.context_length, model.min_context)
    index = sample(len(windows), min(WINDOWS, len(windows)), 0)
    rows = torch.from_numpy(np.array(source.vectors, np.float32))
    return gather(rows, windows, index)


def max_difference(model: LatentVectorModel, session, batch: Batch, size: int) -> float:
    """Return the largest difference between an element of the graph's outputs and the network's."""
    mask_BS = batch.mask_BS if batch.mask_BS is not None else torch.ones(batch.context_BSD.shape[:2], dtype=torch.bool)
    largest = 0.0
    for context_BSD, part_BS in zip(batch.context_BSD.split(size), mask_BS.split(size), strict=True):
        outputs = session.run(None, {"context": context_BSD.numpy(), "mask": part_BS.numpy()})
        for name, output in zip(model.outputs, outputs, strict=True):
            with torch.no_grad():
                expected_BD = getattr(model.network, {"prediction": "predict"}.get(name, name))(context_BSD, part_BS)
            largest = max(largest, float(np.abs(output - expected_BD.numpy()).max()))
    return largest


def main():
    """Measure and write the table."""
    options = arguments(__doc__)
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="")
    name = parser.parse_known_args()[0].model
    store = store_path(options.store)
    if name:
        models = [load_model(name)]
    else:
        networks = [open_run(store, f"model.kind={kind}").model.eval() for kind in KINDS]
        space = open_store(store).space
        models = [LatentVectorModel(network, network.name, space, 5) for network in networks]
    rows, file = [], OUT / "model.onnx"
    make_folder(OUT)
    for model in models:
        begin = time.perf_counter()
        write_onnx(model, file)
        row = {"network": model.network.name, "context": model.context_length, "D": model.dimensions}
        row |= {"export s": time.perf_counter() - begin, "MB": file.stat().st_size / 1e6}
        session, batch = onnxruntime.InferenceSession(file), windows_of(model, store)
        row |= {f"difference, batch {size}": max_difference(model, session, batch, size) for size in BATCHES}
        times = []
        # A fresh process: the import of onnxruntime is part of the time to the first prediction.
        for _ in range(options.rounds):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", FIRST_PREDICTION, str(file)], check=True)
            times.append(time.perf_counter() - begin)
        rows.append(row | {"start to first prediction s": min(times)})
    finish("export", rows, source=name or "new networks", windows=len(batch.context_BSD))


if __name__ == "__main__":
    main()
