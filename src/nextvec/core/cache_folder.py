"""The user's cache folder, for what can be made again: imported .npz files, and copies of stores at a URL."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from nextvec.core.paths import expand_home

CACHE = "NEXTVEC_CACHE"
"""Environment variable of the cache folder. Without it, the folder `nextvec` in the platform's cache folder."""


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    It is that of NEXTVEC_CACHE; else in XDG_CACHE_HOME or the platform's cache folder; else, without a home folder that
    can be written to, in the temporary folder, in a folder of this user.
    """
    if configured := os.environ.get(CACHE, ""):
        return Path(expand_home(configured)).absolute()
    if configured := os.environ.get("XDG_CACHE_HOME", ""):
        cache = Path(configured)
    elif sys.platform == "darwin":
        cache = Path(expand_home("~/Library/Caches"))
    else:
        cache = Path(expand_home("~/.cache"))
    # XDG paths must be absolute; a relative one is ignored.
    if not cache.is_absolute() or not _can_make(cache):
        return Path(tempfile.gettempdir(), f"nextvec-{os.getuid()}")
    return cache / "nextvec"


def _can_make(folder: Path) -> bool:
    """Return whether a folder exists and can be written to, or can be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return is_writable(folder)


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, by making one: permissions alone don't show a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
