"""Loading weights: from a checkpoint of nextvec or of the original trainer, for a warm start or for evaluation.

Names may differ where dropout layers shift a Sequential's numbers, a part is wrapped in another module, or a wrapper
put its prefix before every name. What is matched are layers, whole or not at all: first those of equal name and
shapes, then, within each top-level module, the remaining ones in order if all their shapes agree. Nothing is guessed
beyond that; what doesn't fit is left out and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nextvec.errors import CheckpointError, did_you_mean
from nextvec.models.base import LatentModel

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that data-parallel training and torch.compile put before names."""

Layer = dict[str, Tensor]
"""The tensors of one layer by their own names: weight, bias …"""


@dataclass
class LoadReport:
    """What `load_weights` did, in names of state dicts."""

    loaded: list[str] = field(default_factory=list)
    """The model's tensors that took the checkpoint's values."""
    skipped: list[str] = field(default_factory=list)
    """The checkpoint's tensors that have no place in the model."""
    resized: list[str] = field(default_factory=list)
    """The model's position tables that took the values of a longer or shorter one."""
    missing: list[str] = field(default_factory=list)
    """The model's tensors that kept what they had."""

    def summary(self) -> str:
        """What was loaded, resized, skipped and missing, in one sentence."""
        done = len(self.loaded) + len(self.resized)
        parts = [f"{done} of {done + len(self.missing)} tensors loaded"]
        for words, names in (
            ("resized", self.resized),
            ("not in the checkpoint, so left as they were", self.missing),
            ("in the checkpoint without a place in the model, so left out", self.skipped),
        ):
            if names:
                parts.append(f"{len(names)} {words} ({_some(names)})")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain values, for logs."""
        return {"loaded": self.loaded, "skipped": self.skipped, "resized": self.resized, "missing": self.missing}


def load_weights(model: LatentModel, state: Mapping[str, Tensor], *, strict: bool = False) -> LoadReport:
    """Copy a state dict into a model, as far as it fits.

    With `strict` (for evaluation) a model that would not be covered whole, or a checkpoint with more in it than the
    model has, raises CheckpointError and leaves the model as it was. NaN or infinity in the checkpoint always does.
    """
    given, wanted = _layers(_clean(state)), _layers(model.state_dict())
    constants = {path: wanted.pop(path) for path in {name.rpartition(".")[0] for name in model.constants}}
    pairs = _match(given, wanted)
    report = LoadReport()
    copies: list[tuple[Tensor, Tensor]] = []
    for path, layer in wanted.items():
        source = given[pairs[path]] if path in pairs else {}
        (report.loaded if source else report.missing).extend(_names(path, layer))
        copies += [(layer[name], source[name]) for name in source]
    used = set(pairs.values())
    for path, layer in constants.items():
        for name, table in layer.items():
            stored = given.get(path, {}).get(name)
            if stored is not None and stored.numel() % table.shape[-1] == 0:
                used.add(path)
                (report.loaded if stored.numel() == table.numel() else report.resized).append(f"{path}.{name}")
                copies.append(_fit_table(table, stored))
    report.skipped = [name for path, layer in given.items() if path not in used for name in _names(path, layer)]
    if strict and (report.missing or report.skipped):
        raise CheckpointError(_misfit(model, report))
    with torch.no_grad():
        for target, value in copies:
            target.copy_(value)
    return report


def _clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without wrappers' prefixes. Raises CheckpointError for anything but finite tensors."""
    cleaned: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"the checkpoint's weights hold '{name}', which is no tensor; give another checkpoint"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"the checkpoint's '{name}' holds NaN or infinity; give an earlier checkpoint")
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        cleaned[name] = tensor
    return cleaned


def _layers(state: Mapping[str, Tensor]) -> dict[str, Layer]:
    """The layers of a state dict by path, in order; a tensor outside of any module is a layer of its own."""
    layers: dict[str, Layer] = {}
    for full_name, tensor in state.items():
        path, _, name = full_name.rpartition(".")
        layers.setdefault(path or full_name, {})[name] = tensor
    return layers


def _names(path: str, layer: Layer) -> list[str]:
    return [path if path == name else f"{path}.{name}" for name in layer]


def _shapes(layer: Layer) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in layer.items()}


def _match(given: dict[str, Layer], wanted: dict[str, Layer]) -> dict[str, str]:
    """Which given layer each wanted one takes, by path."""
    pairs = {path: path for path in wanted if path in given and _shapes(wanted[path]) == _shapes(given[path])}
    for module in {_module(path): None for path in wanted}:
        places = [path for path in wanted if path not in pairs and _module(path) == module]
        left = [path for path in given if path not in pairs and _module(path) == module]
        if [_shapes(wanted[path]) for path in places] == [_shapes(given[path]) for path in left]:
            pairs |= dict(zip(places, left, strict=True))
    return pairs


def _module(path: str) -> str:
    return path.partition(".")[0]


def _fit_table(table: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (positions) that both tables have, as a pair to copy; the model's table keeps its own ones beyond."""
    rows = table.view(-1, table.shape[-1])
    stored_rows = stored.reshape(-1, table.shape[-1])
    common = min(len(rows), len(stored_rows))
    return rows[:common], stored_rows[:common]


def _misfit(model: LatentModel, report: LoadReport) -> str:
    problems = []
    if report.missing:
        problems.append(f"it lacks {_some(report.missing)}")
    if report.skipped:
        problems.append(f"{_some(report.skipped)} has no place in the model")
    return (
        f"the checkpoint does not fit a {model.dimensions}-D {model.name}: {', and '.join(problems)}; "
        "give a checkpoint of the same architecture and dimension"
    )


def _some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# What the original trainer calls the sizes of its networks; the runbook fixes them.
_ORIGINAL_SIZES: dict[str, dict[str, int]] = {
    "amn": {"d_model": 256, "hidden_dim": 512},
    "lstm": {"hidden_dim": 512, "num_layers": 2},
    "gru": {"d_model": 512, "num_layers": 4},
    "transformer": {"d_model": 512, "nhead": 8, "num_layers": 4},
}
# The modules that hold the tensors of D numbers: the first one reads a vector, the last one predicts one.
_ENDS = {
    "amn": ("context_encoder", "residual_net"),
    "lstm": ("lstm", "output_proj"),
    "gru": ("input_proj", "output_proj"),
    "transformer": ("input_proj", "head"),
}


def original_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, for `model_from_config`, of a checkpoint that the original trainer wrote.

    Such a checkpoint has `model_type`, `model_config` and `model_state_dict`; D is read from the tensors. Raises
    CheckpointError if one is missing, or if the network is none of the runbook's four at its sizes.
    """
    kind, state = checkpoint.get("model_type"), checkpoint.get("model_state_dict")
    if not isinstance(kind, str) or not isinstance(state, Mapping):
        raise CheckpointError("the checkpoint lacks model_type or model_state_dict, so its network is not known")
    kind = kind.strip().lower()
    if kind not in _ORIGINAL_SIZES:
        raise CheckpointError(
            f"the checkpoint's model_type '{kind}' is not known.{did_you_mean(kind, _ORIGINAL_SIZES)}"
        )
    options = checkpoint.get("model_config")
    options = options if isinstance(options, Mapping) else {}
    for size, value in _ORIGINAL_SIZES[kind].items():
        if options.get(size, value) != value:
            raise CheckpointError(f"the checkpoint's {kind} has {size} {options[size]}; only {value} can be read")
    tensors = _clean(state)
    first, last = _ENDS[kind]
    entry = [tensor for name, tensor in tensors.items() if _module(name) == first]
    exit_ = [tensor for name, tensor in tensors.items() if _module(name) == last]
    if not entry or not exit_ or (entry[0].ndim, exit_[-1].ndim) != (2, 1):
        raise CheckpointError(f"the checkpoint says {kind}, but lacks the layers {first} and {last} to read D from")
    reads, predicts = entry[0].shape[1], exit_[-1].shape[0]
    if reads != predicts:
        raise CheckpointError(f"the checkpoint's {kind} reads {reads} numbers and predicts {predicts}: not the same D")
    config: dict[str, Any] = {"kind": kind, "variant": "original", "dimensions": int(reads), "zero_start": False}
    dropout = options.get("dropout")
    if isinstance(dropout, int | float) and 0 <= dropout < 1:
        config["dropout"] = float(dropout)
    return config
