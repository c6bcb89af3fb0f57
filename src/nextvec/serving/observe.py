"""The outermost middleware: it gives each request an id, and writes its line of the log and its metrics."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextvec.serving.access_log import AccessLog, RequestRecord, request_id
from nextvec.serving.errors import CLIENT_GONE
from nextvec.serving.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Label of unknown paths and methods: clients must not create metrics."""


class Observer:
    """Middleware that records every request."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: AccessLog, paths: frozenset[str]) -> None:
        """Observe `app`; `paths` are the paths that get their own metrics."""
        self._app, self._metrics, self._log, self._paths = app, metrics, log, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record it when it is answered."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        record = scope["nextvec"] = RequestRecord(request_id(sent_id.decode("latin-1")))

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.id
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except asyncio.CancelledError:  # how Ray Serve reports that the client has gone
            record.status = record.status or CLIENT_GONE
            raise
        finally:
            seconds = time.monotonic() - record.started
            method = scope["method"] if scope["method"] in METHODS else OTHER
            path = scope["path"] if scope["path"] in self._paths else OTHER
            self._metrics.count_request(method, path, record.status, seconds)
            self._log.write(scope, record, seconds)
