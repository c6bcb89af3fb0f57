"""Standard output and standard error that survive their reader, so that no work ends because its display does.

A closed pipe, a terminal that has gone, a full device or a closed descriptor makes a write raise OSError: in a print,
in rich, in logging, or when the interpreter exits. Here the file under both text streams drops what cannot be written
and keeps the reason, which `take_failures` returns for a log and `stdout_failure` for the exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STANDARD_STREAMS = {"stdout": 1, "stderr": 2}
"""Name in `sys` → file descriptor."""

_LABELS = {"stdout": "standard output", "stderr": "standard error"}

_REASONS = {
    errno.EPIPE: "its reader has closed it",
    errno.EIO: "the terminal has gone",
    errno.ENOSPC: "the device is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file-size limit is reached",
    errno.EBADF: "it is closed",
}


class _SurvivingFile(io.RawIOBase):
    """The file of a standard stream. A write that fails is dropped, and its error is kept in `failure`."""

    def __init__(self, name: str, failure: OSError | None = None) -> None:
        self.name = f"<{name}>"
        self.label = _LABELS[name]
        self.failure = failure
        """The first error of a write; None if everything was written."""
        self.is_reported = False
        self._descriptor = STANDARD_STREAMS[name]
        self._is_closed_stream = failure is not None

    def write(self, content: Any, /) -> int:
        rest = memoryview(content).cast("B")
        length = len(rest)
        try:
            while rest and not self._is_closed_stream:
                rest = rest[self._write_some(rest) :]
        except OSError as error:
            self.failure = self.failure or error
        return length

    def _write_some(self, content: memoryview) -> int:
        """Write a part of the bytes. Wait for the reader even if another program made the descriptor non-blocking."""
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:
                select.select([], [self._descriptor], [], 1.0)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return not self._is_closed_stream and os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    @property
    def reason(self) -> str:
        """Why the stream cannot be written, as the end of a sentence."""
        number = self.failure.errno if self.failure else None
        return _REASONS.get(number or 0, os.strerror(number) if number else "")


def protect_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` survive failing writes, for the rest of the process.

    Streams of notebooks and of tests, which are not files of this process, stay as they are.
    """
    closed = _fill_closed_descriptors()
    for name, descriptor in STANDARD_STREAMS.items():
        stream = getattr(sys, name)
        if stream is None or descriptor in closed:
            # Python found the descriptor closed when it started: another file may have its number now.
            failure = OSError(errno.EBADF, os.strerror(errno.EBADF))
            setattr(sys, name, _text_stream(_SurvivingFile(name, failure), "utf-8", is_line_buffered=True))
        elif _file_of(stream) is None and _is_standard(stream, descriptor):
            file = _SurvivingFile(name)
            try:
                stream.flush()
            except OSError as error:
                file.failure = error
            setattr(sys, name, _text_stream(file, stream.encoding, is_line_buffered=stream.line_buffering))


@contextmanager
def surviving_streams() -> Iterator[None]:
    """Protect the standard streams within a `with` block, for calls from Python."""
    before = {name: getattr(sys, name) for name in STANDARD_STREAMS}
    protect_streams()
    protected = {name: getattr(sys, name) for name in STANDARD_STREAMS}
    try:
        yield
    finally:
        for name, stream in before.items():
            if stream is not protected[name]:
                protected[name].flush()
                if getattr(sys, name) is protected[name]:
                    setattr(sys, name, stream)


@contextmanager
def surviving_hangup() -> Iterator[None]:
    """Ignore SIGHUP, which a closed terminal sends, within a `with` block; children of the process ignore it, too."""
    # Only the main thread may change handlers. A handler that somebody set stays.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def take_failures() -> list[str]:
    """Return a sentence for each stream that has become unwritable since the last call."""
    sentences = []
    for name in STANDARD_STREAMS:
        file = _file_of(getattr(sys, name))
        if file is not None and file.failure is not None and not file.is_reported:
            file.is_reported = True
            sentences.append(f"{file.label} cannot be written: {file.reason}. The work continues.")
    return sentences


def stdout_failure() -> str | None:
    """Return why a part of standard output was not written; None if everything was."""
    with suppress(ValueError):  # the user closed the stream
        sys.stdout.flush()
    file = _file_of(sys.stdout)
    return None if file is None or file.failure is None else file.reason


def is_stdout_closed_by_reader() -> bool:
    """Return whether the reader of standard output has closed it, as `head` does: nobody misses the rest."""
    file = _file_of(sys.stdout)
    return file is not None and file.failure is not None and file.failure.errno == errno.EPIPE


def _file_of(stream: object) -> _SurvivingFile | None:
    """Return the surviving file under a text stream, if it has one."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _SurvivingFile) else None


def _is_standard(stream: object, descriptor: int) -> bool:
    """Return whether a stream is the text stream that Python opened for a descriptor."""
    if type(stream) is not io.TextIOWrapper:
        return False
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _text_stream(file: _SurvivingFile, encoding: str, *, is_line_buffered: bool) -> io.TextIOWrapper:
    # A character that the encoding lacks is shown as its escape sequence: it must not end the work either.
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=is_line_buffered or file.isatty(),
    )


def _fill_closed_descriptors() -> set[int]:
    """Open the null device for each closed standard descriptor, and return their numbers.

    The next file that is opened gets the lowest free number. It would be a log or a checkpoint, and what a C library
    or a child process prints would go into it.
    """
    closed = set()
    for descriptor in (0, *STANDARD_STREAMS.values()):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
    return closed
