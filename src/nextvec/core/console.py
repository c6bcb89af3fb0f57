"""Progress of long work, on standard error: a bar with rate and time left in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Task:
    """One piece of long work: call `advance` as it goes on. `total` may be unknown (None)."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.started = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Say that `amount` more units are done."""
        self.done += amount

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """The state in words: what, how far, how fast, how long still."""
        of_total = f" of {self.total:,}" if self.total else ""
        left = f", {(self.total - self.done) / self.rate:,.0f} s left" if self.total and self.done < self.total else ""
        return f"{self.name}: {self.done:,}{of_total} {self.unit} ({self.rate:,.0f}/s{left})"


class _BarTask(Task):
    def __init__(self, name: str, total: int | None, unit: str, bar: Progress) -> None:
        super().__init__(name, total, unit)
        self._bar = bar
        self._id = bar.add_task(name, total=total, rate="")

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self._bar.update(self._id, advance=amount, rate=f"{self.rate:,.0f} {self.unit}/s")


class _LineTask(Task):
    def __init__(self, name: str, total: int | None, unit: str, console: Console) -> None:
        super().__init__(name, total, unit)
        self._console = console
        self._last = self.started

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES and self.done != self.total:
            self._last = now
            self.say()

    def say(self) -> None:
        self._console.print(self.line(), highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str, total: int | None = None, *, unit: str = "items", quiet: bool = False) -> Iterator[Task]:
    """Show how far the block's work is.

    with progress("encoding", 1000, unit="chunks") as task:
        task.advance()
    """
    console = Console(stderr=True, quiet=quiet)
    if quiet:
        yield Task(name, total, unit)
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            yield _BarTask(name, total, unit, bar)
    else:
        task = _LineTask(name, total, unit, console)
        yield task
        task.say()
