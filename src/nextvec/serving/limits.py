"""The limits of the service, and the middleware that enforces those on the bodies of requests.

Each limit bounds what one client can take from the others: memory, the time of the model, or a connection.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextvec.serving.errors import RequestError, error_response

MAX_BODY_BYTES = 8 * 2**20
"""A context of 32 vectors of 768 dimensions is 0.5 MB of JSON."""
MAX_CONTEXTS = 256
"""Contexts of one request."""
MAX_TEXTS = 256
"""Texts, or chunks of a text, of one request. Encoding them takes seconds on a CPU."""
MAX_TEXT_CHARS = 200_000
"""Characters of one text: a book chapter."""
MAX_K, MAX_STEPS = 100, 50
"""Chunks that one request can ask for."""
MAX_QUEUED = 1024
"""Requests that wait for the model; further ones are answered 503."""
BODY_SECONDS = 20.0
"""Time in which a client must send its body."""
RETRY_AFTER = {"retry-after": "1"}
"""Header of 503: the queue is usually empty a second later."""


class BodyLimits:
    """Middleware that refuses bodies that are too large or too slow, with 413 and 408."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the declared length, then count what arrives."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        # h11 has checked that the length is a number.
        if int(declared) > MAX_BODY_BYTES:
            refusal = _too_large()
            return await error_response(refusal.message, refusal.status)(scope, receive, send)
        received, deadline = 0, time.monotonic() + BODY_SECONDS

        async def limited_receive() -> Message:
            nonlocal received
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise RequestError(f"The body did not arrive within {BODY_SECONDS:.0f} s.", 408) from None
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _too_large()
            return message

        await self._app(scope, limited_receive, send)


def _too_large() -> RequestError:
    return RequestError(f"The body is larger than {MAX_BODY_BYTES // 2**20} MB. Divide it into several requests.", 413)
