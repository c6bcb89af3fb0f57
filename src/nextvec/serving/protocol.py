"""HTTP connections of bounded number and duration: uvicorn alone waits for a slow client without end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nextvec.serving.access_log import RequestRecord

MAX_CONNECTIONS = 900
"""Open connections; most systems allow a process 1,024 files."""
REQUEST_SECONDS = 10.0
"""Time in which a client must send the head of its next request, or the rest of a body that was refused."""
ANSWER_SECONDS = 120.0
"""Time from the head of a request to the end of its response, which the client must read in that time."""
CHECK_SECONDS = 2.5
"""Interval of the checks of these times."""
BAD_REQUEST = b'{"error":"The request is not valid HTTP/1.1."}'


class BoundedProtocol(H11Protocol):
    """A connection that is closed if its client is too slow, and that reports to its request if the client has gone."""

    _check: asyncio.TimerHandle | None = None
    _state: tuple[Any, bool] | None = None
    """The latest request, and whether it is in progress, at the last check."""
    _since = 0.0
    """The time of the check that found this state first."""

    def connection_made(self, transport: Any) -> None:
        """Open the connection, or close it at once if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._check_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what the client was waiting for."""
        if self._check is not None:
            self._check.cancel()
        if self._is_in_progress():
            record = self.cycle.scope.get("nextvec")
            if isinstance(record, RequestRecord):
                record.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            length = str(len(BAD_REQUEST)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(BAD_REQUEST), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_progress(self) -> None:
        """Close the connection if it has been in one state for too long; check again later."""
        state, now = (self.cycle, self._is_in_progress()), self.loop.time()
        if state != self._state:
            self._state, self._since = state, now
        elif now - self._since >= (ANSWER_SECONDS if state[1] else REQUEST_SECONDS):
            self.transport.abort()
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_progress)
