"""config.json, the description of an exported model: its fields, and how it is read.

Readers of one major format version read every minor version of it: a newer minor version may add fields, which are then
ignored. In the same or an older minor version an unknown field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nextvec.core.run_paths import COHERENCE_FILE
from nextvec.errors import CheckpointError, one_line

MAJOR, MINOR = 1, 0
"""Version of the format: the major number changes if older readers would misread the folder."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BASELINES = "baselines.safetensors"
SEEN_ROWS = "seen_rows.safetensors"
ENCODER = "encoder"
ENCODER_FILES = ("terms.json", "idf.npy", "components.npy", "mean.npy")
FILES = (WEIGHTS, BASELINES, SEEN_ROWS, COHERENCE_FILE, *(f"{ENCODER}/{name}" for name in ENCODER_FILES))
"""Every file that `config.json` may name."""

MAX_CONFIG_BYTES = 2**20
MAX_CONTEXT_LENGTH = 2**16

Plain = dict[str, bool | int | float | str]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FolderScores(_Section):
    """Scores on the val split; see `ValScores`."""

    cosine_percentiles: list[float] = Field(default=[], max_length=101)
    cosine: dict[str, float] = {}
    mrr: dict[str, float] = {}


class FolderConfig(_Section):
    """The content of config.json."""

    format: tuple[int, int]
    nextvec: str
    """The version of nextvec that wrote the folder."""
    network: Plain
    """The network's configuration: kind, variant, dimensions and options."""
    dtype: Literal["float16", "float32"]
    context_length: int = Field(ge=1, le=MAX_CONTEXT_LENGTH)
    min_context: int | None = Field(default=None, ge=1, le=MAX_CONTEXT_LENGTH)
    outputs: list[str]
    space: dict[str, Any]
    encoder: str
    chunker: dict[str, Any]
    baselines: list[Plain] = []
    """The configuration of each baseline in baselines.safetensors."""
    val: FolderScores = FolderScores()
    seen_runs: list[str] = []
    """The names of the runs in seen_rows.safetensors, the latest first."""
    is_history_complete: bool = False
    """Whether these are all runs that trained the weights."""
    files: dict[str, Digest]
    """File → SHA-256."""


def read_config(path: Path) -> FolderConfig:
    """Read config.json: the version first, then every field."""
    file = path / CONFIG
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        values = json.loads(content)
        major, minor = values["format"]
        is_version = isinstance(major, int) and isinstance(minor, int)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
        raise CheckpointError(f"model {path}: {CONFIG} can't be read ({reason}). Export the model again.") from error
    if not is_version or major != MAJOR:
        raise CheckpointError(
            f"model {path}: format {major!r:.20}.{minor!r:.20}, but this nextvec reads format {MAJOR}. "
            "Upgrade nextvec, or export the model again."
        )
    if minor > MINOR:
        values = _without_unknown(values)
    try:
        return FolderConfig.model_validate(values | {"format": (major, minor)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"model {path}: {CONFIG}: {field}: {first['msg']}. Export the model again.") from error


def _without_unknown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the fields that a newer minor version added."""
    known = {name: value for name, value in values.items() if name in FolderConfig.model_fields}
    if isinstance(known.get("val"), dict):
        known["val"] = {name: value for name, value in known["val"].items() if name in FolderScores.model_fields}
    return known
