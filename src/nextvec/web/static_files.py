"""The pages, scripts and styles in the `assets` folders of the packages that have a page."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

from starlette.responses import Response

MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}

SHARED_ASSETS = {
    "page.css": "nextvec.reports.html",
    "chart.js": "nextvec.reports.html",
    "app.css": "nextvec.web",
    "dom.js": "nextvec.web",
}
"""Assets of every page, with the package that contains them: the look of the reports, and the elements of a page."""


def asset_response(package: str, name: str) -> Response:
    """Return a file of a package's `assets` folder; no part of `name` may come from a request."""
    content = files(package).joinpath("assets", name).read_bytes()
    return Response(content, media_type=MEDIA_TYPES[PurePath(name).suffix])
