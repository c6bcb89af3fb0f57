"""The command that follows runs while they train: in the terminal, or as a web page."""

from __future__ import annotations

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
    """Where the watched runs stood at the last look, the newest run first."""

    states: tuple[RunState, ...]

    def view(self) -> Group:
        """All of it, for a terminal."""
        from nextvec.monitor.dashboard import runs_view

        return runs_view(self.states)

    def __str__(self) -> str:
        """All of it, as plain text of 100 columns."""
        from rich.console import Console

        from nextvec.monitor.dashboard import WIDTH

        console = Console(width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self.view())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
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
            raise InputError("--once and --web: choose one; a page stays until it is ended")
        return WatchedRuns(tuple(_serve(paths, every, host, port)))
    watched = find_runs(paths)
    if once:
        for run in watched:
            run.poll()
    else:
        from rich.console import Console

        from nextvec.monitor.terminal import watch_runs

        with suppress(KeyboardInterrupt):  # how an operator stops watching: nothing has gone wrong
            watch_runs(watched, Console(highlight=False), refresh_seconds=every)
    return WatchedRuns(tuple(existing_states(watched, time.time())))


def _serve(runs: tuple[str, ...], every: float, host: str, port: int) -> list[RunState]:
    """Serve the page until Ctrl-C. What the terminal shows at the end is nothing: the page has shown it."""
    from pathlib import Path

    from nextvec.monitor.discovery import RUN_FOLDERS, find_runs, list_runs
    from nextvec.monitor.web.app import address_of, bind, serve_page, token_for
    from nextvec.monitor.web.auth import is_loopback

    homes = (
        [Path(run) for run in runs if next(list_runs([run]), None) is not None] if runs else [*map(Path, RUN_FOLDERS)]
    )
    named: list[WatchedRun] = (
        find_runs([run for run in runs if Path(run) not in homes]) if len(homes) < len(runs) else []
    )
    opened = bind(host, port)
    taken = opened.getsockname()[1]
    if port and taken != port:
        _say(f"port {port} is in use; taking {taken}")
    token = token_for(host)
    if not is_loopback(host):
        _say(f"warning: others can reach this page on {host}; only those who have the token see the runs, unencrypted")
    _say(f"watching at {address_of(host, taken, token)}  (Ctrl-C ends)")
    with suppress(KeyboardInterrupt):
        serve_page(named, homes, opened, host, token, refresh_seconds=every)
    return []


def _say(line: str) -> None:
    import sys

    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
