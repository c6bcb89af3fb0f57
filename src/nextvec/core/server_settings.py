"""What a user sets to reach a server: its URL, the key, and the timeout of a request."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from nextvec.errors import InputError, one_line

TIMEOUT = "NEXTVEC_REQUEST_TIMEOUT"
"""Environment variable with the seconds in which a server must answer one request."""
DEFAULT_TIMEOUT_SECONDS = 60.0


def require_url(url: str, owner: str, *, allow_query: bool = False) -> SplitResult:
    """Return the parts of an http or https URL. The `owner` names it in messages, which never show the URL's secrets.

    Raises InputError for another scheme, a missing host, a user name or password, a fragment, or a forbidden query.
    """
    try:
        parts = urlsplit(url)
        # Both raise ValueError, like a bracket that is not closed.
        _, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise InputError(f"{owner}: the URL is malformed ({one_line(error)}). Write http://HOST:PORT.") from error
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{owner}: the URL contains a user name or password. Remove it; keys are read from variables.")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{owner}: the URL is not http://HOST:PORT or https://HOST.")
    if not url.isprintable() or " " in url:
        raise InputError(f"{owner}: the URL contains a space or a control character. Remove it.")
    if parts.fragment or (parts.query and not allow_query):
        raise InputError(f"{owner}: the URL has a part after '?' or '#'. Remove it; keys are read from variables.")
    return parts


def read_key(variable: str) -> str:
    """Return a key from the environment; empty without one. Raises InputError if no header can carry it."""
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{variable}: contains a space, a control character or a letter outside ASCII. Copy it again.")
    return key


def read_timeout() -> float:
    """Return the seconds in which a server must answer a request."""
    text = os.environ.get(TIMEOUT, "")
    with suppress(ValueError):
        seconds = float(text or DEFAULT_TIMEOUT_SECONDS)
        if 0 < seconds <= threading.TIMEOUT_MAX:
            return seconds
    raise InputError(f"{TIMEOUT}: '{text}' is not a number of seconds above 0.")
