"""The application: routes, their documentation, and the middleware around them.

POST /v1/predict    vectors → prediction and query      GET /v1/model   the model and its limits
POST /v1/next       text → next chunks of the index     GET /healthz    200 while the process runs
POST /v1/generate   text → continuation                 GET /readyz     200 if requests are accepted, else 503
POST /v1/score      text → scores of its chunks         GET /metrics    Prometheus
GET  /              a page to try it                    GET /docs       this API, from /openapi.json
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

import nextvec
from nextvec.serving import schemas
from nextvec.serving.access_log import AccessLog
from nextvec.serving.documentation import describe_api, docs_page
from nextvec.serving.errors import (
    CLIENT_GONE,
    RequestError,
    as_request_error,
    error_response,
    internal_error,
    validation_message,
)
from nextvec.serving.limits import BodyLimits
from nextvec.serving.observe import Observer
from nextvec.serving.page import PAGE_PATHS, add_page
from nextvec.serving.service import Service
from nextvec.serving.vectors import json_contexts, npy_contexts, require_contexts
from nextvec.serving.work import PredictWork, TextWork
from nextvec.web.access import AccessControl

JSON, NPY = "application/json", "application/octet-stream"
OPEN_PATHS = ("/healthz", "/readyz", *PAGE_PATHS)
"""Probes have no token, and the page asks for it."""


def make_app(service: Service, *, host: str = "127.0.0.1", token: str = "", log: AccessLog | None = None) -> ASGIApp:
    """Return the application for the address `host`; an empty `token` means that none is required."""
    app = FastAPI(
        title="nextvec", version=nextvec.__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
    )
    app.state.service = service
    app.add_exception_handler(Exception, _answer_internal_error)
    for kind in (RequestError, nextvec.NextvecError, HTTPException, ValidationError, ClientDisconnect):
        app.add_exception_handler(kind, _answer_error)
    _add_model_routes(app)
    _add_state_routes(app, service)
    add_page(app)
    describe_api(app)
    paths = frozenset(route.path for route in app.routes if "{" not in route.path)  # type: ignore[attr-defined]
    protected = AccessControl(BodyLimits(app), host=host, token=token, open_paths=OPEN_PATHS, refuse=error_response)
    return Observer(protected, metrics=service.metrics, log=log or AccessLog(), paths=paths)


def _add_model_routes(app: FastAPI) -> None:
    """Add the routes that run the model.

    They are plain routes of Starlette, because they parse their bodies themselves: the resolution of parameters takes
    FastAPI as long as everything else that it does for a request. `describe_api` documents them.
    """
    for task in (predict, next, generate, score):
        app.add_route(f"/v1/{task.__name__}", task, methods=["POST"], include_in_schema=False)


async def predict(request: Request) -> Response:
    """Predict the vectors that follow contexts of vectors."""
    service: Service = request.app.state.service
    runner = service.runner
    kind = _require_media_type(request, JSON, NPY)
    body = await request.body()
    contexts = json_contexts(body) if kind == JSON else npy_contexts(body)
    require_contexts(contexts, runner.model)
    result = await service.run(PredictWork(contexts), request.scope["nextvec"])
    return _json({"model": runner.model.source, "prediction": result.prediction_ND, "query": result.query_ND})


async def next(request: Request) -> Response:
    """Find the chunks of the index that most likely follow a text."""
    values = await _read(request, schemas.NextRequest, needs_index=True)
    return await _run_texts(request, TextWork("next", _document(values), values.k))


async def generate(request: Request) -> Response:
    """Continue a text by chunks of the index."""
    values = await _read(request, schemas.GenerateRequest, needs_index=True)
    return await _run_texts(request, TextWork("generate", _document(values), values.steps, snap=not values.raw))


async def score(request: Request) -> Response:
    """Score how expected each chunk of a document is."""
    values = await _read(request, schemas.ScoreRequest, needs_index=False)
    return await _run_texts(request, TextWork("score", _document(values)))


def _add_state_routes(app: FastAPI, service: Service) -> None:
    """Add the routes for those who operate the service."""

    @app.get("/v1/model", summary="Describe the model, its index and the limits")
    async def model() -> Response:
        return _json(service.describe())

    @app.get("/healthz", summary="Report that the process runs")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", summary="Report whether requests are accepted")
    async def readyz() -> Response:
        _ = service.runner
        return _json({"status": service.state})

    @app.get("/metrics", summary="Return the metrics in the text format of Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(app.openapi()), media_type="text/html")


async def _read(request: Request, schema: type[Any], *, needs_index: bool) -> Any:
    """Return the validated body of a request about texts."""
    service: Service = request.app.state.service
    service.require_texts(needs_index=needs_index)
    _require_media_type(request, JSON)
    return schema.model_validate_json(await request.body())


def _document(values: Any) -> str | list[str]:
    """Return the text of a request, or its list of texts."""
    document: str | list[str] = values.text if "text" in values.model_fields_set else values.texts
    return document


async def _run_texts(request: Request, work: TextWork) -> Response:
    service: Service = request.app.state.service
    return _json(await service.run(work, request.scope["nextvec"]))


def _require_media_type(request: Request, *accepted: str) -> str:
    """Return the media type of the body. Raises RequestError (415) for others.

    Browsers send none of the accepted types to another site without asking first, so no page can use this service.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise RequestError(f"Content-Type {kind or '(none)'}: send {' or '.join(accepted)}.", 415)
    return kind


def _json(values: Any) -> Response:
    return Response(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Return the response of a refused request, whoever refused it."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, ValidationError):
        status, message = validation_message(error)
        return error_response(message, status)
    if isinstance(error, HTTPException):
        message = {
            404: "No such path. See /docs.",
            405: f"{request.method}: is not a method of this path. See /docs.",
        }.get(error.status_code, str(error.detail))
        return error_response(message, error.status_code, error.headers)
    refusal = as_request_error(error)
    return error_response(refusal.message, refusal.status, refusal.headers) if refusal else internal_error(error)


async def _answer_internal_error(request: Request, error: Exception) -> Response:
    return internal_error(error)
