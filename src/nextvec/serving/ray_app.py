"""The service as an application of Ray Serve: each replica is one process with the application of `nextvec serve`.

    serve run nextvec.serving.ray_app:build model=wiki-minilm index=/shared/my-store replicas=2

Ray Serve accepts the connections, chooses a replica for each request, and replaces a replica that has died.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application

from nextvec.serving.limits import MAX_QUEUED
from nextvec.serving.replica import ReplicaApp, ServiceArguments, read_arguments
from nextvec.serving.run import DRAIN_SECONDS
from nextvec.serving.service import open_model

NAME = "nextvec"
"""Name of the deployment, and of the application that `nextvec serve` runs."""
MAX_ONGOING = 2 * MAX_QUEUED
"""Requests of a replica that are in progress: more than its queue takes, so that the service itself refuses."""
DRAIN_CHECK_SECONDS = 0.1
"""Interval in which a stopping replica checks whether all its requests are answered."""
HEALTH_CHECK_SECONDS = 2.0
"""Interval in which Ray Serve finds and replaces a replica that has died."""


@serve.ingress()
class Replica:
    """A process of Ray Serve that answers requests."""

    def __init__(self, arguments: ServiceArguments) -> None:
        self._replica = ReplicaApp(arguments, serve.get_replica_context().replica_id.unique_id)

    def __serve_build_asgi_app__(self) -> ReplicaApp:
        """Return the application, which Ray Serve asks for after the start."""
        return self._replica

    def stop_accepting(self) -> None:
        """Refuse new requests."""
        self._replica.stop_accepting()


def build(arguments: dict[str, Any]) -> Application:
    """Return the application for Ray Serve.

    `arguments` are `model`, `index`, `host`, `token` (by default the environment variable NEXTVEC_SERVE_TOKEN),
    `access_log`, `device`, `replicas` and `gpus`; see `nextvec serve`. Raises InputError for others, and the errors of
    `load_model` and `open_index` before any replica starts.
    """
    checked = read_arguments(arguments)
    # A wrong path is one line here, and a traceback in a replica.
    open_model(checked.model, checked.index or None, "cpu")
    return deploy(checked)


def deploy(arguments: ServiceArguments) -> Application:
    """Return the application for Ray Serve, without checking that the model can be loaded."""
    deployment = serve.deployment(
        name=NAME,
        num_replicas=arguments.replicas,
        # A replica computes with one core: its batches are small, and more replicas use more cores.
        ray_actor_options={"num_cpus": 1, "num_gpus": arguments.gpus},
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        graceful_shutdown_wait_loop_s=DRAIN_CHECK_SECONDS,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=HEALTH_CHECK_SECONDS,
        # The application writes its own access log.
        logging_config={"enable_access_log": False},
        max_constructor_retry_count=1,
    )
    return deployment(Replica).bind(arguments)
