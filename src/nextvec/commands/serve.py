"""The command that serves a model over HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextvec.commands.parameters import PATH, Device, Engine, File, RayAddress, command
from nextvec.distributed.ray_cluster import uses_ray
from nextvec.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from nextvec.inference.index_types import Index
    from nextvec.inference.model import LatentVectorModel

    Model = str | Path | LatentVectorModel
    IndexSource = str | Path | Index
else:
    Model = Annotated[str | Path, Parameter(metavar="MODEL"), PATH]
    IndexSource = Annotated[str | Path, Parameter(metavar="STORE"), PATH]

PACKAGES = ("fastapi", "orjson", "prometheus_client")
"""Packages of the extra `serve`."""
PORT = 8000


@command(outlives_terminal=False)
def serve(
    model: Model,
    *,
    index: IndexSource = "",
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: int = PORT,
    token: Annotated[str, Parameter(metavar="TOKEN")] = "",
    access_log: File = "",
    device: Device = "cpu",
    engine: Engine = "local",
    replicas: int = 1,
    address: RayAddress = "",
) -> None:
    """Serve a model over HTTP: predictions for vectors; next chunks, continuations and scores for texts.

    Answers until Ctrl-C or SIGTERM, then finishes the accepted requests and stops within 5 seconds, or about 10 with
    Ray. The API is at /docs, a page to try it at /. Needs the extra 'serve'.

    Args:
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        index: The store that 'next' and 'generate' search. Without it, the service refuses both.
        host: Address to serve on. Any other than the default requires a token.
        port: Port to serve on. 0 lets the system choose.
        token: Token that clients must send as 'Authorization: Bearer TOKEN'. Default: the environment variable
            NEXTVEC_SERVE_TOKEN; else none on the default address, and a new one elsewhere.
        access_log: File to append a JSON line per request to. Default: standard error.
        device: Device of the model.
        engine: 'local': this process answers. 'ray': replicas on a Ray cluster answer. Needs the extra 'ray'.
        replicas: Number of replicas; each takes a CPU core, or a GPU or a share of one. Needs the engine 'ray'.
        address: Address of the Ray cluster, such as 'auto' or HOST:6379. Default: the environment variable
            RAY_ADDRESS; else a cluster that this command starts on this machine. Needs the engine 'ray'.
    """
    is_on_ray = uses_ray(engine, {"--replicas": replicas if replicas != 1 else None, "--address": address})
    packages = dict.fromkeys(PACKAGES, "serve") | ({"ray": "ray"} if is_on_ray else {})
    for package, extra in packages.items():
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), extra, "nextvec serve")
    options: dict[str, Any] = {"host": host, "token": token, "device": device}
    if is_on_ray:
        _serve_on_ray(model, index, options | {"access_log": str(access_log), "replicas": replicas}, port, address)
        return
    from nextvec.serving.run import serve_model

    path = Path(access_log) if str(access_log) else None
    source: Any = None if isinstance(index, str) and not index else index
    serve_model(model, source, port=port, access_log=path, **options)


def _serve_on_ray(model: Model, index: IndexSource, options: dict[str, Any], port: int, address: str) -> None:
    """Serve with replicas, which open the model and the index by their names."""
    for name, value in {"model": model, "index": index}.items():
        if not isinstance(value, str | Path):
            raise InputError(f"{name}: is an object, but replicas open it by its name. Pass the name or the path.")
    from nextvec.serving.ray_run import serve_on_ray

    serve_on_ray({"model": str(model), "index": str(index), **options}, port=port, address=address)
