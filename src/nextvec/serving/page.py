"""The page to try the model in a browser: `GET /` and its scripts and styles. All its data come from the API."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

from nextvec.web.static_files import SHARED_ASSETS, asset_response

PACKAGE = "nextvec.serving"
PAGE = "index.html"
ASSETS = SHARED_ASSETS | dict.fromkeys(("docs.css", "try.css", "try.js", "results.js"), PACKAGE)
"""File → package with the folder `assets` that contains it. No other file is served."""

PAGE_PATHS = ("/", *(f"/assets/{name}" for name in ASSETS))
"""Paths that need no token: the page asks for it, and contains nothing of the model."""


def add_page(app: FastAPI) -> None:
    """Add the routes of the page."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return asset_response(PACKAGE, PAGE)

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return asset_response(ASSETS[name], name)
