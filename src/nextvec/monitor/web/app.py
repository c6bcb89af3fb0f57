"""The server of the live page: the page, runs as JSON, and a stream of changes.

    /                   the page                      /assets/NAME    its scripts and styles, and plotly
    /api/run?id=        one run                       /stream         server-sent events: new and changed runs
    /api/overlay?id=…   several runs in one chart     /report?id=     the report.html of a run

Runs are named by ids that this server assigned; no request contains a file name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from nextvec.core.formatting import SYMBOLS
from nextvec.core.run_paths import REPORT_FILE
from nextvec.monitor.discovery import WatchedRun
from nextvec.monitor.web.broker import Broker
from nextvec.monitor.web.payload import detail, overlay
from nextvec.reports.html.panels import RUN_STYLES
from nextvec.web.access import AccessControl
from nextvec.web.static_files import MEDIA_TYPES, SHARED_ASSETS, asset_response

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
"""A report has an even stricter policy inside. In the sandbox it cannot send requests to this server."""
PACKAGE = "nextvec.monitor.web"
ASSETS = SHARED_ASSETS | dict.fromkeys(("watch.css", "watch.js", "list.js", "run.js"), PACKAGE)
PLOTLY = "plotly.min.js"
HEARTBEAT_SECONDS = 15.0
"""A stream without changes sends a comment at this interval, so that dead connections are detected."""
MIN_MESSAGE_SECONDS = 0.25
"""Minimum time between two messages of a stream: changes within that time are sent together."""


def make_app(broker: Broker, *, host: str = "127.0.0.1", token: str = "", poll_seconds: float = 1.0) -> ASGIApp:
    """Return the application for the address `host`; an empty `token` means that none is required."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(broker.follow(poll_seconds))
        yield
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    routes = [
        Route("/", _page),
        Route("/assets/{name}", _asset),
        Route("/api/run", _run),
        Route("/api/overlay", _overlay),
        Route("/report", _report),
        Route("/stream", _stream),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.broker = broker
    return AccessControl(app, host=host, token=token)


def _page(request: Request) -> Response:
    return asset_response(PACKAGE, "watch.html")


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name == PLOTLY:
        script = files("plotly").joinpath("package_data", PLOTLY).read_bytes()
        return Response(script, media_type=MEDIA_TYPES[".js"], headers={"cache-control": "private, max-age=86400"})
    if name not in ASSETS:
        return PlainTextResponse("No such file.", 404)
    return asset_response(ASSETS[name], name)


def _run(request: Request) -> Response:
    """Return one run. Not a coroutine: it runs in a thread, so that a long log does not block other requests."""
    broker: Broker = request.app.state.broker
    id = request.query_params.get("id", "")
    version = broker.version(id)  # before the state is read, so that a change in between is fetched again
    run = broker.run(id)
    state = broker.state(id)
    if run is None or state is None:
        return JSONResponse({"error": "The folder of this run was removed."}, 404)
    return _json({"id": id, "version": version, "report": (run.path / REPORT_FILE).is_file(), **detail(state)})


def _overlay(request: Request) -> Response:
    """Return the charts of several runs; removed runs are left out."""
    broker: Broker = request.app.state.broker
    ids = [id for id in dict.fromkeys(request.query_params.getlist("id")) if broker.run(id)][: len(RUN_STYLES)]
    versions = {id: broker.version(id) for id in ids}
    states = [state for id in ids if (state := broker.state(id)) is not None]
    return _json({"versions": versions, **overlay(states)})


def _report(request: Request) -> Response:
    """Return the report of a run; a symbolic link out of the run's folder is not followed."""
    broker: Broker = request.app.state.broker
    run = broker.run(request.query_params.get("id", ""))
    if run is not None:
        with contextlib.suppress(OSError):
            file = (run.path / REPORT_FILE).resolve()
            # The resolved file of a link to elsewhere has another parent.
            if file.parent == run.path.resolve():
                return Response(
                    file.read_bytes(), media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
                )
    return PlainTextResponse("This run has no report.", 404)


def _stream(request: Request) -> Response:
    """Stream all runs, then every change."""
    broker: Broker = request.app.state.broker

    async def messages() -> AsyncIterator[str]:
        # A new page starts at version 0 and gets everything. Heartbeats detect pages that are gone.
        version = 0
        yield f"retry: 1000\n{_message('hello', {'symbols': SYMBOLS})}"
        while not broker.is_closing:
            if await broker.wait_for_change(version, HEARTBEAT_SECONDS):
                version, changes = broker.changes_since(version)
                yield _message("runs", changes)
                await asyncio.sleep(MIN_MESSAGE_SECONDS)
            else:
                yield ": heartbeat\n\n"

    return StreamingResponse(messages(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _message(kind: str, values: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False, allow_nan=False)}\n\n"


def _json(values: Any) -> Response:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json")


MAX_PORT_TRIES = 100
"""Ports to try, starting with the requested one."""
TOKEN_VARIABLE = "NEXTVEC_WATCH_TOKEN"
"""Environment variable with the token, so that open pages survive a restart; without it, each start has a new one."""
SHUTDOWN_SECONDS = 1
"""Time that open requests get when the server stops."""


class PageServer(uvicorn.Server):
    """uvicorn that ends the open streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, broker: Broker) -> None:
        super().__init__(config)
        self._broker = broker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        await self._broker.close()
        await super().shutdown(sockets)


def make_server(broker: Broker, host: str, token: str, poll_seconds: float = 1.0) -> PageServer:
    """Return the server, ready to run on a bound socket."""
    app = make_app(broker, host=host, token=token, poll_seconds=poll_seconds)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    return PageServer(config, broker)


def serve_page(
    runs: Sequence[WatchedRun],
    folders: Sequence[Path],
    opened: socket.socket,
    host: str,
    token: str,
    *,
    refresh_seconds: float,
) -> None:
    """Serve the page until the process gets a signal to end."""
    broker = Broker(runs, folders, refresh_seconds=refresh_seconds)
    make_server(broker, host, token).run(sockets=[opened])
