"""Services over a small text run. Most tests send requests through the application in process, without a socket."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

import uvicorn
from starlette.testclient import TestClient

from nextvec.data.store import Store
from nextvec.inference.model import LatentVectorModel
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.protocol import BoundedProtocol
from nextvec.serving.service import Service
from nextvec.web.listen import address_of, bind

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


@dataclass
class RealServer:
    """A server on a socket of this machine."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return address_of("127.0.0.1", self.port, "")

    @property
    def printed_url(self) -> str:
        """The URL for a browser, with the token."""
        return address_of("127.0.0.1", self.port, self.token)


@contextmanager
def serve_app(service: Service, log_file: Path, token: str = "") -> Iterator[RealServer]:
    """Serve a service that is ready on a real socket, from a thread; it stays open for other servers."""
    opened, log = bind("127.0.0.1", 0), AccessLog(log_file)
    config = uvicorn.Config(
        make_app(service, token=token, log=log), http=BoundedProtocol, ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    yield RealServer(opened.getsockname()[1], token)
    server.should_exit = True
    thread.join(10)
    log.close()
    opened.close()


@pytest.fixture(scope="session")
def server(service: Service, log_file: Path) -> Iterator[RealServer]:
    """`service` on a socket, for browsers and other programs."""
    with serve_app(service, log_file) as served:
        yield served


@pytest.fixture(scope="session")
def locked_server(service: Service, log_file: Path) -> Iterator[RealServer]:
    """`service` on a socket, with a token."""
    with serve_app(service, log_file, token="a&token#more;%20") as served:
        yield served


@pytest.fixture
def make_client() -> Iterator[Callable[..., TestClient]]:
    """Makes clients of other services: ``make_client(service, token="t")``."""
    opened = ExitStack()

    def make(service: Service, **options: Any) -> TestClient:
        app = make_app(service, log=AccessLog(Path("/dev/null")), **options)
        return opened.enter_context(TestClient(app, BASE, raise_server_exceptions=False))

    with opened:
        yield make
