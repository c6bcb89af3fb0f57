"""The command that serves a model over HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nextvec.commands.parameters import PATH, Device, File, command
from nextvec.errors import MissingExtraError

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
) -> None:
    """Serve a model over HTTP: predictions for vectors; next chunks, continuations and scores for texts.

    Answers until Ctrl-C or SIGTERM, then finishes the accepted requests and stops within 5 seconds. The API is at
    /docs, a page to try it at /. Needs the extra 'serve'.

    Args:
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        index: The store that 'next' and 'generate' search. Without it, the service refuses both.
        host: Address to serve on. Any other than the default requires a token.
        port: Port to serve on. 0 lets the system choose.
        token: Token that clients must send as 'Authorization: Bearer TOKEN'. Default: the environment variable
            NEXTVEC_SERVE_TOKEN; else none on the default address, and a new one elsewhere.
        access_log: File to append a JSON line per request to. Default: standard error.
        device: Device of the model.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "serve", "nextvec serve")
    from nextvec.serving.run import serve_model

    path = Path(access_log) if str(access_log) else None
    source: Any = None if isinstance(index, str) and not index else index
    serve_model(model, source, host=host, port=port, token=token, device=device, access_log=path)
