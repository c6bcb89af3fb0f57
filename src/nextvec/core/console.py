"""Progress and messages on standard error: a bar in a terminal or notebook, otherwise a periodic log line.

A display that cannot be written any more never ends the work: see `nextvec.core.streams`.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from nextvec.errors import escape_controls


class Console(RichConsole):
    """A console that shows control characters in texts as escapes: ESC becomes four visible characters.

    Names, texts and messages come from files of others. An escape sequence in them must not reach the terminal. Rich's
    own colors and cursor movements are no texts, so they stay.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, with visible control characters."""
        for segment in super().render(renderable, options):
            is_clean = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if is_clean else segment._replace(text=escape_controls(segment.text, keep="\n"))


_SECONDS_BETWEEN_LINES = 10.0
"""Often enough to see that a job is alive, rarely enough for a log file of an overnight run."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings and log messages of libraries below errors, such as an exporter's notes about unused operators."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def show(lines: Sequence[str], *, quiet: bool = False) -> None:
    """Print lines on standard error, unless `quiet` is set. A long line stays one line."""
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(line, soft_wrap=True)


class Task:
    """A long-running job that counts its finished units. `total` is None if unknown."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.started = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more finished units."""
        self.done += amount

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """Return the state as one line: name, units done, rate and time left."""
        of_total = f" of {self.total:,}" if self.total else ""
        left = f", {(self.total - self.done) / self.rate:,.0f} s left" if self.total and self.done < self.total else ""
        return f"{self.name}: {self.done:,}{of_total} {self.unit} ({self.rate:,.0f}/s{left})"


class _BarTask(Task):
    """A task shown as a progress bar."""

    def __init__(self, name: str, total: int | None, unit: str, bar: Progress) -> None:
        super().__init__(name, total, unit)
        self._bar = bar
        self._id = bar.add_task(name, total=total, rate="")

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self._bar.update(self._id, advance=amount, rate=f"{self.rate:,.0f} {self.unit}/s")


class _LineTask(Task):
    """A task shown as a periodic line, for logs and pipes."""

    def __init__(self, name: str, total: int | None, unit: str, console: Console) -> None:
        super().__init__(name, total, unit)
        self._console = console
        self._last = self.started

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES and self.done != self.total:
            self._last = now
            self.print_line()

    def print_line(self) -> None:
        """Print the current state."""
        self._console.print(self.line(), highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str, total: int | None = None, *, unit: str = "items", quiet: bool = False) -> Iterator[Task]:
    """Show the progress of the work in a `with` block.

    with progress("encoding", 1000, unit="chunks") as task:
        task.advance()
    """
    console = Console(stderr=True, quiet=quiet)
    if quiet:
        yield Task(name, total, unit)
    elif console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):  # rich draws notebook bars with it
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            yield _BarTask(name, total, unit, bar)
    else:
        task = _LineTask(name, total, unit, console)
        yield task
        task.print_line()
