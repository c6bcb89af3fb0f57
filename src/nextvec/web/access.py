"""Access to a web server: the Host header is checked, and a token is required unless the server is local.

A foreign Host header comes from a page whose own name resolves to this machine (DNS rebinding); its script could read
what the server shows. An IP address cannot be rebound, so any address is accepted if a token is required. Programs send
the token in a header (Authorization: Bearer TOKEN); a browser sends it once in the URL and then as a cookie.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Collection
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextvec.errors import InputError

EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
PAGE_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src-elem 'self' {EMPTY_STYLE}; style-src-attr 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the page's own scripts, styles, images and requests only.

plotly adds an empty style element, which it fills by script, and sets styles on its elements. Its second style element,
for maps, is refused: the browser logs that once, and nextvec draws no maps."""
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_TOKEN = re.compile(r"[!-~]+")
"""Printable ASCII without spaces."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Return whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AccessControl:
    """Middleware that refuses requests without access and adds the security headers to every response."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        token: str = "",
        open_paths: Collection[str] = (),
        refuse: Callable[[str, int], Response] = PlainTextResponse,
    ) -> None:
        """Protect `app`; `open_paths` need no token, and `refuse` makes a response of a message and a status.

        Raises InputError for a token that a cookie or a header cannot carry.
        """
        if token and not _TOKEN.fullmatch(token):
            raise InputError("token: has a space or a character outside ASCII. Use letters, digits and punctuation.")
        self._app, self._host, self._token = app, host, token
        self._open_paths, self._refuse = frozenset(open_paths), refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it to the application."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(HTTPConnection(scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """Return the response to a request without access; None if it has access."""
        if not self._is_known_host(connection.headers.get("host", "")):
            return self._refuse("Unrecognized Host header. Open the URL that nextvec printed.", 421)
        if not self._token:
            return None
        scheme, _, value = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(value.strip()):
            return None
        # Cookies are shared by all ports of a host, so the name contains the port.
        cookie = f"nextvec_{connection.url.port or 0}"
        if self._is_token(connection.cookies.get(cookie, "")):
            return None
        # The first visit has the token in the URL.
        token = parse_qs(connection.url.query).get("token", [""])[0]
        if connection.scope["method"] == "GET" and self._is_token(token):
            # The redirect removes the token from the address bar and the history.
            response = RedirectResponse(connection.url.path, 303)
            response.set_cookie(cookie, self._token, httponly=True, samesite="strict", path="/")
            return response
        if connection.scope["path"] in self._open_paths:
            return None
        refusal = self._refuse("Missing or wrong token. Open the complete URL that nextvec printed.", 401)
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _is_token(self, value: str) -> bool:
        """Return whether a value is the token; the comparison takes the same time for every wrong one."""
        return secrets.compare_digest(value.encode("utf-8", "surrogateescape"), self._token.encode())

    def _is_known_host(self, header: str) -> bool:
        """Return whether a Host header names this machine."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        # With a token, addresses and this machine's own names are safe as well.
        if name in LOOPBACK_NAMES or name == self._host:
            return True
        if not self._token:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in {socket.gethostname().lower(), socket.getfqdn().lower()}
        return True
