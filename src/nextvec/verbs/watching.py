"""Watching a run while it trains."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from tyro.conf import Positional

from nextvec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Group

    from nextvec.watch.state import RunState


@dataclass(frozen=True)
class WatchedRuns:
    """Where the watched runs stood at the last look, the newest run first."""

    states: tuple[RunState, ...]

    def view(self) -> Group:
        """All of it, for a terminal."""
        from nextvec.watch.view import runs_view

        return runs_view(self.states)

    def __str__(self) -> str:
        """All of it, as plain text of 100 columns."""
        from nextvec.watch.view import WIDTH

        console = Console(width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self.view())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"runs": [state.to_dict() for state in self.states]}


def watch(runs: Positional[tuple[str, ...]] = (), *, every: float = 30.0, once: bool = False) -> WatchedRuns:
    """Watch runs while they train: progress, scores beside their baselines, losses, gates, and the outcome.

    Reads the runs' event logs and nothing else, and never writes. Ends when the runs have ended, or with Ctrl-C. Where
    the output is no terminal, each finished epoch, each gate and the end are printed as a line.

    Args:
        runs: Folders of runs, or files in them such as training.log; left out, the newest run.
        every: Seconds between two refreshes where nothing is new; what is new shows at once.
        once: Show the present state and end.
    """
    import time

    from nextvec.watch.terminal import find_runs, present, watch_runs

    if not every > 0:
        raise InputError(f"--every {every:g}: give a number of seconds above 0")
    watched = find_runs(runs)
    if once:
        for run in watched:
            run.look()
    else:
        with suppress(KeyboardInterrupt):  # how an operator stops watching: nothing has gone wrong
            watch_runs(watched, Console(highlight=False), every=every)
    return WatchedRuns(tuple(present(watched, time.time())))
