"""Load weights from a checkpoint of nextvec or of the original trainer, for a warm start or for evaluation.

Names may differ: dropout layers shift the numbers of a Sequential, a module is wrapped in another one, or a wrapper
puts its prefix before every name. Layers are matched, each as a whole or not at all: first those with equal names and
shapes, then, within each top-level module, the remaining ones in order if all their shapes agree. Everything else is
skipped and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nextvec.errors import CheckpointError, did_you_mean
from nextvec.models.base import LatentModel

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that data-parallel training and torch.compile put before names."""

Layer = dict[str, Tensor]
"""The tensors of one layer by name within the layer: weight, bias …"""


@dataclass
class LoadReport:
    """The names of the tensors that `load_weights` loaded, resized, skipped and did not find."""

    loaded: list[str] = field(default_factory=list)
    """The model's tensors with values from the checkpoint."""
    skipped: list[str] = field(default_factory=list)
    """The checkpoint's tensors that match no tensor of the model."""
    resized: list[str] = field(default_factory=list)
    """The model's position tables with values from a longer or shorter table."""
    missing: list[str] = field(default_factory=list)
    """The model's tensors that kept their values."""

    def summary(self) -> str:
        """Return the counts and the first names of each list, in one sentence."""
        # A resized table counts as loaded: the model reads its values.
        loaded = len(self.loaded) + len(self.resized)
        clauses = [f"{loaded} of {loaded + len(self.missing)} tensors loaded"]
        for label, names in (
            ("resized", self.resized),
            ("missing in the checkpoint, unchanged in the model", self.missing),
            ("in the checkpoint but not in the model, skipped", self.skipped),
        ):
            if names:
                clauses.append(f"{len(names)} {label} ({_first_names(names)})")
        return "; ".join(clauses)

    def to_dict(self) -> dict[str, list[str]]:
        """Return the lists by field name, for the event log."""
        return asdict(self)


def load_weights(model: LatentModel, state: Mapping[str, Tensor], *, strict: bool = False) -> LoadReport:
    """Copy the matching tensors of a state dict into a model.

    Raises CheckpointError for NaN or infinity in the checkpoint, and, with `strict` (for evaluation), unless every
    tensor of the model and of the checkpoint is matched. The model is unchanged then.
    """
    source_layers, model_layers = _group_by_layer(_without_prefixes(state)), _group_by_layer(model.state_dict())
    # Position tables are computed, not learned: a checkpoint may lack them or have another length.
    table_paths = {name.rpartition(".")[0] for name in model.constants}
    tables = {path: model_layers.pop(path) for path in table_paths}
    source_paths = _match_layers(source_layers, model_layers)
    report = LoadReport()
    # Pair each model layer with its source layer; a layer without one keeps its values.
    copies: list[tuple[Tensor, Tensor]] = []
    for path, layer in model_layers.items():
        source = source_layers[source_paths[path]] if path in source_paths else {}
        (report.loaded if source else report.missing).extend(_full_names(path, layer))
        copies += [(layer[name], source[name]) for name in source]
    # Tables of another length share their first rows.
    matched = set(source_paths.values())
    for path, layer in tables.items():
        for name, table in layer.items():
            stored = source_layers.get(path, {}).get(name)
            if stored is not None and stored.numel() % table.shape[-1] == 0:
                matched.add(path)
                (report.loaded if stored.numel() == table.numel() else report.resized).append(f"{path}.{name}")
                copies.append(_common_rows(table, stored))
    unmatched = [(path, layer) for path, layer in source_layers.items() if path not in matched]
    report.skipped = [name for path, layer in unmatched for name in _full_names(path, layer)]
    if strict and (report.missing or report.skipped):
        raise CheckpointError(_mismatch_message(model, report))
    # Nothing is copied before all checks have passed.
    with torch.no_grad():
        for target, value in copies:
            target.copy_(value)
    return report


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict without wrapper prefixes. Raises CheckpointError for anything but finite tensors."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"checkpoint weights: '{name}' is not a tensor. Use another checkpoint.")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"checkpoint weights: '{name}' contains NaN or infinity. Use an earlier checkpoint.")
        while name.startswith(WRAPPER_PREFIXES):
            name = name.partition(".")[2]
        tensors[name] = tensor
    return tensors


def _group_by_layer(state: Mapping[str, Tensor]) -> dict[str, Layer]:
    """Return the layers of a state dict by path, in order; a tensor outside of any module is a layer by itself."""
    layers: dict[str, Layer] = {}
    for full_name, tensor in state.items():
        path, _, name = full_name.rpartition(".")
        layers.setdefault(path or full_name, {})[name] = tensor
    return layers


def _full_names(path: str, layer: Layer) -> list[str]:
    return [path if path == name else f"{path}.{name}" for name in layer]


def _shapes(layer: Layer) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in layer.items()}


def _match_layers(source: dict[str, Layer], model: dict[str, Layer]) -> dict[str, str]:
    """Return the path of the source layer for each model layer that has one, by the path in the model."""
    # Equal names and shapes.
    pairs = {path: path for path in model if path in source and _shapes(model[path]) == _shapes(source[path])}
    # Within a top-level module: the remaining layers in order, only if there are as many and all shapes agree.
    for module in {_top_module(path): None for path in model}:
        model_rest = [path for path in model if path not in pairs and _top_module(path) == module]
        source_rest = [path for path in source if path not in pairs and _top_module(path) == module]
        if [_shapes(model[path]) for path in model_rest] == [_shapes(source[path]) for path in source_rest]:
            pairs |= dict(zip(model_rest, source_rest, strict=True))
    return pairs


def _top_module(path: str) -> str:
    return path.partition(".")[0]


def _common_rows(table: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (positions) that both tables have, as target and source of a copy."""
    rows = table.view(-1, table.shape[-1])
    stored_rows = stored.reshape(-1, table.shape[-1])
    length = min(len(rows), len(stored_rows))
    return rows[:length], stored_rows[:length]


def _mismatch_message(model: LatentModel, report: LoadReport) -> str:
    problems = []
    if report.missing:
        problems.append(f"it lacks {_first_names(report.missing)}")
    if report.skipped:
        problems.append(f"the model has no {_first_names(report.skipped)}")
    return (
        f"checkpoint weights: they do not fit a {model.dimensions}-D {model.name}: {', and '.join(problems)}. "
        "Use a checkpoint of the same architecture and dimension."
    )


def _first_names(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


_ORIGINAL_SIZES: dict[str, dict[str, int]] = {
    "amn": {"d_model": 256, "hidden_dim": 512},
    "lstm": {"hidden_dim": 512, "num_layers": 2},
    "gru": {"d_model": 512, "num_layers": 4},
    "transformer": {"d_model": 512, "nhead": 8, "num_layers": 4},
}
"""The sizes of the runbook's networks, by the option names of the original trainer."""

_FIRST_AND_LAST_MODULE = {
    "amn": ("context_encoder", "residual_net"),
    "lstm": ("lstm", "output_proj"),
    "gru": ("input_proj", "output_proj"),
    "transformer": ("input_proj", "head"),
}
"""The modules whose shapes give D: the first one reads a vector, the last one predicts one."""


def original_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration, for `model_from_config`, of a checkpoint that the original trainer wrote.

    Such a checkpoint has `model_type`, `model_config` and `model_state_dict`; D is read from the tensors. Raises
    CheckpointError if one of them is missing, or if the network is not one of the runbook's four in its sizes.
    """
    kind, state = checkpoint.get("model_type"), checkpoint.get("model_state_dict")
    if not isinstance(kind, str) or not isinstance(state, Mapping):
        raise CheckpointError("checkpoint: model_type or model_state_dict is missing. Use another checkpoint.")
    kind = kind.strip().lower()
    if kind not in _ORIGINAL_SIZES:
        raise CheckpointError(f"checkpoint: unknown model_type '{kind}'.{did_you_mean(kind, _ORIGINAL_SIZES)}")
    options = checkpoint.get("model_config")
    options = options if isinstance(options, Mapping) else {}
    # The original trainer could build other sizes; only those of the runbook are supported.
    for option, size in _ORIGINAL_SIZES[kind].items():
        if options.get(option, size) != size:
            raise CheckpointError(
                f"checkpoint: {option} of its {kind} is {options[option]}, but only {size} is supported. "
                "Use another checkpoint."
            )
    config: dict[str, Any] = {
        "kind": kind,
        "variant": "original",
        "dimensions": _read_dimensions(kind, _without_prefixes(state)),
        "zero_start": False,
    }
    dropout = options.get("dropout")
    if isinstance(dropout, int | float) and 0 <= dropout < 1:
        config["dropout"] = float(dropout)
    return config


def _read_dimensions(kind: str, state: Mapping[str, Tensor]) -> int:
    """Return D from the first weight matrix (H, D) and the last bias (D,) of the network."""
    first, last = _FIRST_AND_LAST_MODULE[kind]
    first_tensors = [tensor for name, tensor in state.items() if _top_module(name) == first]
    last_tensors = [tensor for name, tensor in state.items() if _top_module(name) == last]
    if not first_tensors or not last_tensors or (first_tensors[0].ndim, last_tensors[-1].ndim) != (2, 1):
        raise CheckpointError(
            f"checkpoint: model_type is {kind}, but the weights of {first} and {last} are missing. "
            "Use another checkpoint."
        )
    num_inputs, num_outputs = first_tensors[0].shape[1], last_tensors[-1].shape[0]
    if num_inputs != num_outputs:
        raise CheckpointError(
            f"checkpoint: its {kind} reads vectors of {num_inputs} numbers and predicts {num_outputs}. "
            "Use another checkpoint."
        )
    return int(num_inputs)
