"""URLs of stores, such as ``s3://bucket/wiki``: which texts are URLs, and which of them can be used.

A URL is written into run folders and messages, so it must not contain a password, a key or a token.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from nextvec.errors import InputError, one_line

_URL = re.compile(r"([a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"(s3a?|gc?s|az|abfs|memory|file|https?|sftp|hdfs):/(?!/)", re.IGNORECASE)

_SCHEMES_WITHOUT_USER = ("http", "https", "s3", "s3a", "gs", "gcs")
"""Schemes of services that know no user in a URL; what is there is a key. In ``sftp://user@host`` it is a name."""


def is_url(name: str | os.PathLike[str]) -> bool:
    """Return whether a text begins with a scheme and ``://``, or with several schemes, which ``::`` chains."""
    return bool(_URL.match(os.fspath(name)))


def has_one_slash(name: str) -> bool:
    """Return whether a text is a URL that lost a slash, ``s3:/bucket``, as `pathlib.Path` writes it."""
    return bool(_ONE_SLASH.match(name))


def mask_url(url: str) -> str:
    """Return a URL without the parts that may be secret: user, password, query and fragment become ``***``."""
    masked = re.sub(r"(://)[^/]*@", r"\1***@", url)
    return re.sub(r"[?#].*", "?***", masked, flags=re.DOTALL)


def clean_url(url: str, owner: str = "store") -> str:
    """Return the URL of a store with its scheme in lower case and without a slash at its end.

    The `owner` begins every message. Raises InputError for a URL that names nothing, or that has a part that may be
    secret; no message shows that part.
    """
    owner = f"{owner} {mask_url(url)}"
    if not url.isprintable() or url != url.strip():
        raise InputError(f"{owner}: the URL contains a control character, or a space at an end. Remove it.")
    # fsspec chains file systems, such as zip://FILE::s3://BUCKET/ARCHIVE: each link may contain a secret.
    for link in url.split("::"):
        _require_public(link, owner)
    schemes = re.compile(r"(^|::)([a-z][a-z0-9+.-]+)(?=://|::)", re.IGNORECASE)
    return schemes.sub(lambda match: match[0].lower(), url).rstrip("/")


def _require_public(url: str, owner: str) -> None:
    """Raise InputError unless a URL, or a link of a chained one, names something and contains no secret."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if "://" in url and not rest.strip("/"):
        raise InputError(f"{owner}: the URL names nothing after '{scheme}://'. Write {scheme}://BUCKET/FOLDER.")
    try:
        user_info, has_user, _ = urlsplit(url).netloc.rpartition("@")
    except ValueError as error:
        raise InputError(
            f"{owner}: the URL is malformed ({one_line(error)}). Write {scheme}://BUCKET/FOLDER."
        ) from error
    # In other schemes a user without a password is a name.
    if has_user and (":" in user_info or scheme in _SCHEMES_WITHOUT_USER):
        raise InputError(
            f"{owner}: the URL contains a key or a password. Remove it; fsspec reads credentials from the environment."
        )
    # Signed URLs have their key there.
    if "?" in url or "#" in url:
        raise InputError(f"{owner}: the URL has a part after '?' or '#'. Remove it; credentials are read elsewhere.")
    if scheme in ("file", "local") and "://" in url and not rest.startswith("/"):
        raise InputError(
            f"{owner}: the path after '{scheme}://' is relative. Write {scheme}:///FOLDER, or the path alone."
        )
