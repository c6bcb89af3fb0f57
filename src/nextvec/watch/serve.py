"""Serving the live page: an address that is free, a token where others can reach it, and a quick end."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from nextvec.errors import InputError, OutputError
from nextvec.watch.guard import is_loopback
from nextvec.watch.hub import Hub
from nextvec.watch.runs import WatchedRun
from nextvec.watch.web import make_app

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
