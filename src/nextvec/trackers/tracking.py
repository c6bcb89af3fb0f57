"""Tracking of a run: starts a process for each tracker, and ends it in time whatever it does.

The trainer only writes short commands to the processes and reads short reports. It waits for them once, at its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nextvec.core.console import show
from nextvec.core.events import mapping, words
from nextvec.core.files import writing
from nextvec.core.run_paths import TRACKERS_FOLDER, tracker_file
from nextvec.trackers.position import Position
from nextvec.trackers.tracker import TRACKERS, is_installed

if TYPE_CHECKING:
    from nextvec.training.run import Run

END_SECONDS = 60.0
"""How long the trackers of a run may take to end: enough to import a library and to send the rest over a network."""
STOP_SECONDS = 10.0
"""The same after an interruption, because a service manager kills a process soon after SIGTERM."""
NOTICE_SECONDS = 2.0
"""A longer wait is announced."""


class TrackerProcess:
    """The process of one tracker. A failure is a warning of the run, and the tracker is switched off."""

    def __init__(self, name: str, run: Run) -> None:
        """Start the process. Raises OSError or OutputError if that fails."""
        self.name, self._run = name, run
        self._epochs = 0
        self._buffer = b""
        self.is_on = True
        Position(run.path, name)  # begins the file
        log_file = tracker_file(run.path, name).with_suffix(".log")
        # -P: a file such as wandb.py in the working directory is not the library.
        command = [sys.executable, "-P", "-m", "nextvec.trackers.process", name, str(run.path)]
        with writing(log_file):
            log = log_file.open("ab")
        # In its own session it gets no Ctrl-C, and can be killed together with what it has started.
        with log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._commands, self._reports = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._commands, False)
        os.set_blocking(self._reports, False)

    def send(self, command: str) -> None:
        """Send a command, unless the process has ended or does not read."""
        with suppress(OSError):
            os.write(self._commands, f"{command}\n".encode())

    def poll(self) -> bool:
        """Read the reports, and return whether the process still works. Its failure is reported once."""
        has_ended = self._process.poll() is not None
        for report in self._read():
            if "place" in report:
                self._run.log(f"tracker {self.name}: {words(report['place'])}")
            if isinstance(report.get("epochs"), int):
                self._epochs = report["epochs"]
            if "error" in report:
                self._switch_off(words(report["error"]))
            if report.get("ended") is True:
                self.is_on = False  # everything is sent; the library may still clean up
        if has_ended and self.is_on:
            self._switch_off(f"its process ended with exit code {self._process.returncode}")
        return not has_ended

    def kill(self, seconds: float) -> None:
        """Kill the process and what it has started; `seconds` is how long it had to end."""
        if self._process.poll() is None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self.is_on:
                self._switch_off(f"it did not end within {seconds:.0f} s")
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _switch_off(self, reason: str) -> None:
        """Warn that the tracker is off, once."""
        if not self.is_on:
            return
        self.is_on = False
        sent = f"It has the epochs up to {self._epochs}. " if self._epochs else ""
        file = self._run.path / TRACKERS_FOLDER / f"{self.name}.log"
        with suppress(OSError):  # a full disk ends the run at its next write, not here
            self._run.warn(
                f"tracker {self.name} is switched off: {reason.rstrip('.')}. {sent}The run is not affected. "
                f"See {file}. 'nextvec resume {self._run.path}' sends what is missing."
            )

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield the complete reports that have arrived."""
        with suppress(OSError):  # nothing to read
            while content := os.read(self._reports, 65536):
                self._buffer += content
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            with suppress(ValueError):
                yield mapping(json.loads(line))


@contextmanager
def tracking(run: Run, names: Sequence[str]) -> Iterator[Callable[[Run], None]]:
    """Track a run in a `with` block; yield the function to call after each saved epoch.

    Trackers that an earlier process of this run used continue as well. Nothing that a tracker does ends the run.
    """
    processes = _start(run, names)

    def after_epoch(run: Run) -> None:
        for process in processes:
            process.send(f"epochs {run.state.epoch}")
            process.poll()

    end = END_SECONDS
    try:
        after_epoch(run)  # epochs that an earlier process has finished and not sent
        yield after_epoch
    except BaseException:
        end = STOP_SECONDS
        raise
    finally:
        if processes:
            after_epoch(run)  # the epoch after which a gate has ended the run
            _end(processes, end, quiet=run.quiet)
            run.close()


def _start(run: Run, names: Sequence[str]) -> list[TrackerProcess]:
    """Start the processes of the named trackers, and of those that the run folder remembers."""
    remembered = [name for name in TRACKERS if tracker_file(run.path, name).is_file() and name not in names]
    processes = []
    for name in (*names, *remembered):
        try:
            if not is_installed(name):  # only a remembered one: the named ones were checked before
                run.warn(f"tracker {name} is switched off: its package is not installed: pip install 'nextvec[{name}]'")
            else:
                processes.append(TrackerProcess(name, run))
        except OSError as error:
            run.warn(f"tracker {name} is switched off: its process cannot be started ({error})")
    return processes


def _end(processes: Sequence[TrackerProcess], seconds: float, *, quiet: bool) -> None:
    """Let all trackers send the rest at the same time, and kill those that take too long. Ctrl-C skips the wait."""
    started = time.monotonic()
    for process in processes:
        process.send("end")
    with suppress(KeyboardInterrupt):
        working = list(processes)
        is_announced = False
        while (working := [process for process in working if process.poll()]) and time.monotonic() < started + seconds:
            if not is_announced and time.monotonic() > started + NOTICE_SECONDS:
                names = ", ".join(process.name for process in working)
                show((f"waiting for trackers ({names}), at most {seconds:.0f} s. Ctrl-C skips the wait.",), quiet=quiet)
                is_announced = True
            time.sleep(0.05)
    for process in processes:
        process.kill(time.monotonic() - started)
