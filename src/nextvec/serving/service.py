"""The state of the service: loading, ready or stopping, with its model, its index and its queue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import nextvec
from nextvec.errors import NextvecError
from nextvec.inference.index import open_index
from nextvec.inference.index_types import Index
from nextvec.inference.load import load_model
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.next_chunks import require_same_space
from nextvec.serving.access_log import RequestRecord
from nextvec.serving.batching import Batcher, Work
from nextvec.serving.errors import CLIENT_GONE, RequestError
from nextvec.serving.limits import (
    MAX_BODY_BYTES,
    MAX_CONTEXTS,
    MAX_K,
    MAX_QUEUED,
    MAX_STEPS,
    MAX_TEXT_CHARS,
    MAX_TEXTS,
    RETRY_AFTER,
)
from nextvec.serving.metrics import Metrics
from nextvec.serving.work import ModelRunner

LOADING, READY, STOPPING = "loading", "ready", "stopping"
LIMITS = {
    "body_bytes": MAX_BODY_BYTES,
    "contexts": MAX_CONTEXTS,
    "texts": MAX_TEXTS,
    "text_chars": MAX_TEXT_CHARS,
    "k": MAX_K,
    "steps": MAX_STEPS,
    "queued": MAX_QUEUED,
}


def open_model(
    model: str | Path | LatentVectorModel, index: str | Path | Index | None, device: str
) -> tuple[LatentVectorModel, Index | None]:
    """Return the model and the index of a service. Raises the errors of `load_model` and `open_index`."""
    loaded = model if isinstance(model, LatentVectorModel) else load_model(model, device)
    opened = open_index(index) if index is not None else None
    if opened is not None:
        require_same_space(loaded, opened)
    return loaded, opened


class Service:
    """A model that answers requests. It is loading until `open` is called."""

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        """Make a service whose metrics have the `labels`."""
        self.state = LOADING
        self.metrics = Metrics(labels)
        self.encoder_error: str | None = None
        self._runner: ModelRunner | None = None
        self._batcher: Batcher | None = None
        self.metrics.watch(lambda: self.state == READY, lambda: len(self._batcher or ()))

    def load(self, model: str | Path | LatentVectorModel, index: str | Path | Index | None, device: str) -> ModelRunner:
        """Load the model and the index and run both once. Raises the errors of `load_model` and `open_index`."""
        loaded, opened = open_model(model, index, device)
        if opened is not None:
            opened.search(np.zeros((1, loaded.dimensions), np.float32), 1)  # reads all vectors
        unit = np.eye(1, loaded.dimensions, dtype=np.float32)
        loaded.predict([unit])
        # Without its encoder, a model still predicts from vectors.
        try:
            loaded.encode(["a text"])
        except NextvecError as error:
            self.encoder_error = str(error)
        return ModelRunner(loaded, opened)

    def open(self, runner: ModelRunner) -> None:
        """Accept requests."""
        self._runner = runner
        self._batcher = Batcher(runner.run, observe=self.metrics.count_batch)
        model = runner.model
        self.metrics.describe_model(
            model=model.source, network=model.network.name, space=str(model.space), version=nextvec.__version__
        )
        if self.state == LOADING:
            self.state = READY

    def stop_accepting(self) -> None:
        """Refuse new requests; those that were accepted are still answered."""
        self.state = STOPPING

    def close(self) -> None:
        """Refuse what still waits in the queue, and end the thread of the model."""
        self.state = STOPPING
        if self._batcher is not None:
            self._batcher.close()

    @property
    def runner(self) -> ModelRunner:
        """The model and its index. Raises RequestError (503) unless the service is ready."""
        if self.state != READY or self._runner is None:
            headers = RETRY_AFTER | ({"connection": "close"} if self.state == STOPPING else {})
            raise RequestError(f"The service is {self.state}.", 503, headers)
        return self._runner

    @property
    def batcher(self) -> Batcher:
        """The queue of a service that was opened."""
        assert self._batcher is not None, "the service is not open"
        return self._batcher

    def require_texts(self, *, needs_index: bool) -> None:
        """Raise RequestError (409) unless texts can be encoded and, if it is needed, there is an index."""
        runner = self.runner
        if self.encoder_error is not None:
            raise RequestError(self.encoder_error, 409)
        if needs_index and runner.index is None:
            raise RequestError("The service has no index. Start it with --index STORE.", 409)

    async def run(self, work: Work, record: RequestRecord) -> Any:
        """Return the result of work, which runs in a batch with that of other requests."""
        job = self.batcher.submit(work)
        record.waiting = job.future
        try:
            return await job.future
        except asyncio.CancelledError:
            if record.is_gone:
                raise RequestError("The client has gone.", CLIENT_GONE) from None
            raise
        finally:
            record.waiting = None
            record.batch_size = job.batch_size or None

    def describe(self) -> dict[str, Any]:
        """Return the response of `GET /v1/model`."""
        model, index = self.runner.model, self.runner.index
        return {
            "model": model.source,
            "network": model.network.name,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "space": {name: getattr(model.space, name) for name in ("encoder", "revision", "dimensions")},
            "dimensions": model.dimensions,
            "context_length": model.context_length,
            "outputs": list(model.outputs),
            "baselines": sorted(model.baselines),
            "encoder_error": self.encoder_error,
            "index": None if index is None else {"name": index.name, "chunks": len(index)},
            "limits": LIMITS,
            "version": nextvec.__version__,
        }
