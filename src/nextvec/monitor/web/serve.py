"""Serving the web page from the command line: which runs it shows, and the address it prints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nextvec.core.console import show
from nextvec.monitor.discovery import RUN_FOLDERS, find_runs, list_runs
from nextvec.monitor.web import app
from nextvec.web.access import is_loopback
from nextvec.web.listen import address_of, bind, token_for


def serve_runs(runs: Sequence[str], host: str, port: int, *, refresh_seconds: float) -> None:
    """Serve the page of some runs, or of all runs of the working directory, until Ctrl-C."""
    # A folder that contains runs is listed again and again, so that new runs appear; a single run is followed.
    folders = [Path(run) for run in runs if next(list_runs([run]), None) is not None]
    if not runs:
        folders = [Path(folder) for folder in RUN_FOLDERS]
    # The other paths are runs, or files in them.
    single = [run for run in runs if Path(run) not in folders]
    followed = find_runs(single) if single else []
    socket = bind(host, port, max_tries=app.MAX_PORT_TRIES)
    bound_port = socket.getsockname()[1]
    if port and bound_port != port:
        show((f"port {port} is in use; using {bound_port}",))
    # Only the loopback address works without a token.
    token = token_for(host, app.TOKEN_VARIABLE)
    if not is_loopback(host):
        show((f"warning: other machines can reach this page on {host}. It requires the token, but is not encrypted.",))
    show((f"watching at {address_of(host, bound_port, token)}  (Ctrl-C to stop)",))
    with suppress(KeyboardInterrupt):
        app.serve_page(followed, folders, socket, host, token, refresh_seconds=refresh_seconds)
