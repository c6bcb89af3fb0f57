"""The Ray cluster on which builds, suites, sweeps and servers run.

    with ray_cluster("auto", "nextvec data build --engine ray") as ray:
        ray.get(encode.remote(0))

Ray starts and watches the processes; what they do is nextvec's own code, the same as without Ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from nextvec.errors import MissingExtraError, ServerError, one_line


@contextmanager
def ray_cluster(address: str | None, purpose: str) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster: one started on this machine, or the one at `address`.

    `address` is as in `ray.init`: "auto" or "HOST:PORT"; by default that of RAY_ADDRESS, if it is set. A connection of
    this process that already exists is used and stays open. `purpose` names what needs Ray, for the message. Raises
    MissingExtraError without the package ray, ServerError if no cluster answers.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", purpose)
    import ray  # takes a second, and is an extra

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
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
