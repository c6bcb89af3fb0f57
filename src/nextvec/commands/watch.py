"""Watching a run while it trains: in the terminal, or as a page in a browser."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nextvec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Group
    from tyro.conf import Positional

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


def watch(
    runs: Positional[tuple[str, ...]] = (),
    *,
    every: float = 30.0,
    once: bool = False,
    web: bool = False,
    host: str = "127.0.0.1",
    port: int = WEB_PORT,
) -> WatchedRuns:
    """Watch runs while they train: progress, scores beside their baselines, losses, gates, and the outcome.

    Reads the runs' event logs and nothing else, and never writes. Ends when the runs have ended, or with Ctrl-C. Where
    the output is no terminal, each finished epoch, each gate and the end are printed as a line. With --web the same is
    a page in the browser, which stays until Ctrl-C and shows new runs by itself.

    Args:
        runs: Folders of runs, or files in them such as training.log; left out, the newest run. With --web also
            folders that hold runs; left out, all runs of this working folder.
        every: Seconds between two refreshes where nothing is new; what is new shows at once.
        once: Show the present state and end.
        web: Serve a page instead.
        host: Address that the page is served on; left out, this machine only. Elsewhere a token is asked for.
        port: Port of the page; where it is taken, the next free one.
    """
    import time

    from nextvec.monitor.discovery import find_runs, present

    if not every > 0:
        raise InputError(f"--every {every:g}: give a number of seconds above 0")
    if web:
        if once:
            raise InputError("--once and --web: choose one; a page stays until it is ended")
        return WatchedRuns(tuple(_serve(runs, every, host, port)))
    watched = find_runs(runs)
    if once:
        for run in watched:
            run.look()
    else:
        from rich.console import Console

        from nextvec.monitor.terminal import watch_runs

        with suppress(KeyboardInterrupt):  # how an operator stops watching: nothing has gone wrong
            watch_runs(watched, Console(highlight=False), every=every)
    return WatchedRuns(tuple(present(watched, time.time())))


def _serve(runs: tuple[str, ...], every: float, host: str, port: int) -> list[RunState]:
    """Serve the page until Ctrl-C. What the terminal shows at the end is nothing: the page has shown it."""
    from pathlib import Path

    from nextvec.monitor.discovery import HOMES, find_runs, runs_in
    from nextvec.monitor.web.app import address_of, bind, serve_page, token_for
    from nextvec.monitor.web.auth import is_loopback

    homes = [Path(run) for run in runs if next(runs_in([run]), None) is not None] if runs else [*map(Path, HOMES)]
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
        serve_page(named, homes, opened, host, token, every=every)
    return []


def _say(line: str) -> None:
    import sys

    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
