"""Serving a model until the process gets a signal to end: loading, the HTTP server, and draining."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from nextvec.core.console import show
from nextvec.inference.index_types import Index
from nextvec.inference.model import LatentVectorModel
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.protocol import BoundedProtocol
from nextvec.serving.service import Service
from nextvec.web.access import is_loopback
from nextvec.web.listen import address_of, bind, token_for

TOKEN_VARIABLE = "NEXTVEC_SERVE_TOKEN"
"""Environment variable with the token, which keeps it out of the list of processes."""
LINGER_SECONDS = 0.5
"""Time in which a stopping server still answers new requests, with 503 instead of a closed connection."""
DRAIN_SECONDS = 3.0
"""Time in which requests that were accepted are finished; those that still wait then get 503."""
CLOSE_SECONDS = 1
"""Time for the last responses to be sent."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ModelServer(uvicorn.Server):
    """uvicorn that loads the model while it already answers, and drains before it closes connections."""

    def __init__(self, config: uvicorn.Config, service: Service, load: Any) -> None:
        super().__init__(config)
        self._service, self._load = service, load
        self.failure: BaseException | None = None
        """Why the model could not be loaded."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then load the model in another thread, which a signal need not wait for."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()

        def load() -> None:
            try:
                step = partial(self._service.open, self._load())
            except BaseException as error:
                step = partial(self._fail, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(step)

        threading.Thread(target=load, name="nextvec-load", daemon=True).start()

    def _fail(self, error: BaseException) -> None:
        """End the server, because the model could not be loaded."""
        self.failure, self.should_exit = error, True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse requests from the moment of the signal on."""
        self._service.stop_accepting()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests, answer the accepted ones, then close."""
        self._service.stop_accepting()
        accepted = set(self.server_state.tasks)
        await asyncio.sleep(0 if self.failure else LINGER_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while accepted & self.server_state.tasks and not self.force_exit:
                    await asyncio.sleep(0.02)
        self._service.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM. Unlike uvicorn's, a clean stop is not an error of the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(service: Service, load: Any, app: Any) -> ModelServer:
    """Return the server of an application, ready to run on a bound socket; `load` returns what the service opens."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        backlog=1024,
    )
    return ModelServer(config, service, load)


def serve_model(
    model: str | Path | LatentVectorModel,
    index: str | Path | Index | None = None,
    *,
    host: str,
    port: int,
    token: str = "",
    device: str = "cpu",
    access_log: Path | None = None,
) -> None:
    """Serve a model until SIGINT or SIGTERM. Raises the errors of `Service.load` and `bind`."""
    opened = bind(host, port)
    token = token or os.environ.get(TOKEN_VARIABLE, "") or token_for(host, TOKEN_VARIABLE)
    log, service = AccessLog(access_log), Service()
    url = address_of(host, opened.getsockname()[1], token)

    def load() -> Any:
        runner = service.load(model, index, device)
        if not is_loopback(host):
            reach = f"other machines can reach this service on {host}"
            show((f"warning: {reach}. It requires the token, but is not encrypted.",))
        show((f"serving {runner.model.source} at {url}  (Ctrl-C to stop)",))
        return runner

    server = make_server(service, load, make_app(service, host=host, token=token, log=log))
    try:
        server.run(sockets=[opened])
    finally:
        log.close()
        opened.close()
    if server.failure is not None:
        raise server.failure
