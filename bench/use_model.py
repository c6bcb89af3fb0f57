"""Measure a model in use: loading, prediction next to the bare network, and text → next chunk of 200,000 chunks.

python bench/use_model.py [--rounds N] [--threads 1]

The vectors of the index are random; the texts are encoded by minilm (extra: minilm). With one thread, all times are CPU
seconds, except the time from the start of Python to the first prediction, which is wall-clock time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import OUT, arguments, finish, in_turns, now, summary

from nextvec.core.files import make_folder
from nextvec.data.encoders import open_encoder
from nextvec.data.store import DocumentTable, Store
from nextvec.inference.index import StoreIndex
from nextvec.inference.load import load_model
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.model_folder import write_model_folder
from nextvec.models.baselines import CopyLast, DecayedMean
from nextvec.models.registry import model_from_config

CHUNKS, CONTEXT, WINDOWS = 200_000, 5, 1024
TEXT = "The harbor was built on the northern bank of the river, where the tide leaves a deep channel at all hours. "
FIRST_PREDICTION = (
    "import nextvec, numpy; m = nextvec.load_model({path!r}); m.predict(numpy.eye(m.dimensions, dtype='float32')[:5])"
)


def random_unit(*shape: int) -> np.ndarray:
    """Return random unit vectors."""
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_index(space) -> StoreIndex:
    """Return an index of random float16 vectors in documents of 20 chunks, without texts."""
    count = CHUNKS // 20
    names, first = [f"d{n}" for n in range(count)], np.arange(count) * 20
    zeros = np.zeros(count, np.int8)
    table = DocumentTable(names, names, names, zeros, first, np.full(count, 20), np.arange(count))
    vectors = random_unit(CHUNKS, space.dimensions).astype(np.float16)
    return StoreIndex(Store(OUT / "random", {}, space, vectors, table))


def median_ms(function, rounds: int) -> float:
    """Return the median time of a call in milliseconds, after one call that warms up."""
    times = []
    for _ in range(rounds + 1):
        begin = now()
        function()
        times.append(now() - begin)
    return 1000 * summary(times[1:])["median"]


def main():
    """Measure and write the table."""
    options = arguments(__doc__)
    encoder = open_encoder("minilm", device="cpu")
    dimensions, rows = encoder.space.dimensions, []
    baselines = {model.name: model.eval() for model in (CopyLast(dimensions), DecayedMean(dimensions))}
    for kind in ("amn", "gru"):
        network = model_from_config({"kind": kind, "variant": "residual", "dimensions": dimensions}).eval()
        model = LatentVectorModel(network, kind, encoder.space, CONTEXT, encoder_name="minilm", baselines=baselines)
        windows = random_unit(WINDOWS, CONTEXT, dimensions)
        tensor = torch.from_numpy(windows)

        def bare(network=network, tensor=tensor) -> int:
            with torch.no_grad():
                network.predict(tensor)
            return WINDOWS

        def used(model=model, windows=windows) -> int:
            model.predict(windows)
            return WINDOWS

        rates = in_turns({"bare": bare, "used": used}, options.rounds)
        row = {"network": kind, "windows/s": rates["used"]["median"]}
        rows.append(row | {"of the bare network": rates["used"]["median"] / rates["bare"]["median"]})

    index, texts = make_index(encoder.space), [f"{TEXT * 4}{n}" for n in range(CONTEXT)]
    model.next(texts, index)  # opens the encoder and copies the vectors
    encode_ms = median_ms(lambda: model.encode(texts), options.rounds)
    next_ms = median_ms(lambda: model.next(texts, index), options.rounds)
    rows.append({"encode 5 texts ms": encode_ms, "text → next chunk ms": next_ms, "ratio": next_ms / encode_ms})

    # A fresh process: the import of torch is part of the time to the first prediction.
    folder = OUT / "use-model"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(OUT)
    write_model_folder(model, folder)
    assert load_model(folder).dimensions == dimensions
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_PREDICTION.format(path=str(Path(folder)))], check=True)
    rows.append({"start to first prediction s": time.perf_counter() - begin})
    finish("use_model", rows)


if __name__ == "__main__":
    main()
