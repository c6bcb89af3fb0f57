"""Notice that another machine no longer answers.

A process that ends closes its connections. A machine that loses its power or its network is silent, and by default the
operating system waits 15 minutes for it, or for ever if no data are on their way.
"""

from __future__ import annotations

import socket
from pathlib import Path

SILENCE_SECONDS = 120
"""How long a machine may be silent: longer than a network restarts, far shorter than what a run costs meanwhile."""

_PROBES = {
    "TCP_KEEPIDLE": SILENCE_SECONDS // 2,
    "TCP_KEEPINTVL": SILENCE_SECONDS // 8,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": SILENCE_SECONDS * 1000,
}
"""Option → value: probe an idle connection after half of the time, four times; wait for an answer to data, in ms."""


def notice_silent_hosts() -> None:
    """Make all TCP connections of this process fail after SILENCE_SECONDS without any answer.

    The operating system answers for a machine's processes, however busy they are. Systems that lack an option keep
    their default.
    """
    for descriptor in list(Path("/dev/fd").iterdir()):
        try:
            connection = socket.socket(fileno=int(descriptor.name))
        except OSError:
            continue  # a file, or the folder that was just listed
        try:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _PROBES.items():
                    if hasattr(socket, option):
                        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        finally:
            connection.detach()  # its owner closes it
