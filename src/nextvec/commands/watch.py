"""The command that follows runs while they train: in the terminal, or as a web page."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextvec.commands.parameters import Paths, command
from nextvec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Group

    from nextvec.monitor.discovery import WatchedRun
    from nextvec.monitor.state import RunState


WEB_PORT = 8765


@dataclass(frozen=True)
class WatchedRuns:
    """The last state of the watched runs, the newest run first."""

    states: tuple[RunState, ...]

    def __rich__(self) -> Group:
        """Return the dashboard for a terminal."""
        from nextvec.monitor.dashboard import runs_view

        return runs_view(self.states)

    def __str__(self) -> str:
        """Return the dashboard as plain text."""
        from rich.console import Console

        from nextvec.monitor.dashboard import WIDTH

        console = Console(width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"runs": [state.to_dict() for state in self.states]}


@command
def watch(
    runs: Paths = (),
    *,
    every: Annotated[float, Parameter(metavar="SECONDS")] = 30.0,
    once: bool = False,
    web: bool = False,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: int = WEB_PORT,
) -> WatchedRuns:
    """Watch runs while they train: progress, scores next to their baselines, losses, gates and results.

    Reads the runs' event logs and never writes. Ends when the runs have ended, or with Ctrl-C. If the output is not a
    terminal, it prints one line for each finished epoch, each gate and the end of a run. With --web it serves a page
    instead, which shows new runs by itself and runs until Ctrl-C.

    Args:
        runs: Folders of runs, or files in them such as training.log. With --web also folders that contain runs.
            Default: the newest run, or with --web all runs of the working directory.
        every: Seconds between refreshes if there are no new events. New events are shown at once.
        once: Show the current state and exit.
        web: Serve a web page.
        host: Address to serve the page on. Any other than the default requires a token.
        port: Port of the page. If it is in use, the next free one is taken.
    """
    import time

    from nextvec.monitor.discovery import existing_states, find_runs

    paths = tuple(map(str, runs))
    if not every > 0:
        raise InputError(f"--every {every:g}: give a number of seconds above 0")
    if web:
        if once:
            raise InputError("--once and --web: choose one; --web runs until interrupted")
        return WatchedRuns(tuple(_serve(paths, every, host, port)))
    watched = find_runs(paths)
    if once:
        for run in watched:
            run.poll()
    else:
        from rich.console import Console

        from nextvec.monitor.terminal import watch_runs

        with suppress(KeyboardInterrupt):  # the usual way to stop watching, not an error
            watch_runs(watched, Console(highlight=False), refresh_seconds=every)
    return WatchedRuns(tuple(existing_states(watched, time.time())))


def _serve(runs: tuple[str, ...], every: float, host: str, port: int) -> list[RunState]:
    """Serve the page until Ctrl-C, and return no states: the terminal has nothing to add to the page."""
    from pathlib import Path

    from nextvec.monitor.discovery import RUN_FOLDERS, find_runs, list_runs
    from nextvec.monitor.web.app import address_of, bind, serve_page, token_for
    from nextvec.monitor.web.auth import is_loopback

    # A folder that contains runs is listed again and again, so that new runs appear; a single run is followed.
    folders = [Path(run) for run in runs if next(list_runs([run]), None) is not None]
    if not runs:
        folders = [Path(folder) for folder in RUN_FOLDERS]
    single = [run for run in runs if Path(run) not in folders]
    followed: list[WatchedRun] = find_runs(single) if single else []
    socket = bind(host, port)
    bound_port = socket.getsockname()[1]
    if port and bound_port != port:
        _report(f"port {port} is in use; using {bound_port}")
    token = token_for(host)
    if not is_loopback(host):
        _report(f"warning: other machines can reach this page on {host}. It requires the token, but is not encrypted.")
    _report(f"watching at {address_of(host, bound_port, token)}  (Ctrl-C to stop)")
    with suppress(KeyboardInterrupt):
        serve_page(followed, folders, socket, host, token, refresh_seconds=every)
    return []


def _report(line: str) -> None:
    """Print a line on standard error at once, because serving the page blocks."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
