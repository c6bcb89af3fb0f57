"""The process of one tracker: `python -m nextvec.trackers.process NAME RUN`.

A tracker's library may block, print, fork, install signal handlers or kill its process. In a process of its own it can
do none of that to the run: training shares only the event log with it, which it reads. The trainer writes commands to
standard input and reads one JSON object per line from standard output; what the library prints goes to a log file.

    epochs N   N epochs are finished and saved: send those that were not sent
    end        the process that trains is done: send the evaluation, and end

If the trainer is killed, standard input ends: the tracked run is closed as unfinished, and the epochs that are missing
are sent when the run is resumed.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextvec.core.events import EventTail, count, epoch_records, finite, last_event
from nextvec.core.files import wait_for_lock
from nextvec.core.run_paths import tracker_file
from nextvec.errors import one_line
from nextvec.trackers.contents import epoch_metrics, outcome, tracked_run
from nextvec.trackers.position import Position
from nextvec.trackers.tracker import Tracker, open_tracker

ABANDONED_SECONDS = 10.0
"""How long a tracker may take for its current epoch after its trainer has died."""

Report = Callable[..., None]


def follow(tracker: Tracker, name: str, folder: Path, commands: Iterable[str], report: Report) -> None:
    """Send a run to a tracker as the commands ask for it. An exception of the tracker passes through.

    The position is saved after each epoch, so that a resumed run sends each epoch once.
    """
    position = Position(folder, name)
    tail = EventTail(folder)
    tail.poll()
    opened = tracker.on_start(tracked_run(tail.events, folder, position.id, position.epochs))
    # The library knows best: a kill of this process may have come between an epoch and its position.
    position.epochs = position.epochs if opened.epochs is None else opened.epochs
    report(place=opened.place)
    for command in commands:
        word, _, number = command.partition(" ")
        tail.poll()
        for record in epoch_records(tail.events):
            # Only epochs that the trainer has saved: it would train any later one again after a kill.
            epoch = count(record.get("epoch"))
            if position.epochs < epoch <= int(number or position.epochs):
                metrics = epoch_metrics(record, last_event(tail.events, "baselines"))
                tracker.on_epoch(epoch, finite(record.get("time")) or 0.0, metrics)
                position.advance(epoch)
                report(epochs=epoch)
        if word == "end":
            break
    tail.poll()
    tracker.on_end(*outcome(tail.events))
    report(ended=True)


def _commands(descriptor: int) -> Iterator[str]:
    """Return an iterator over the lines of a pipe. This process ends soon after them, whatever it is doing."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        # Not a text stream, whose lock would be held by this thread when the interpreter ends.
        while content := os.read(descriptor, 4096):
            *complete, rest = (rest + content).split(b"\n")
            for line in complete:
                lines.put(line.decode())
        lines.put(None)
        time.sleep(ABANDONED_SECONDS)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


_SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASSWORD")


def without_secrets(text: str) -> str:
    """Return text without credentials: those in URLs, and the values of environment variables such as X_API_KEY."""
    text = re.sub(r"://[^/@\s]*@", "://***@", text)
    text = re.sub(r"(?i)((?:token|key|secret|password)=)[^&\s]+", r"\1***", text)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= 8:
            text = text.replace(value, "***")
    return text


def main(name: str, folder: Path) -> int:
    """Run one tracker until its trainer ends; return 1 if the tracker has failed."""
    # The trainer decides when this process ends, also if a signal is sent to all processes of a service.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The pipes of commands and reports get other numbers; the library has an empty input, and a log file as output.
    commands, reports = _commands(os.dup(0)), os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def report(**values: Any) -> None:
        texts = {name: without_secrets(value) if isinstance(value, str) else value for name, value in values.items()}
        with suppress(OSError):  # a killed trainer reads no reports
            reports.write(json.dumps(texts) + "\n")

    # The tracker of a killed trainer may still be writing.
    descriptor = os.open(tracker_file(folder, name).with_suffix(".log"), os.O_RDONLY)
    wait_for_lock(descriptor, lambda: None)
    try:
        follow(open_tracker(name), name, folder, commands, report)
    except BaseException as error:  # a library may also raise SystemExit
        report(error=f"{type(error).__name__}: {one_line(error)}")
        sys.stderr.write(without_secrets(traceback.format_exc()))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
