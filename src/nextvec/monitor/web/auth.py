"""Who may see the live page: foreign Host headers are refused, and elsewhere than on this machine a token is asked for.

A Host header that names another machine comes from a page that has let its own name point here (DNS rebinding): its
script would read the runs. A number can't be pointed anywhere, so that numbers pass where a token is asked for.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
PAGE_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src-elem 'self' {EMPTY_STYLE}; style-src-attr 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No script, style, picture or request but the page's own; plotly adds an empty style element, which it then fills by
script, and sets styles on its elements."""
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Stands before the application: refuses what may not see it, and adds the headers of every answer."""

    def __init__(self, app: ASGIApp, *, host: str, token: str = "") -> None:
        self._app, self._host, self._token = app, host, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        connection = HTTPConnection(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(connection)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> PlainTextResponse | RedirectResponse | None:
        """Why this one is sent away; None if it may pass."""
        if not self._knows(connection.headers.get("host", "")):
            return PlainTextResponse("This host name is not mine. Open the address that nextvec printed.", 421)
        if not self._token:
            return None
        cookie = f"nextvec_{connection.url.port or 0}"
        if secrets.compare_digest(connection.cookies.get(cookie, "").encode(), self._token.encode()):
            return None
        given = parse_qs(connection.url.query).get("token", [""])[0]
        if connection.scope["method"] == "GET" and secrets.compare_digest(given.encode(), self._token.encode()):
            answer = RedirectResponse(connection.url.path, 303)  # so that the token leaves the address bar
            answer.set_cookie(cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        return PlainTextResponse("A token is needed. Open the whole address that nextvec printed.", 403)

    def _knows(self, header: str) -> bool:
        """Whether a Host header names this machine."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in LOOPBACK_NAMES or name == self._host:
            return True
        if not self._token:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in {socket.gethostname().lower(), socket.getfqdn().lower()}
        return True
