"""Checkpoints: files of tensors and plain values that name everything a model needs to be used again.

A checkpoint is one dictionary: `format`, `model_type`, `model_config`, `model_state_dict` (the names that the original
trainer used, so that its files and ours are read the same way), and `recipe`, `data`, `space`, `context`, `epoch`,
`step`, `metrics`, `version`. `resume.pt` has `training` besides: optimizer, random state, sums and history.

Files are written whole or not at all, loaded with `weights_only=True`, and their SHA-256 stands in `checkpoints.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.data.space import Space
from nextvec.errors import CheckpointError
from nextvec.files import sha256_of, write_bytes, write_json
from nextvec.models.registry import LatentModel, model_from_config
from nextvec.models.weights import load_weights, original_config
from nextvec.recipe import Recipe, make_recipe

FORMAT_VERSION = 1
CHECKSUMS = "checkpoints.json"
BEST, RESUME, BASELINES = "best_model.pt", "resume.pt", "baselines.pt"


def epoch_file(epoch: int) -> str:
    """Name of the checkpoint after an epoch (from 1)."""
    return f"epoch_{epoch}.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, of nextvec or of the original trainer."""

    path: Path
    values: dict[str, Any]

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


def save_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all, then its checksum. Raises OutputError if it can't be written."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **values}, buffer)
    content = buffer.getbuffer()
    write_bytes(path, content)
    checksums = read_checksums(path.parent)
    checksums[path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_json(path.parent / CHECKSUMS, checksums)


def read_checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """The checksums of a run folder's checkpoints by file name; empty where there are none."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return checksums if isinstance(checksums, dict) else {}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint file, or the best one of a run folder, onto the CPU.

    Raises CheckpointError if it is missing, damaged, of a newer format, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BEST
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file; name a .pt file or the folder of a run")
    recorded = read_checksums(path.parent).get(path.name, {}).get("sha256")
    if recorded is not None and sha256_of(path) != recorded:
        raise CheckpointError(f"checkpoint {path}: its bytes are not those that were saved (SHA-256 differs)")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage leads to
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"checkpoint {path}: not a readable file of tensors and plain values ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("model_state_dict"), dict):
        raise CheckpointError(f"checkpoint {path}: no model_state_dict in it; give a checkpoint, not bare weights")
    if values.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path}: format {values['format']}, this nextvec reads {FORMAT_VERSION}; upgrade nextvec"
        )
    if "format" in values and not isinstance(values.get("model_config"), dict):
        raise CheckpointError(f"checkpoint {path}: lacks its model's configuration; it can't be used")
    return Checkpoint(path, values)
