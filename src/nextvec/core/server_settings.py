"""What a user sets to reach a server: its URL, the key, the timeout of a request, and a proxy."""

from __future__ import annotations

import base64
import ipaddress
import os
import threading
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

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


def find_proxy(server: SplitResult) -> SplitResult | None:
    """Return the proxy that HTTPS_PROXY or HTTP_PROXY names for a server; None for this machine and for NO_PROXY.

    Raises InputError for a proxy that is not an http URL.
    """
    host = server.hostname or ""
    url = getproxies_environment().get(server.scheme, "")
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return None
    if not url or host == "localhost" or proxy_bypass_environment(host):
        return None
    variable = f"{server.scheme.upper()}_PROXY"
    try:
        proxy = urlsplit(url if "://" in url else f"http://{url}")
        is_usable = proxy.scheme == "http" and bool(proxy.hostname) and (proxy.port or 80) > 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise InputError(f"{variable}: is not a proxy that can be used. Write http://HOST:PORT.")
    return proxy


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """Return the header with the user and password of a proxy, if its URL has them."""
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
