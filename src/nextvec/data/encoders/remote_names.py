"""Names of encoders behind a server: ``openai:URL#MODEL``.

The URL is only the way to the model, so another URL names the same encoder.
"""

from __future__ import annotations

from nextvec.core.server_settings import require_url
from nextvec.data.space import RESERVED_NAMES
from nextvec.errors import InputError

PREFIX = "openai:"


def parse_name(name: str) -> tuple[str, str]:
    """Return the URL and the model of ``openai:URL#MODEL``. The URL is empty if the name has none.

    Raises InputError if the URL cannot be used (see `require_url`) or there is no model.
    """
    url, _, model = name.removeprefix(PREFIX).partition("#")
    shown = f"encoder {PREFIX}URL#{model}" if model else f"encoder {PREFIX}URL#MODEL"
    if url:
        require_url(url, shown)
    if not model.strip() or not model.isprintable():
        raise InputError(f"{shown}: names no model. Write {PREFIX}URL#MODEL, such as {PREFIX}http://localhost:8080#m.")
    if model in RESERVED_NAMES:
        raise InputError(f"{shown}: '{model}' has another meaning. Serve the model by another name.")
    return url.rstrip("/"), model


def full_remote_name(name: str) -> str:
    """Return the canonical form of ``openai:URL#MODEL``, without a slash at the end of the URL."""
    url, model = parse_name(name)
    return f"{PREFIX}{url}#{model}"


def without_url(name: str) -> str:
    """Return the name of an encoder without the URL of its server; other names are returned unchanged."""
    return f"{PREFIX}#{name.partition('#')[2]}" if name.startswith(PREFIX) else name


def embeddings_url(url: str) -> str:
    """Return the URL to post to: ``/v1/embeddings`` of a host, ``/embeddings`` below a path, or the URL itself."""
    if url.endswith("/embeddings"):
        return url
    has_path = bool(require_url(url, "encoder").path.strip("/"))
    return f"{url.rstrip('/')}/embeddings" if has_path else f"{url.rstrip('/')}/v1/embeddings"
