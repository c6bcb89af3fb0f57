"""A client for servers that take JSON and answer with JSON, such as encoders and decoders.

    client = JsonClient("http://127.0.0.1:8080/v1/embeddings", "encoder m", "NEXTVEC_ENCODER_KEY")
    answer = client.post({"model": "m", "input": ["a text"]}, 2**20)

Threads may share a client: each request has its own connection, which is kept for the next one. A request is repeated
after faults that may pass, within a bounded time. Every request has a deadline, and every answer a maximum size.
Redirects are never followed, so the key reaches the named host only. No message contains the key.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from nextvec.core.server_settings import find_proxy, proxy_headers, read_key, read_timeout, require_url
from nextvec.errors import ServerError, one_line

CONNECT_SECONDS = 10.0

MAX_ATTEMPTS = 6
"""Attempts per request. The waits between them grow from 0.5 to 8 s, about 12 s together."""
MAX_ATTEMPTS_ASKED = 20
"""Attempts if the server says how long to wait, as services with a limited rate do."""
MAX_ATTEMPTS_UNREACHED = 3
"""Attempts if the server refuses connections or its name is unknown, and it has never answered: a mistyped URL."""
MAX_TOTAL_SECONDS = 180.0
"""No attempt of a request starts later than this after its first one."""
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0
RETRIED_STATUSES = frozenset((408, 425, 429, *range(500, 600)))

_READ_BYTES = 2**18
_SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True)
class _Answer:
    """An answer of a server, whatever its status."""

    status: int
    headers: Message
    content: bytes


class _NoAnswerError(http.client.HTTPException):
    """A server does not answer in time."""


class JsonClient:
    """A client of one URL; see the module. `name` begins every message, `key_variable` names the key's variable."""

    def __init__(self, url: str, name: str, key_variable: str) -> None:
        self._parts = require_url(url, name, allow_query=True)
        path = quote(self._parts.path or "/", safe=_SAFE_IN_PATHS)
        query = quote(self._parts.query, safe=_SAFE_IN_PATHS + "?")
        self._target = path + (f"?{query}" if query else "")
        self._proxy = find_proxy(self._parts)
        if self._proxy and self._parts.scheme == "http":
            self._target = f"http://{self._parts.netloc}{self._target}"
        self.name, self._key_variable = name, key_variable
        self._key, self._seconds = read_key(key_variable), read_timeout()
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._has_answered = False

    def post(self, content: dict[str, Any], max_bytes: int, stop: threading.Event | None = None) -> Any:
        """Return the JSON value that answers `content`; an answer may have `max_bytes`.

        Repeats the request after faults that may pass, until `stop` is set. Raises ServerError with the last fault.
        """
        body = json.dumps(content, separators=(",", ":")).encode("ascii")
        stop, started = stop or threading.Event(), time.monotonic()
        for attempt in itertools.count(1):
            last_attempt, wait, status = MAX_ATTEMPTS, None, None
            try:
                answer = self._exchange(body, max_bytes, stop)
                if answer.status not in RETRIED_STATUSES:
                    return self._read(answer)
                fault, wait, status = self._describe(answer), _retry_after(answer.headers), answer.status
                last_attempt = MAX_ATTEMPTS if wait is None else MAX_ATTEMPTS_ASKED
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, ServerError):
                    raise
                fault = self._describe_fault(error)
                if isinstance(error, ConnectionRefusedError | socket.gaierror) and not self._has_answered:
                    last_attempt = MAX_ATTEMPTS_UNREACHED
            # Waits double, or are those that the server asks for. Jitter spreads the requests of many threads.
            if wait is None:
                delay = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), MAX_WAIT_SECONDS) * random.uniform(0.5, 1)
            else:
                delay = wait + random.uniform(0, 0.1 + wait / 4)
            seconds = time.monotonic() - started
            if attempt >= last_attempt or seconds + delay > MAX_TOTAL_SECONDS:
                asked = f"; it asks to wait {wait:,.0f} s" if wait else ""
                times = f"{attempt} attempt{'s' if attempt > 1 else ''} in {seconds:.0f} s"
                self._fail(f"{fault} ({times}{asked}). Check that the server runs and the URL is right.", status)
            if stop.wait(delay):
                self._fail("stopped, because another request failed.")
        raise AssertionError("unreachable")

    def abort(self) -> None:
        """End all requests that are waiting for an answer."""
        with self._lock:
            busy = list(self._busy)
        for connection in busy:
            _shut_down(connection)

    def _fail(self, reason: str, status: int | None = None) -> NoReturn:
        """Raise ServerError without the key, which a server may have repeated."""
        error = ServerError(f"{self.name}: {self._redact(reason)}")
        error.status = status
        raise error

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _exchange(self, body: bytes, max_bytes: int, stop: threading.Event) -> _Answer:
        """Send one request and read its answer. Raises OSError or HTTPException for a fault of the connection."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            # The server may have closed a kept connection; that is no fault, so a new one follows at once.
            with suppress(ConnectionError):
                return self._send(kept, body, max_bytes, stop)
        return self._send(self._connect(), body, max_bytes, stop)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """The certificates of this machine; reading them takes longer than a request."""
        return ssl.create_default_context()

    def _connect(self) -> http.client.HTTPConnection:
        """Open a connection to the server, or to the proxy of the environment."""
        host, port = self._parts.hostname or "", self._parts.port
        connection: http.client.HTTPConnection
        proxy = self._proxy
        first = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
        if self._parts.scheme == "https":
            connection = http.client.HTTPSConnection(*first, timeout=CONNECT_SECONDS, context=self._context)
            if proxy:  # the proxy forwards bytes, and cannot read them
                connection.set_tunnel(host, port, proxy_headers(proxy))
        else:
            connection = http.client.HTTPConnection(*first, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.sock.settimeout(self._seconds)
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, body: bytes, max_bytes: int, stop: threading.Event
    ) -> _Answer:
        """Use a connection for one request, and keep it if it can be used again."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _shut_down(connection)

        # Timeouts of a socket limit each read; a server that sends a byte now and then needs a deadline.
        timer = threading.Timer(self._seconds, expire)
        timer.daemon = True
        with self._lock:
            self._busy.add(connection)
        timer.start()
        is_kept = False
        try:
            if stop.is_set():  # after `abort`, which cannot end what starts later
                raise _NoAnswerError("stopped")
            connection.request("POST", self._target, body, self._headers())
            response = connection.getresponse()
            answer = _Answer(response.status, response.headers, self._read_content(response, max_bytes))
            self._has_answered = True
            is_kept = not (expired.is_set() or response.will_close)
            return answer
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                raise _NoAnswerError(f"no answer within {self._seconds:g} s") from error
            raise
        finally:
            timer.cancel()
            with self._lock:
                self._busy.discard(connection)
                if is_kept:
                    self._idle.append(connection)
            if not is_kept:
                connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "nextvec",
        }
        if self._proxy and self._parts.scheme == "http":
            headers |= proxy_headers(self._proxy)
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _read_content(self, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
        """Return the body of an answer. Raises ServerError if it is too large, HTTPException if it ends early."""
        parts: list[bytes] = []
        # The size that a header claims, then the size that arrives.
        size = response.length or 0
        while size <= max_bytes and (part := response.read(_READ_BYTES)):
            parts.append(part)
            size = sum(map(len, parts))
        if size > max_bytes:
            self._fail(f"the answer has more than {max_bytes:,} bytes. Check the URL.")
        if response.length:  # the bytes that are missing
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _read(self, answer: _Answer) -> Any:
        """Return the JSON value of an answer. Raises ServerError for any status but success, and for HTML."""
        status = answer.status
        if 300 <= status < 400:
            # A redirect may lead the key to another host, and a POST may arrive there as a GET.
            where = urlsplit(answer.headers.get("Location", ""))
            target = f"{where.scheme}://{where.netloc.rpartition('@')[2]}{where.path}" if where.netloc else where.path
            self._fail(f"the server redirects to {one_line(ValueError(target))}. Name that URL if it is right.", status)
        if not 200 <= status < 300:
            self._fail(f"{self._describe(answer)}. {self._remedy(status)}", status)
        if answer.content.lstrip()[:1] == b"<":
            self._fail("the server answers with HTML, not JSON. Check the URL.")
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise http.client.HTTPException(f"the answer is not JSON: {one_line(error)}") from error

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            state = "another key" if self._key else "the server's key"
            return f"Set {self._key_variable} to {state}."
        return "Check the URL and the name of the model." if status == 404 else "Check the request's text and model."

    def _describe(self, answer: _Answer) -> str:
        """Return an answer's status with its message, if it is in one of the usual places."""
        message: Any = None
        with suppress(ValueError, RecursionError):
            value = json.loads(answer.content)
            # OpenAI, vLLM and infinity: error.message; TEI and older vLLM: message; TEI: error; FastAPI: detail.
            while isinstance(value, dict):
                value = next((value[name] for name in ("error", "message", "detail") if value.get(name)), None)
            message = value
        reason = http.client.responses.get(answer.status, "unknown status")
        text = self._redact(message) if isinstance(message, str) else reason
        return f"the server answers {answer.status} ({one_line(ValueError(text))})"

    def _describe_fault(self, error: Exception) -> str:
        """Return what went wrong with a connection. Raises ServerError if another attempt cannot help."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = (
                f"the server's certificate is not trusted ({getattr(error, 'verify_message', '') or one_line(error)}). "
            )
            self._fail(reason + "Set SSL_CERT_FILE to the certificates of its authority, or check the host name.")
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            self._fail("the server does not speak TLS. Write http:// instead of https://.")
        if isinstance(error, socket.gaierror):
            return f"the host is unknown ({error.strerror})"
        if isinstance(error, http.client.IncompleteRead):
            return "the answer ends early"
        return one_line(error) if isinstance(error, http.client.HTTPException) else f"no connection ({one_line(error)})"


def _shut_down(connection: http.client.HTTPConnection) -> None:
    """Wake the thread that waits for a connection."""
    if connection.sock is not None:
        with suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _retry_after(headers: Message) -> float | None:
    """Return the seconds that a server asks to wait, given as a number or a date; None if it does not."""
    text = headers.get("Retry-After", "").strip()
    parsers: tuple[Callable[[str], float], ...] = (
        float,
        lambda date: parsedate_to_datetime(date).timestamp() - time.time(),
    )
    for parse in parsers:
        with suppress(ValueError, TypeError, OverflowError):
            seconds = parse(text)
            return max(seconds, 0.0) if seconds == seconds else None
    return None
