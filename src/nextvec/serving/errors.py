"""Refusals: every answer that is not 2xx is `{"error": "one line"}`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from nextvec.core.console import show
from nextvec.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    NextvecError,
    ServerError,
    escape_controls,
    one_line,
)

CLIENT_GONE = 499
"""Status in the log if the client has closed the connection; it gets no response."""


class RequestError(Exception):
    """A request that is refused with a status and one line."""

    def __init__(self, message: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.headers = message, status, headers


def error_response(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the JSON response of a refusal."""
    # Messages quote names and texts of the request.
    content = orjson.dumps({"error": escape_controls(message)})
    return Response(content, status, headers, media_type="application/json")


def as_request_error(error: Exception) -> RequestError | None:
    """Return how an error of the model or of its input is answered; None for an internal error."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, MissingExtraError | CheckpointError):
        return RequestError(str(error), 409)
    if isinstance(error, InputError):
        return RequestError(str(error), 422)
    if isinstance(error, ServerError):  # its message has an address that clients need not know
        show((str(error),))
        return RequestError("The server of the encoder does not answer. Try again later.", 503)
    return RequestError(str(error), 409) if isinstance(error, NextvecError) else None


def validation_message(error: ValidationError) -> tuple[int, str]:
    """Return the status and the line of the first problem that pydantic found in a body."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return 400, f"The body is not valid JSON: {one_line(first['ctx']['error'])}."
    where = ".".join(str(part) for part in first["loc"])[:100]
    message = first["msg"].removeprefix("Value error, ")
    return 422, f"{where or 'body'}: {message[:200]}."


def internal_error(error: Exception) -> Response:
    """Return the response to a request that failed because of a fault in nextvec; the cause is written to the log."""
    if os.environ.get("NEXTVEC_DEBUG"):
        traceback.print_exception(error)
    else:
        show((f"internal error (NEXTVEC_DEBUG=1 shows where): {type(error).__name__}: {one_line(error)}",))
    return error_response("Internal error. It is reported in the log of the service.", 500)
