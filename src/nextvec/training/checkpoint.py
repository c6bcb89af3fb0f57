"""Checkpoints: files of tensors and plain values that name everything a model needs to be used again.

A checkpoint is one dictionary: `format`, `model_type`, `model_config`, `model_state_dict` (the names that the original
trainer used, so that its files and ours are read the same way), and `recipe`, `data`, `space`, `context`, `epoch`,
`step`, `metrics`, `version`. `resume.pt` has `training` besides: optimizer, random state, sums and history.

Files are written whole or not at all and loaded with `weights_only=True`. Their SHA-256 stands in `checkpoints.json`
before they do, beside that of the file in whose place they come: whenever a writer is killed, one of the two is right.
A file that is neither is damaged, and what holds the same, or the position saved before, stands in for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.core.files import keep_copy, sha256_of, write_bytes, write_json
from nextvec.core.run_paths import BEST_MODEL, CHECKSUMS_FILE, PREVIOUS_STATE, RESUME_STATE
from nextvec.data.space import Space
from nextvec.errors import CheckpointError, DamagedCheckpointError
from nextvec.models.load_weights import load_weights, original_config
from nextvec.models.registry import LatentModel, model_from_config
from nextvec.recipe import Recipe, make_recipe

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, of nextvec or of the original trainer."""

    path: Path
    values: dict[str, Any]
    notice: str = ""
    """Why it was read in place of another file; empty where it is the one that was asked for."""

    @property
    def ours(self) -> bool:
        """Whether nextvec wrote it; the original trainer's files lack context, space and recipe."""
        return "format" in self.values

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration for `model_from_config`."""
        config: dict[str, Any] = self.values["model_config"] if self.ours else original_config(self.values)
        return config

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's state."""
        weights: dict[str, Tensor] = self.values["model_state_dict"]
        return weights

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained by; the original trainer's files say none, so the defaults."""
        return make_recipe(tomllib.loads(self.values.get("recipe", "")), where=f"checkpoint {self.path}")

    @property
    def space(self) -> Space | None:
        """The space of its vectors; None where the file doesn't say."""
        return Space.from_dict(self.values["space"]) if "space" in self.values else None

    def model(self) -> LatentModel:
        """The model with its weights, in evaluation mode, on the CPU. Raises CheckpointError if they don't fit."""
        model = model_from_config(self.config)
        load_weights(model, self.weights, strict=True)
        return model.eval()


def save_checkpoint(path: Path, values: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint whole or not at all; what `path` held goes on under the name `keep`, where that is given.

    Raises OutputError if it can't be written; the old one then stays, and so does what `keep` held.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **values}, buffer)
    content = buffer.getbuffer()
    checksums = read_checksums(path.parent)
    before = _intact_digest(path, checksums)
    new = {path: hashlib.sha256(content).hexdigest()} | ({keep: before} if keep and before else {})
    for file, digest in new.items():
        old = before if file == path else _intact_digest(file, checksums)
        checksums[file.name] = {"sha256": digest} | ({"before": old} if old else {})
    write_json(path.parent / CHECKSUMS_FILE, checksums)
    if keep and before:
        keep_copy(path, keep)
    write_bytes(path, content)


def read_checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """The checksums of a run folder's checkpoints by file name; empty where there are none."""
    try:
        checksums = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(checksums, dict):
        return {}
    return {name: entry for name, entry in checksums.items() if isinstance(entry, dict)}


def _intact_digest(path: Path, checksums: dict[str, dict[str, Any]]) -> str:
    """The SHA-256 of a file, if it is one that was recorded for it; else empty."""
    entry = checksums.get(path.name)
    if not entry or not path.is_file():
        return ""
    digest = sha256_of(path)
    return digest if digest in (entry.get("sha256"), entry.get("before")) else ""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint file, or the best one of a run folder, onto the CPU.

    A damaged file is replaced by one beside it that was saved with the same bytes, if there is one (best_model.pt is
    also an epoch's file); the checkpoint then says so. Raises DamagedCheckpointError if there is none, CheckpointError
    if the file is missing, of another format, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BEST_MODEL
    checksums = read_checksums(path.parent)
    try:
        return _read(path, checksums)
    except DamagedCheckpointError as error:
        recorded = checksums.get(path.name, {}).get("sha256")
        for name in sorted(checksums):
            twin = path.with_name(name)
            if name != path.name and recorded and _intact_digest(twin, checksums) == recorded:
                return replace(_read(twin, checksums), notice=f"{error}; {name} holds the same and is read instead")
        raise


def read_position(folder: Path) -> Checkpoint:
    """The last saved position of a run; where that is damaged or gone the one before it, which then says so.

    Raises DamagedCheckpointError if neither is whole, CheckpointError as `read_checkpoint`.
    """
    try:
        return read_checkpoint(folder / RESUME_STATE)
    except DamagedCheckpointError as error:
        if not (folder / PREVIOUS_STATE).is_file():
            raise
        notice = f"{error}; going on from the position saved before it, {PREVIOUS_STATE}"
        return replace(read_checkpoint(folder / PREVIOUS_STATE), notice=notice)


def _read(path: Path, checksums: dict[str, dict[str, Any]]) -> Checkpoint:
    """Load one file, once its bytes are known to be those that were saved, as far as that can be known."""
    recorded = path.name in checksums
    if not path.is_file():
        kind = DamagedCheckpointError if recorded else CheckpointError
        raise kind(f"checkpoint {path}: no such file; name a .pt file or the folder of a run")
    if recorded and not _intact_digest(path, checksums):
        raise DamagedCheckpointError(f"checkpoint {path}: its bytes are not those that were saved (SHA-256 differs)")
    try:
        if not recorded and zipfile.is_zipfile(path):
            _require_checksums_of_members(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage leads to
        reason = " ".join(str(error).split())[:160]
        raise DamagedCheckpointError(
            f"checkpoint {path}: not a readable file of tensors and plain values ({type(error).__name__}: {reason})"
        ) from error
    _require_form(path, values)
    return Checkpoint(path, values)


def _require_checksums_of_members(path: Path) -> None:
    """Raise ValueError if a part of a file that stands alone has changed; torch.load would not notice."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of its part {broken} differs")


def _require_form(path: Path, values: Any) -> None:
    """Raise CheckpointError unless `values` are what a checkpoint of this format holds."""
    version = values.get("format", FORMAT_VERSION) if isinstance(values, dict) else FORMAT_VERSION
    if version != FORMAT_VERSION:
        is_older = isinstance(version, int) and version < FORMAT_VERSION
        remedy = "train the model again" if is_older else "upgrade nextvec"
        raise CheckpointError(
            f"checkpoint {path}: format {version!r:.20}, this nextvec reads {FORMAT_VERSION}; {remedy}"
        )
    if not isinstance(values, dict) or not isinstance(values.get("model_state_dict"), dict):
        raise CheckpointError(f"checkpoint {path}: no model_state_dict in it; give a checkpoint, not bare weights")
    if "format" in values and not isinstance(values.get("model_config"), dict):
        raise CheckpointError(f"checkpoint {path}: lacks its model's configuration; it can't be used")
