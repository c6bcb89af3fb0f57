"""The socket of a web server, the URL of its page, and the token that others need."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from urllib.parse import quote

from nextvec.errors import InputError, OutputError
from nextvec.web.access import is_loopback


def bind(host: str, port: int, *, max_tries: int = 1) -> socket.socket:
    """Return a listening socket at the first free of `max_tries` ports from `port` on; port 0: the system chooses.

    Raises InputError if this machine does not have the address, OutputError if no port is free.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: not a port. Pass a number from 0 to {2**16 - 1}.")
    # Resolve the name once: the first address decides between IPv4 and IPv6.
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host}: no such address ({_reason(error)}). Leave it out to serve this machine only."
        ) from error
    # Port 0 lets the system choose, which needs one try only.
    last = min(port + max_tries, 2**16) if port else 1
    for candidate in range(port, last):
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((address[0], candidate))
            opened.listen(128)  # already here, so that a port in use is detected now
        except OSError as error:
            opened.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(
                    f"--host {host}: cannot be bound ({_reason(error)}). Leave it out to serve this machine only."
                ) from error
            continue
        return opened
    if max_tries == 1:
        raise OutputError(f"--port {port}: not free on {host}. Pass another port.")
    raise OutputError(f"--port {port}: no free port from {port} to {last - 1} on {host}. Pass another port.")


def address_of(host: str, port: int, token: str) -> str:
    """Return the URL to open in a browser."""
    # A wildcard address cannot be opened, and IPv6 addresses need brackets.
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def token_for(host: str, variable: str) -> str:
    """Return the required token if others can reach the server, else an empty one.

    It is the value of the environment variable `variable`, so that it survives a restart, or a new random one.
    """
    if is_loopback(host):
        return ""
    return os.environ.get(variable) or secrets.token_urlsafe(24)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
