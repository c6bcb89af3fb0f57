"""The manifest of a store: its format version, its checksum, and the checksums of the other files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nextvec.core.files import json_text, sha256_of
from nextvec.errors import StoreError, one_line

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REBUILD = "Build the store again, or copy it again."


def parse_manifest(content: bytes, store: str) -> dict[str, Any]:
    """Return a manifest of this format version from its bytes; `store` names the store in messages.

    The checksum is not compared: see `is_intact`. Raises StoreError if the manifest is damaged or of another version.
    """
    try:
        manifest = json.loads(content)
        # Read the other entries only from a manifest of this version; another may lack them.
        version = manifest["format"]
        if version == FORMAT_VERSION:
            manifest["files"].items(), manifest["space"], manifest["rows"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"store {store}: {MANIFEST} is damaged ({one_line(error)}). Build the store again.") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"store {store}: has format {version!r:.20}, but this nextvec reads format {FORMAT_VERSION}. "
            "Build the store again, or upgrade nextvec."
        )
    return dict(manifest)


def is_intact(manifest: dict[str, Any], content: bytes) -> bool:
    """Return whether a manifest has its own checksum, and was written exactly as `json_text` writes it."""
    return manifest.get("checksum") == manifest_checksum(manifest) and content == json_text(manifest).encode()


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own entry `checksum`."""
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def verify_store(path: Path, remedy: str = REBUILD) -> int:
    """Compare every file of a store with the SHA-256 in its manifest; return the number of files.

    The manifest is verified and counted too. Reads all bytes. Raises StoreError that names the first file that is
    missing or differs, and ends with the remedy.
    """
    try:
        content = (path / MANIFEST).read_bytes()
        manifest = json.loads(content)
        files = dict(manifest["files"])
        is_unchanged = is_intact(manifest, content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"store {path}: {MANIFEST} is damaged ({one_line(error)}). {remedy}") from error
    if not is_unchanged:
        raise StoreError(f"store {path}: {MANIFEST} has changed since it was written. {remedy}")
    # In the order of the manifest, so that the same file is named each time.
    for name, expected in files.items():
        try:
            digest = sha256_of(path / name)
        except OSError as error:
            raise StoreError(f"store {path}: {name} can't be read ({error.strerror}). {remedy}") from error
        if digest != expected:
            raise StoreError(f"store {path}: {name} has changed since it was written (SHA-256 differs). {remedy}")
    return len(files) + 1
