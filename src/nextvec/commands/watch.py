"""Commands that read runs: `watch` follows them in the terminal or as a web page, `runs` lists and queries them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.commands.parameters import Folder, Paths, as_texts, command
from nextvec.errors import InputError

if TYPE_CHECKING:
    from nextvec.monitor.run_list import RunList
    from nextvec.monitor.watched_runs import WatchedRuns

WEB_PORT = 8765


@command(outlives_terminal=False)
def watch(
    runs: Paths = (),
    *,
    every: Annotated[float, Parameter(metavar="SECONDS")] = 30.0,
    once: bool = False,
    web: bool = False,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: int = WEB_PORT,
) -> WatchedRuns | None:
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
    paths = as_texts(runs)
    if not every > 0:
        raise InputError(f"--every {every:g}: give a number of seconds above 0")
    if once and web:
        raise InputError("--once and --web: choose one; --web runs until interrupted")
    if web:
        from nextvec.monitor.web.serve import serve_runs

        serve_runs(paths, host, port, refresh_seconds=every)
        return None  # the page has shown everything
    from nextvec.monitor.watched_runs import watch_in_terminal

    return watch_in_terminal(paths, refresh_seconds=every, once=once)


@command(outlives_terminal=False)
def runs(
    folder: Folder = ".",
    *,
    where: Annotated[str, Parameter(metavar="CONDITION")] = "",
    sort: Annotated[str, Parameter(metavar="FIELD")] = "started",
) -> RunList:
    """List the runs below a folder with their state and scores, or those that a condition selects.

    A run is running, finished, interrupted, stopped, failed or, if its process has died, orphaned. Reads event logs and
    never writes. Fields: name, path, recipe, network, state, epochs, val_cosine, ood_cosine, gain, gain_low, gain_high,
    ood_gain, mrr, status, verdict, seed, seconds, started, device, parameters, synthetic, version.

    Args:
        folder: Folder that contains runs, at any depth.
        where: Condition on the fields, such as "val_cosine > 0.58 and network == 'amn'". Comparisons, in, and, or, not.
        sort: Field to sort by: numbers from the highest, times from the newest, text from A.
    """
    from nextvec.monitor.run_list import list_all_runs

    return list_all_runs(Path(folder), where=where, sort=sort)
