"""The manifest of a store: its format version, its checksum, and the checksums of the other files."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nextvec.core.files import json_text
from nextvec.errors import StoreError, one_line

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


def parse_manifest(content: bytes, store: str) -> dict[str, Any]:
    """Return a manifest of this format version from its bytes; `store` names the store in messages.

    The checksum is not compared: see `is_intact`. Raises StoreError if the manifest is damaged or of another version.
    """
    try:
        manifest = json.loads(content)
        # Read the other entries only from a manifest of this version; another may lack them.
        version = manifest["format"]
        if version == FORMAT_VERSION:
            dict(manifest["files"]), manifest["space"], manifest["rows"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
