"""Checkpoint files: what is in them, and how to read them without training code.

A checkpoint is one dictionary: `format`, `model_type`, `model_config`, `model_state_dict` (the names that the original
trainer used, so that its files and ours are read in the same way), and `recipe`, `data`, `space`, `context`, `epoch`,
`step`, `metrics`, `version`, and `seen_rows`: hashes of all rows that the weights were trained on, those of the run's
ancestors included (`data/seen_rows.py`). `best_model.pt` also has `selection`: the epoch that each of its outputs is
from. `resume.pt` also has `training`: optimizer, random state, metric sums, history and the selected outputs.

Files are loaded with `weights_only=True`. The SHA-256 of each is in `checkpoints.json` beside it. During a save that
file lists the old and the new checksum, so that one of them is right whenever the writer is killed.
"""

from __future__ import annotations

import json
import re
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextvec.core.files import sha256_of
from nextvec.core.run_paths import BEST_MODEL, CHECKSUMS_FILE
from nextvec.errors import CheckpointError, DamagedCheckpointError, one_line
from nextvec.models.load_weights import load_weights, original_config
from nextvec.models.registry import LatentModel, model_from_config
from nextvec.recipe import Recipe, make_recipe

FORMAT_VERSION = 5
"""In format 4, the MRR that selects the query had other candidates."""

Checksums = dict[str, dict[str, Any]]
"""File name → `sha256` of the file, and `before`, the checksum of the file that it replaces."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, of nextvec or of the original trainer."""

    path: Path
    values: dict[str, Any]
    notice: str = ""
    """Why this file was read instead of the requested one; empty if it is the requested one."""

    @property
    def is_native(self) -> bool:
        """Whether nextvec wrote it; the original trainer's files lack context, space and recipe."""
        return "format" in self.values

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration for `model_from_config`."""
        config: dict[str, Any] = self.values["model_config"] if self.is_native else original_config(self.values)
        return config

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's state dict."""
        weights: dict[str, Tensor] = self.values["model_state_dict"]
        return weights

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run; the original trainer's files have none, so the default values."""
        return make_recipe(tomllib.loads(self.values.get("recipe", "")), where=f"checkpoint {self.path}")

    def model(self) -> LatentModel:
        """Return the model with its weights, in evaluation mode, on the CPU. Raises CheckpointError on a mismatch."""
        model = model_from_config(self.config)
        load_weights(model, self.weights, strict=True)
        return model.eval()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint file, or the best checkpoint of a run folder, onto the CPU.

    A damaged file is replaced by a file beside it that was saved with the same bytes, if there is one (best_model.pt is
    also an epoch's file); `notice` then reports it. Raises DamagedCheckpointError if there is none, CheckpointError
    if the file is missing, of another format, or contains anything but tensors and plain values.
    """
    # A run folder means its best model.
    path = Path(path)
    if path.is_dir():
        path = path / BEST_MODEL
    checksums = read_checksums(path.parent)
    try:
        return _read(path, checksums)
    except DamagedCheckpointError as error:
        # Look for an intact file whose recorded checksum is the one that the damaged file should have.
        recorded = checksums.get(path.name, {}).get("sha256")
        for name in sorted(checksums):
            copy = path.with_name(name)
            if name != path.name and recorded and intact_digest(copy, checksums) == recorded:
                notice = f"{error}; using {name}, which was saved with the same content"
                return replace(_read(copy, checksums), notice=notice)
        raise


def read_baselines(path: Path, device: torch.device | str = "cpu") -> dict[str, LatentModel]:
    """Return the fitted baselines in a run's file `path`, on `device`. Raises the errors of `read_checkpoint`."""
    baselines = {}
    for name, saved in read_checkpoint(path).values["baselines"].items():
        model = model_from_config(saved["config"])
        model.load_state_dict(saved["state"])
        baselines[name] = model.to(device).eval()
    return baselines


def read_checksums(folder: Path) -> Checksums:
    """Return the checksums of a run folder's checkpoints; empty if there are none, or if their file is damaged."""
    try:
        checksums = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(checksums, dict):
        return {}
    return {name: entry for name, entry in checksums.items() if isinstance(entry, dict)}


def intact_digest(path: Path, checksums: Checksums) -> str:
    """Return the SHA-256 of a file if it is one of those recorded for it; otherwise an empty string."""
    entry = checksums.get(path.name)
    if not entry or not path.is_file():
        return ""
    digest = sha256_of(path)
    return digest if digest in (entry.get("sha256"), entry.get("before")) else ""


def _read(path: Path, checksums: Checksums) -> Checkpoint:
    """Load one file after checking its bytes: by the recorded checksum, else by the archive's own checksums."""
    is_recorded = path.name in checksums
    if not path.is_file():
        error_type = DamagedCheckpointError if is_recorded else CheckpointError
        raise error_type(f"checkpoint {path}: no such file. Name a .pt file or a run folder.")
    # A recorded checksum covers the whole file. Foreign files have none: check the CRC of each archive member.
    if is_recorded and not intact_digest(path, checksums):
        raise DamagedCheckpointError(f"checkpoint {path}: the file is corrupted (SHA-256 mismatch)")
    try:
        if not is_recorded and zipfile.is_zipfile(path):
            _require_intact_members(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types of errors for a damaged file
        if foreign := _foreign_objects(path, error):
            raise CheckpointError(f"checkpoint {path}: {foreign}") from error
        reason = one_line(error).partition(". ")[0]
        raise DamagedCheckpointError(
            f"checkpoint {path}: not a readable file of tensors and plain values ({type(error).__name__}: {reason})"
        ) from error
    _require_format(path, values)
    return Checkpoint(path, values)


def _foreign_objects(path: Path, error: Exception) -> str:
    """Return which objects besides tensors and plain values a checkpoint contains, and how to save it without them.

    Empty if the file contains none, or is damaged.
    """
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged file, or one of an old format that torch cannot search
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return ""
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    clean = path.with_name(f"{path.stem}_clean.pt")
    return (
        f"it contains Python objects ({listed}), which can run code when they are loaded. If you trust the file, save "
        f"it again: import torch; values = torch.load({str(path)!r}, weights_only=False); "
        f"torch.save({{'model_type': values['model_type'], 'model_state_dict': {{name: torch.as_tensor(value) for "
        f"name, value in values['model_state_dict'].items()}}}}, {str(clean)!r})"
    )


def _require_intact_members(path: Path) -> None:
    """Raise ValueError if a member of the archive does not match its CRC, which torch.load does not check."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its member {damaged} differs")


def _require_format(path: Path, values: Any) -> None:
    """Raise CheckpointError unless `values` are the content of a checkpoint of this format version."""
    format_version = values.get("format", FORMAT_VERSION) if isinstance(values, dict) else FORMAT_VERSION
    if format_version != FORMAT_VERSION:
        is_older = isinstance(format_version, int) and format_version < FORMAT_VERSION
        remedy = "Train the run again" if is_older else "Upgrade nextvec"
        raise CheckpointError(
            f"checkpoint {path}: format {format_version!r:.20}, this nextvec reads format {FORMAT_VERSION}. {remedy}"
        )
    if not isinstance(values, dict) or not isinstance(values.get("model_state_dict"), dict):
        raise CheckpointError(f"checkpoint {path}: it has no model_state_dict. Name a checkpoint, not bare weights")
    # Only files that nextvec wrote must have a configuration; the original trainer's is optional.
    if "format" in values and not isinstance(values.get("model_config"), dict):
        raise CheckpointError(f"checkpoint {path}: the model's configuration is missing. Use another checkpoint")
