"""Services over a small text run. Most tests send requests through the application in process, without a socket."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from starlette.testclient import TestClient

from nextvec.data.store import Store
from nextvec.inference.model import LatentVectorModel
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.service import Service

BASE = "http://127.0.0.1"


@pytest.fixture(scope="session")
def service(text_run: Path, text_store: Store) -> Iterator[Service]:
    """A service that is ready."""
    service = Service()
    service.open(service.load(text_run, text_store.path, "cpu"))
    yield service
    service.close()


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The access log of `client`."""
    return tmp_path_factory.mktemp("serving") / "access.jsonl"


@pytest.fixture(scope="session")
def client(service: Service, log_file: Path) -> Iterator[TestClient]:
    """Sends requests to `service`; all of them share one event loop."""
    with TestClient(make_app(service, log=AccessLog(log_file)), BASE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def model(service: Service) -> LatentVectorModel:
    return service.runner.model


@pytest.fixture(scope="session")
def vectors(model: LatentVectorModel) -> Callable[..., Any]:
    """Makes random contexts (N, S, D) of unit vectors: ``vectors(2, 4)``."""

    def make(*shape: int, seed: int = 0) -> Any:
        drawn = np.random.default_rng(seed).normal(size=(*shape, model.dimensions)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)

    return make
