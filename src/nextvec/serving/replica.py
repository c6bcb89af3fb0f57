"""One of several processes that serve a model together: its arguments, and its application."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from nextvec.errors import InputError, did_you_mean
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.errors import error_response
from nextvec.serving.run import TOKEN_VARIABLE
from nextvec.serving.service import Service
from nextvec.web.access import is_loopback

NOT_LOCAL = f"Without a token, only programs on the machine of the server have access. Set {TOKEN_VARIABLE}."


class ServiceArguments(BaseModel):
    """The arguments of a replica, named like the options of `nextvec serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    index: str = ""
    host: str = "127.0.0.1"
    """The host name or address that clients use. The address to serve on is an option of Ray Serve."""
    token: str = Field("", repr=False)
    access_log: str = ""
    device: str = "cpu"
    replicas: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    """GPUs of each replica; 0.5 lets two replicas share one."""


def read_arguments(arguments: Mapping[str, Any]) -> ServiceArguments:
    """Return the checked arguments of a service. Raises InputError for the first that cannot be used."""
    known = ServiceArguments.model_fields
    for name in arguments:
        if name not in known:
            raise InputError(f"argument '{name}': is unknown.{did_you_mean(name, known)}")
    # The environment of the replica, unless the config has a token.
    values = {"token": os.environ.get(TOKEN_VARIABLE, ""), **arguments}
    try:
        checked = ServiceArguments.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"argument '{first['loc'][0]}': {first['msg']}. See nextvec serve --help.") from None
    # As for `nextvec serve`: whoever reaches another address needs a token.
    if not checked.token and not is_loopback(checked.host):
        raise InputError(f"host '{checked.host}': needs a token. Set {TOKEN_VARIABLE}.")
    if checked.device.startswith("cuda:"):
        raise InputError(f"device '{checked.device}': names a GPU, but Ray chooses it. Pass cuda.")
    return checked


class ReplicaApp:
    """The ASGI application of one replica: that of `nextvec serve` with a model of its own."""

    def __init__(self, arguments: ServiceArguments, name: str) -> None:
        """Load the model and the index. `name` marks the metrics of this replica. Raises the errors of `load_model`."""
        self._service = Service({"replica": name})
        self._service.open(self._service.load(arguments.model, arguments.index or None, arguments.device))
        self._needs_local_client = not arguments.token
        log = AccessLog(Path(arguments.access_log) if arguments.access_log else None)
        self._app = make_app(self._service, host=arguments.host, token=arguments.token, log=log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that Ray Serve passes on."""
        # Ray Serve listens, so the address of the client is checked instead of our own.
        if scope["type"] == "http" and self._needs_local_client and _is_remote(scope.get("client")):
            return await error_response(NOT_LOCAL, 403)(scope, receive, send)

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]  # Ray Serve adds it
            await send(message)

        await self._app(scope, receive, send_without_id)

    def stop_accepting(self) -> None:
        """Refuse new requests; those that were accepted are still answered."""
        self._service.stop_accepting()


def _is_remote(client: tuple[str, int] | None) -> bool:
    """Return whether the address of a client is one of another machine."""
    return client is not None and not ipaddress.ip_address(client[0]).is_loopback
