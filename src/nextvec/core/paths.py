"""Paths as users write them: ``~`` is the home folder, and an empty path is a mistake."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nextvec.core.urls import clean_url, is_url
from nextvec.errors import InputError

_HUB_PREFIX = "hf:"


def expand_path(path: Any, name: str) -> Any:
    """Return a path, or each of a sequence, with ``~`` and ``~user`` at its start replaced by the home folder.

    Values that are not paths (None, a recipe as a dict) are returned unchanged, and so is the type of a path. Raises
    InputError that calls the path `name` if it is empty, or a URL that contains a secret.
    """
    if isinstance(path, str):
        if not path.strip():
            raise InputError(f"{name}: the path is empty. Name a file or folder, or leave it out.")
        if is_url(path):
            return clean_url(path, name)
        prefix = _HUB_PREFIX if path.startswith(_HUB_PREFIX) else ""
        return prefix + expand_home(path.removeprefix(prefix))
    if isinstance(path, os.PathLike):
        return Path(expand_home(os.fspath(path)))
    if isinstance(path, Sequence):
        return tuple(expand_path(item, name) for item in path)
    return path


def expand_home(path: str) -> str:
    """Return a path with ``~`` or ``~user`` at its start expanded; an unknown user is left as it is."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for an unknown user, and rewrites hub names


def readable_name(name: str) -> str:
    r"""Return a file name as valid Unicode: each byte that is not UTF-8 is escaped, ``caf\xe9.txt``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
