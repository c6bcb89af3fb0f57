"""Saving checkpoints of a run, and reading the latest one to resume from. The format is in `models/checkpoint.py`.

Every file is written completely or not at all. Its SHA-256 is recorded before the file is, beside the checksum of the
file that it replaces: whenever a writer is killed, one of the two is right. A file that matches neither is damaged; a
file with the same content, or the checkpoint saved before it, is used instead.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nextvec.core.files import keep_copy, write_bytes, write_json
from nextvec.core.run_paths import CHECKSUMS_FILE, PREVIOUS_STATE, RESUME_STATE
from nextvec.data.space import Space, require_same
from nextvec.data.store import Store
from nextvec.errors import CheckpointError, DamagedCheckpointError
from nextvec.models.checkpoint import FORMAT_VERSION, Checkpoint, intact_digest, read_checkpoint, read_checksums


def save_checkpoint(path: Path, values: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write a checkpoint completely or not at all; the file that it replaces is kept as `previous`, if named.

    Raises OutputError if it can't be written; the old files then stay as they were.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **values}, buffer)
    content = buffer.getbuffer()
    # Record the new checksums, each with the checksum of the file that is replaced, before any file changes.
    checksums = read_checksums(path.parent)
    before = intact_digest(path, checksums)
    new_digests = {path: hashlib.sha256(content).hexdigest()}
    if previous and before:
        new_digests[previous] = before
    for file, digest in new_digests.items():
        old_digest = before if file == path else intact_digest(file, checksums)
        checksums[file.name] = {"sha256": digest} | ({"before": old_digest} if old_digest else {})
    write_json(path.parent / CHECKSUMS_FILE, checksums)
    # Then the files: the old one under its second name, the new one in its place.
    if previous and before:
        keep_copy(path, previous)
    write_bytes(path, content)


def read_resume_checkpoint(folder: Path) -> Checkpoint:
    """Return the latest training state of a run; if it is damaged or missing the one before it, with a `notice`.

    Raises DamagedCheckpointError if neither is intact, CheckpointError as `read_checkpoint` does.
    """
    try:
        return read_checkpoint(folder / RESUME_STATE)
    except DamagedCheckpointError as error:
        if not (folder / PREVIOUS_STATE).is_file():
            raise
        notice = f"{error}. Resuming from the previous training state, {PREVIOUS_STATE}."
        return replace(read_checkpoint(folder / PREVIOUS_STATE), notice=notice)


def require_same_space(checkpoint: Checkpoint, store: Store) -> None:
    """Raise CheckpointError or SpaceError if a checkpoint's model was not trained on vectors such as the store's."""
    dimensions = checkpoint.config["dimensions"]
    if dimensions != store.dimensions:
        name = checkpoint.values.get("encoder", "")
        encoder = f", '{name}'" if name else ""
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: {dimensions}-D, but store {store.name} is {store.dimensions}-D. "
            f"Use a store of the encoder that it was trained with{encoder}"
        )
    if "space" in checkpoint.values:  # the original trainer's files have none
        space = Space.from_dict(checkpoint.values["space"])
        require_same(space, store.space, f"checkpoint {checkpoint.path} and store {store.name}")
