"""The Ray cluster on which builds, suites, sweeps and servers run.

    with ray_cluster("auto", "nextvec data build --engine ray") as ray:
        ray.get(encode.remote(0))

Ray starts and watches the processes; what they do is nextvec's own code, the same as without Ray.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nextvec.errors import InputError, MissingExtraError, ServerError, did_you_mean, one_line

ENGINES = ("local", "ray")
"""What runs the work of a command: processes of this machine, or a Ray cluster."""
ANSWER_SECONDS = 10.0
"""How long a cluster may take to accept a connection."""


def uses_ray(engine: str, options: Mapping[str, object]) -> bool:
    """Return whether an engine is `ray`; `options` are those that only Ray has, by flag: None or "" if not given.

    Raises InputError for an unknown engine, and for an option of Ray with another engine.
    """
    if engine not in ENGINES:
        raise InputError(f"engine '{engine}' is unknown.{did_you_mean(engine, ENGINES)}")
    given = [f"{flag} {value}" for flag, value in options.items() if value not in (None, "")]
    if engine != "ray" and given:
        raise InputError(f"{given[0]}: needs a Ray cluster. Pass --engine ray as well.")
    return engine == "ray"


@contextmanager
def ray_cluster(address: str | None, purpose: str) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster: one started on this machine, or the one at `address`.

    `address` is "auto" or "HOST:PORT", as in `ray.init`; by default that of RAY_ADDRESS, if it is set. A connection of
    this process that already exists is used and stays open. `purpose` names what needs Ray, for the message. Raises
    MissingExtraError without the package ray, ServerError if no cluster answers.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", purpose)
    # Ray prints its own messages on standard output, where results belong: nextvec reports what matters in one line.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    address = address or os.environ.get("RAY_ADDRESS")
    if address and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # takes a second, and is an extra

    if ray.is_initialized():
        yield ray
        return
    if address and address not in ("auto", "local"):
        _require_answer(address)
    # Without "local", Ray would join a cluster of this machine that somebody else has started. Ours needs no dashboard.
    options: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"Ray cluster {address}" if address else "Ray on this machine"
        raise ServerError(
            f"{where}: can't be reached ({one_line(error)}). Start one with 'ray start --head', or leave out --address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Return whether this user has a token: `ray start` then asks for it, but `ray.init` would not send it."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray/auth_token").is_file()


def _require_answer(address: str) -> None:
    """Raise ServerError if nothing answers at HOST:PORT. Ray itself tries for minutes, and reports each try."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = "its form is not HOST:PORT" if not host or not port.isdecimal() else one_line(error)
        raise ServerError(
            f"Ray cluster {address}: can't be reached ({reason}). Start one with 'ray start --head', and run this "
            "command on one of its machines."
        ) from error
