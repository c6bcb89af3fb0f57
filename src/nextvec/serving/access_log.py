"""The access log: one JSON object per request and line, without bodies.

{"time": "2026-11-27T13:05:00.123Z", "method": "POST", "path": "/v1/next", "status": 200, "ms": 12.3,
"batch_size": 4, "client": "127.0.0.1", "request_id": "5f2c…"}
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from nextvec.errors import OutputError

MAX_PATH_CHARS = 200
"""Characters of a path in the log: clients choose it."""
_REQUEST_ID = re.compile(r"[\w.\-]{1,64}", re.ASCII)


@dataclass(eq=False)
class RequestRecord:
    """What is known about a request besides its HTTP message; it travels in the ASGI scope as `scope["nextvec"]`."""

    id: str
    started: float = field(default_factory=time.monotonic)
    status: int = 0
    batch_size: int | None = None
    """Number of requests that the model ran together with this one."""
    waiting: asyncio.Future[Any] | None = None
    """The result that the request waits for."""

    is_gone: bool = False
    """Whether the client has closed the connection before the response."""

    def cancel(self) -> None:
        """Give up the result: the client has gone."""
        self.is_gone = True
        if self.waiting is not None:
            self.waiting.cancel()


def request_id(header: str) -> str:
    """Return the id that a client sent if it is a plain word, else a new one."""
    return header if _REQUEST_ID.fullmatch(header) else secrets.token_hex(8)


class AccessLog:
    """Writes lines to a file, or to standard error. A line that cannot be written is dropped."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the log. Raises OutputError if the file cannot be written."""
        try:
            self._file = None if path is None else path.open("ab", buffering=0)
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"--access-log {path}: cannot be written ({reason}). Name another file.") from error

    def write(self, scope: Any, record: RequestRecord, seconds: float) -> None:
        """Write the line of an answered request."""
        client = scope.get("client")
        line = orjson.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "method": scope["method"],
                "path": scope["path"][:MAX_PATH_CHARS].encode("utf-8", "backslashreplace").decode(),
                "status": record.status,
                "ms": round(1000 * seconds, 2),
                "batch_size": record.batch_size,
                "client": client[0] if client else None,
                "request_id": record.id,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        # A full disk or a closed pipe must not fail requests.
        with suppress(OSError, ValueError):
            if self._file is not None:
                self._file.write(line)
            else:
                sys.stderr.write(line.decode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
