"""Serving a model with replicas on a Ray cluster until the process gets a signal to end."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from nextvec.core.console import show
from nextvec.distributed.ray_cluster import ray_cluster
from nextvec.errors import InputError, OutputError, ServerError, one_line
from nextvec.inference.load import shipped_models
from nextvec.serving.protocol import ANSWER_SECONDS
from nextvec.serving.replica import ServiceArguments, read_arguments
from nextvec.serving.run import DRAIN_SECONDS, LINGER_SECONDS, SIGNALS, TOKEN_VARIABLE
from nextvec.serving.service import open_model
from nextvec.web.access import is_loopback
from nextvec.web.listen import address_of, bind, token_for

PURPOSE = "nextvec serve --engine ray"
POLL_SECONDS = 0.5
"""Interval in which the state of the application is read."""
PATIENCE_SECONDS = 30.0
"""Time after which a start that is not complete is reported."""
_REASON = re.compile(r"^(?:nextvec\.errors\.)?\w+Error: (.+)$", re.MULTILINE)
"""The message of an exception in the traceback of a replica."""


def serve_on_ray(values: dict[str, Any], *, port: int, address: str) -> None:
    """Serve a model with replicas on a Ray cluster until SIGINT or SIGTERM.

    `values` are the fields of `ServiceArguments`. Raises InputError for bad ones and the errors of
    `load_model` and `open_index` before Ray is started, OutputError if the port is in use, ServerError if the cluster
    can't be used or the application fails.
    """
    host, replicas = values["host"], values["replicas"]
    if replicas < 1:
        raise InputError(f"--replicas {replicas}: no process would answer. Pass at least 1.")
    token = values["token"] or os.environ.get(TOKEN_VARIABLE, "") or token_for(host, TOKEN_VARIABLE)
    # Processes of the cluster have other working folders.
    paths = {name: _absolute(values[name]) for name in ("model", "index")}
    paths["access_log"] = values["access_log"] and str(Path(values["access_log"]).absolute())
    # A mistake costs no start of Ray. Each replica loads the model again.
    arguments = read_arguments(values | paths | {"token": token})
    model, _ = open_model(arguments.model, arguments.index or None, "cpu")
    address = address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        with bind(host, port) as opened:
            port = opened.getsockname()[1]
    with _stop_signals() as stop, _ray_serve(address, host, port) as ray:
        _catch(stop)  # Ray has replaced the handlers
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if not address and replicas > cpus:
            raise InputError(
                f"--replicas {replicas}: each takes a CPU core, but there are {cpus}. Pass at most {cpus}."
            )
        _start(arguments.model_copy(update={"gpus": _gpu_share(ray, arguments.device, replicas)}), stop)
        if not stop.is_set():
            _announce(model.source, replicas, host, address_of(_reachable_host(ray, host), port, token))
        while not stop.wait(POLL_SECONDS):
            _is_running()
        _drain()


def _absolute(path: str) -> str:
    """Return the absolute path of a file or folder that exists, and other names as they are."""
    return str(Path(path).absolute()) if path and path not in shipped_models() and Path(path).exists() else path


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _catch(stop)
    try:
        yield stop
    except SystemExit:
        pass  # Ray's own answer to SIGTERM while it starts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _catch(stop: threading.Event) -> None:
    """Let SIGINT and SIGTERM set an event; a second one then ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handle)


@contextlib.contextmanager
def _ray_serve(address: str, host: str, port: int) -> Iterator[Any]:
    """Run Ray Serve, whose HTTP server is on the head node of the cluster; yield the module `ray`.

    Raises ServerError if the cluster can't be used, OutputError if the port is in use.
    """
    with contextlib.ExitStack() as quiet, ray_cluster(address or None, PURPOSE) as ray:
        from ray import serve  # with Ray itself, an extra

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if serve.status().proxies:
            raise ServerError(
                "Ray cluster: already runs Ray Serve. End it with 'serve shutdown', or use it with 'serve deploy'."
            )
        try:
            options = {"host": host, "port": port, "request_timeout_s": ANSWER_SECONDS}
            serve.start(proxy_location="HeadOnly", http_options=options)
            yield ray
        except (ray.exceptions.RayError, RuntimeError, TimeoutError) as error:
            if "Failed to bind" in str(error):
                raise OutputError(f"--port {port}: not free on {host} of the head node. Pass another port.") from error
            raise ServerError(f"Ray Serve: has failed ({one_line(error)}). See Ray's logs.") from error
        finally:
            # Ray prints that the processes of Ray Serve have ended as if that were an error.
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            serve.shutdown()  # type: ignore[no-untyped-call]


def _reachable_host(ray: Any, host: str) -> str:
    """Return the host of the service's URL: a wildcard address stands for that of the head node."""
    if host not in ("0.0.0.0", "::"):
        return host
    head = next(node for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
    return str(head["NodeManagerAddress"])


def _gpu_share(ray: Any, device: str, replicas: int) -> float:
    """Return the GPUs of each replica: a whole one, or a share if there are fewer GPUs than replicas."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device in ("cuda", "auto") else 0
    if device == "cuda" and not gpus:
        show(("device 'cuda' is not available in the Ray cluster; using cpu",))
    return 1 / math.ceil(replicas / gpus) if gpus else 0.0


def _start(arguments: ServiceArguments, stop: threading.Event) -> None:
    """Start the replicas, and wait until all answer or a signal arrives. Raises ServerError if one can't start."""
    from ray import serve

    from nextvec.serving.ray_app import NAME, deploy

    target = serve.RunTarget(deploy(arguments), NAME)
    serve.run_many([target], wait_for_applications_running=False)
    due = time.monotonic() + PATIENCE_SECONDS
    while not _is_running() and not stop.wait(POLL_SECONDS):
        if time.monotonic() > due:
            due = math.inf
            deployment = serve.status().applications[NAME].deployments[NAME]
            running = sum(count for state, count in deployment.replica_states.items() if state == "RUNNING")
            number = f"{running} of {arguments.replicas} replicas have started after {PATIENCE_SECONDS:.0f} s"
            show(
                (f"{number}. Each loads the model, and needs a free CPU core, or its share of a GPU, of the cluster.",)
            )


def _is_running() -> bool:
    """Return whether all replicas answer. Raises ServerError if the application has failed or was removed."""
    from ray import serve

    from nextvec.serving.ray_app import NAME

    application = serve.status().applications.get(NAME)
    if application is None:
        raise ServerError("Ray Serve: somebody else has removed the application. Start the service again.")
    if application.status == "DEPLOY_FAILED":
        reasons = [application.message, *(item.message for item in application.deployments.values())]
        raise ServerError(f"Ray Serve: a replica can't start ({_reason(reasons)}). See Ray's logs.")
    return application.status == "RUNNING"


def _reason(messages: Iterable[str]) -> str:
    """Return the message of the exception in a traceback of a replica, or the last line."""
    text = "\n".join(messages).strip()
    found = _REASON.findall(text)
    return (found[-1] if found else text.rpartition("\n")[2]).rstrip(".")


def _announce(model: str, replicas: int, host: str, url: str) -> None:
    """Print the URL, and a warning if other machines can reach it."""
    if not is_loopback(host):
        reach = f"other machines can reach this service on {host}"
        show((f"warning: {reach}. It requires the token, but is not encrypted.",))
    number = "1 replica" if replicas == 1 else f"{replicas} replicas"
    show((f"serving {model} with {number} at {url}  (Ctrl-C to stop)",))


def _drain() -> None:
    """Refuse new requests, answer the accepted ones, then end the replicas."""
    from ray import serve

    from nextvec.serving.ray_app import NAME

    # Replicas that are about to be replaced can't be asked, and need not be.
    with contextlib.suppress(Exception):
        serve.get_deployment_handle(NAME, NAME).broadcast("stop_accepting").results(timeout_s=DRAIN_SECONDS)
    time.sleep(LINGER_SECONDS)
    serve.delete(NAME)
