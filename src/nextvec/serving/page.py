"""The page to try the service: `GET /` and its assets."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

PAGE = "index.html"
ASSETS = {"page.css": "nextvec.reports.html", "docs.css": "nextvec.serving"}
"""File → package with the folder `assets` that contains it. No other file is served."""
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def add_page(app: FastAPI) -> None:
    """Add the routes of the page."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("nextvec.serving", PAGE)

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return _file(ASSETS[name], name)


def _file(package: str, name: str) -> Response:
    content = files(package).joinpath("assets", name).read_bytes()
    return Response(content, media_type=MEDIA_TYPES[Path(name).suffix])
