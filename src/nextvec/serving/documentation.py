"""The OpenAPI document of the service, and the page /docs that shows it without scripts or other sites."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nextvec.serving import schemas

REF = "#/components/schemas/{model}"
Request = type[BaseModel] | None

OPERATIONS: dict[tuple[str, str], tuple[Request, type[BaseModel] | None, tuple[int, ...]]] = {
    ("/v1/predict", "post"): (schemas.PredictRequest, schemas.PredictResponse, (400, 408, 413, 415, 422, 503)),
    ("/v1/next", "post"): (schemas.NextRequest, schemas.NextResponse, (400, 408, 409, 413, 415, 422, 503)),
    ("/v1/generate", "post"): (schemas.GenerateRequest, schemas.GenerateResponse, (400, 408, 409, 413, 415, 422, 503)),
    ("/v1/score", "post"): (schemas.ScoreRequest, schemas.ScoreResponse, (400, 408, 409, 413, 415, 422, 503)),
    ("/v1/model", "get"): (None, schemas.ModelResponse, (503,)),
    ("/healthz", "get"): (None, schemas.StatusResponse, ()),
    ("/readyz", "get"): (None, schemas.StatusResponse, (503,)),
    ("/metrics", "get"): (None, None, ()),
}
"""(path, method) → models of the request and the response, and the statuses of refusals."""

SUMMARIES = {
    "/v1/predict": "Predict the vectors that follow contexts of vectors",
    "/v1/next": "Find the chunks of the index that most likely follow a text",
    "/v1/generate": "Continue a text by chunks of the index",
    "/v1/score": "Score how expected each chunk of a document is",
}
"""Path of an operation that FastAPI does not document → what it does."""

REFUSALS = {
    400: "The body is not valid JSON, or not a .npy file.",
    401: "The token is missing or wrong.",
    408: "The body arrived too slowly.",
    409: "The service cannot do this: it has no index, or not the encoder of the model.",
    413: "The body is too large.",
    415: "The Content-Type is not supported.",
    421: "The Host header does not name this service.",
    422: "A value of the body cannot be used.",
    503: "The service is loading or stopping, or its queue is full. Try again after the time in Retry-After.",
}
NPY_DESCRIPTION = "A .npy file of float32 vectors: one context (S, D), or contexts of one length (N, S, D)."


def describe_api(app: FastAPI) -> None:
    """Add the models and the refusals of every operation to the OpenAPI document of an application."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document with the content of OPERATIONS."""
    models: list[tuple[type[BaseModel], str]] = []
    for request, response, _ in OPERATIONS.values():
        models += [(request, "validation")] if request is not None else []
        models += [(response, "serialization")] if response is not None else []
    models.append((schemas.ErrorResponse, "serialization"))
    _, definitions = models_json_schema(list(dict.fromkeys(models)), ref_template=REF)  # type: ignore[arg-type]
    document["components"] = {
        "schemas": definitions["$defs"],
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    }
    document["security"] = [{}, {"token": []}]
    documented = document["paths"]
    document["paths"] = {}
    for (path, method), (request, response, statuses) in OPERATIONS.items():
        operation = documented.get(path, {}).get(method) or {"summary": SUMMARIES[path]}
        document["paths"].setdefault(path, {})[method] = operation
        if request is not None:
            operation["requestBody"] = {"required": True, "content": _request_content(request)}
        content = {"text/plain": {"schema": {"type": "string"}}} if response is None else _content(response)
        operation["responses"] = {"200": {"description": "The result.", "content": content}}
        for status in sorted({*statuses, 401, 421}):
            refusal = {"description": REFUSALS[status], "content": _content(schemas.ErrorResponse)}
            operation["responses"][str(status)] = refusal
    return document


def _request_content(model: type[BaseModel]) -> dict[str, Any]:
    """Return the media types of a request: vectors can also be a .npy file."""
    content = _content(model)
    if model is schemas.PredictRequest:
        binary = {"type": "string", "format": "binary", "description": NPY_DESCRIPTION}
        content["application/octet-stream"] = {"schema": binary}
    return content


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def docs_page(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as a web page of one section per operation, and one per object."""
    title = f"{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{title} API</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/page.css">'
        '<link rel="stylesheet" href="/assets/app.css"><link rel="stylesheet" href="/assets/docs.css"></head><body>'
        '<header class="bar"><a class="home" href="/">nextvec serve</a><a href="/openapi.json">OpenAPI document</a>'
        f"</header><main><h1>{title} API</h1>"
        '<p>Every refusal has the body <code>{"error": "one line"}</code>. '
        '<a href="/">Try the API in the browser.</a></p>'
        f"{''.join(_operations(document))}<h2>Objects</h2>{''.join(_objects(document))}</main></body></html>\n"
    )


def _operations(document: dict[str, Any]) -> Iterator[str]:
    """Yield the section of each operation: its request, an example, and its responses."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
            yield f"<p>{html.escape(operation['summary'])}.</p>"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"<p>Request: <code>{kind}</code>, {_type_of(content['schema'])}</p>"
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                if example := _example(document["components"]["schemas"].get(name, {})):
                    text = json.dumps(example, ensure_ascii=False)
                    yield f"<pre>{html.escape(text)}</pre>"
            rows = (
                f"<tr><td>{status}</td><td>{html.escape(response['description'])}</td><td>"
                f"{', '.join(_type_of(content['schema']) for content in response['content'].values())}</td></tr>"
                for status, response in operation["responses"].items()
            )
            yield _table(("status", "meaning", "body"), rows)


def _objects(document: dict[str, Any]) -> Iterator[str]:
    """Yield the section of each object: its fields with their types, limits and meanings."""
    for name, schema in document["components"]["schemas"].items():
        rows = (
            f"<tr><td><code>{field}</code></td><td>{_type_of(values)}</td>"
            f"<td>{html.escape(values.get('description', ''))}</td></tr>"
            for field, values in schema.get("properties", {}).items()
        )
        yield f'<h3 id="{name}">{name}</h3><p>{html.escape(schema.get("description", ""))}</p>'
        yield _table(("field", "type", "meaning"), rows)


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    """Return a table of rows in HTML."""
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _type_of(schema: dict[str, Any]) -> str:
    """Return a type as HTML: a link to an object, or words such as "list of number, at most 256"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type_of, schema["anyOf"]))
    kind = str(schema.get("type", "any"))
    text = f"list of {_type_of(schema['items'])}" if kind == "array" and "items" in schema else kind
    limits = {"maxItems": "at most {}", "maxLength": "at most {} characters", "minimum": "≥ {}", "maximum": "≤ {}"}
    words = [text, *(form.format(schema[key]) for key, form in limits.items() if key in schema)]
    return ", ".join(words) + (f", default {json.dumps(schema['default'])}" if "default" in schema else "")


def _example(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an example of an object: the first example of each field that has one, apart from alternatives."""
    properties = schema.get("properties", {})
    fields = {name: values["examples"][0] for name, values in properties.items() if "examples" in values}
    if {"texts", "text"} <= fields.keys():
        del fields["text"]
    return fields
