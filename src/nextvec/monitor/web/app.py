"""The live page's server side: the page and its files, runs as JSON, and a stream that says when one has changed.

    /                   the page                      /assets/NAME    its script, style, and plotly from the package
    /api/run?id=        one run                       /stream         server-sent events: which runs are new or changed
    /api/overlay?id=…   several over each other       /report?id=     the report.html of a run that is shown

Runs are named by ids that this server gave them; no request names a file.

Serving the live page: an address that is free, a token where others can reach it, and a quick end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
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
from nextvec.errors import InputError, OutputError
from nextvec.monitor.discovery import WatchedRun
from nextvec.monitor.web.auth import Guard, is_loopback
from nextvec.monitor.web.broker import Hub
from nextvec.monitor.web.payload import detail, overlay
from nextvec.reports.html.panels import RUN_STYLES

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
"""A report is a page of its own with a stricter policy inside; sandboxed, it can't reach this server at all."""
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
OWN_FILES = {
    "page.css": "nextvec.reports.html", "chart.js": "nextvec.reports.html",
    "watch.css": "nextvec.monitor.web", "watch.js": "nextvec.monitor.web",
    "dom.js": "nextvec.monitor.web", "list.js": "nextvec.monitor.web", "run.js": "nextvec.monitor.web",
}  # fmt: skip
PLOTLY = "plotly.min.js"
HEARTBEAT = 15.0
"""Seconds after which a silent stream says that it is alive, so that dead connections are noticed."""
PAUSE = 0.25
"""Seconds between two messages of a stream at least: what changes at once is told at once."""


def make_app(hub: Hub, *, host: str = "127.0.0.1", token: str = "", poll: float = 1.0) -> ASGIApp:
    """The application; `host` is where it is bound, and `token` what is asked for where that is not this machine."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(hub.follow(poll))
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
    app.state.hub = hub
    return Guard(app, host=host, token=token)


def _page(request: Request) -> Response:
    return Response(_own("nextvec.monitor.web", "watch.html"), media_type="text/html")


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name == PLOTLY:
        found = files("plotly").joinpath("package_data", PLOTLY).read_bytes()
        return Response(found, media_type=TYPES[".js"], headers={"cache-control": "private, max-age=86400"})
    if name not in OWN_FILES:
        return PlainTextResponse("no such file", 404)
    return Response(_own(OWN_FILES[name], name), media_type=TYPES[Path(name).suffix])


def _own(package: str, name: str) -> bytes:
    return files(package).joinpath("assets", name).read_bytes()


def _run(request: Request) -> Response:
    """One run; computed outside of the event loop, so that a long log holds up nobody else."""
    hub: Hub = request.app.state.hub
    id = request.query_params.get("id", "")
    stamp = hub.stamp(id)
    run = hub.run(id)
    state = hub.state(id)
    if run is None or state is None:
        return JSONResponse({"error": "this run is not shown here any more"}, 404)
    return _json({"id": id, "stamp": stamp, "report": (run.path / REPORT_FILE).is_file(), **detail(state)})


def _overlay(request: Request) -> Response:
    """Several runs; those that have gone are left out."""
    hub: Hub = request.app.state.hub
    ids = [id for id in dict.fromkeys(request.query_params.getlist("id")) if hub.run(id)][: len(RUN_STYLES)]
    stamps = {id: hub.stamp(id) for id in ids}
    states = [state for id in ids if (state := hub.state(id)) is not None]
    return _json({"stamps": stamps, **overlay(states)})


def _report(request: Request) -> Response:
    """The report of a run; a link that leads out of the run's folder is not followed."""
    hub: Hub = request.app.state.hub
    run = hub.run(request.query_params.get("id", ""))
    if run is not None:
        with contextlib.suppress(OSError):
            file = (run.path / REPORT_FILE).resolve()
            if file.parent == run.path.resolve():
                return Response(
                    file.read_bytes(), media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
                )
    return PlainTextResponse("no report there", 404)


def _stream(request: Request) -> Response:
    """What has changed, again and again; first of all everything."""
    hub: Hub = request.app.state.hub

    async def messages() -> AsyncIterator[str]:
        stamp = 0
        yield f"retry: 1000\n{_message('hello', {'shapes': SYMBOLS})}"
        while not hub.closing:
            if await hub.news(stamp, HEARTBEAT):
                stamp, told = hub.since(stamp)
                yield _message("runs", told)
                await asyncio.sleep(PAUSE)
            else:
                yield ": still here\n\n"

    return StreamingResponse(messages(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _message(kind: str, values: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False, allow_nan=False)}\n\n"


def _json(values: Any) -> Response:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json")


PORT = 8765
TRIED = 100
"""Ports that are tried, from the one asked for."""
TOKEN = "NEXTVEC_WATCH_TOKEN"
"""Environment variable with the token, so that open pages survive a restart of the server; left out, a new one."""
SECONDS_TO_END = 1
"""Seconds that requests under way get when the server is to stop."""


class PageServer(uvicorn.Server):
    """uvicorn, whose streams end before it waits for them."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        await self._hub.close()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket at the first free port from `port` on (0: any).

    Raises InputError for an address that this machine does not have, OutputError where no port can be had.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: give a number from 0 to {2**16 - 1}")
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host}: no such address ({_reason(error)}); leave it out for this machine only"
        ) from error
    last = min(port + TRIED, 2**16) if port else 1
    for tried in range(port, last):
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((address[0], tried))
            opened.listen(128)  # here, so that a port that is taken is seen now
        except OSError as error:
            opened.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(
                    f"--host {host}: can't be bound ({_reason(error)}); leave it out for this machine"
                ) from error
            continue
        return opened
    raise OutputError(f"ports {port} to {last - 1} of {host}: none is free; give another one with --port")


def address_of(host: str, port: int, token: str) -> str:
    """What to open in a browser."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def token_for(host: str) -> str:
    """The token that is asked for where others can reach the server; none on this machine only."""
    if is_loopback(host):
        return ""
    return os.environ.get(TOKEN) or secrets.token_urlsafe(24)


def make_server(hub: Hub, host: str, token: str, poll: float = 1.0) -> PageServer:
    """The server, ready to run on a bound socket."""
    app = make_app(hub, host=host, token=token, poll=poll)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=SECONDS_TO_END
    )
    return PageServer(config, hub)


def serve_page(
    runs: Sequence[WatchedRun], homes: Sequence[Path], opened: socket.socket, host: str, token: str, *, every: float
) -> None:
    """Serve the page until the process is asked to end, which it then does as every process does."""
    hub = Hub(runs, homes, every=every)
    make_server(hub, host, token).run(sockets=[opened])


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
