"""Exported models: a folder that anyone can load, without code and without the training store.

    config.json               format version, network, context length, outputs, embedding space with its fingerprint,
                              chunker, val scores, and SHA-256 of every other file
    model.safetensors         the weights, float16 or float32
    baselines.safetensors     the fitted values of the baselines, named BASELINE.TENSOR
    seen_rows.safetensors     hashes of the rows that the weights were trained on, one tensor per run
    coherence.safetensors     the whitening of the embedding space, for scores (see `coherence.py`)
    encoder/                  the fitted encoder (lsa only)

Versions are explained in `folder_config`. Other files in the folder are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nextvec.core.files import sha256_of, sync_folder, write_bytes, write_json, writing
from nextvec.core.locks import unfinished
from nextvec.core.run_paths import COHERENCE_FILE
from nextvec.data.chunking import Chunker
from nextvec.data.encoders import LSA
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.seen_rows import SeenRows
from nextvec.data.space import Space
from nextvec.errors import CheckpointError, InputError, OutputError, one_line
from nextvec.inference.coherence import Coherence
from nextvec.inference.folder_config import (
    BASELINES,
    CONFIG,
    ENCODER,
    FILES,
    MAJOR,
    MINOR,
    SEEN_ROWS,
    WEIGHTS,
    FolderConfig,
    FolderScores,
    Plain,
    read_config,
)
from nextvec.inference.model import LatentVectorModel, ValScores
from nextvec.models.base import LatentModel
from nextvec.models.load_weights import load_weights
from nextvec.models.registry import model_from_config, tensor_shapes


def write_model_folder(
    model: LatentVectorModel,
    path: Path,
    *,
    dtype: Literal["float16", "float32"] = "float32",
    baselines: Iterable[str] | None = None,
    add_files: Callable[[Path], object] | None = None,
) -> None:
    """Write a model as a new folder, which appears complete or not at all.

    `baselines` names the baselines to include (None: all); ridge has S · D² numbers. `add_files` writes more files into
    the unfinished folder. Raises OutputError if the folder exists or cannot be written.
    """
    if path.exists():
        raise OutputError(f"model folder {path}: exists already. Choose another name, or remove it.")
    folder = path.with_name(f"{path.name}.unfinished")
    busy = f"model folder {path}: another process is writing it. Wait until it ends, or choose another name."
    with unfinished(folder, busy, discard=True):
        names = list(model.baselines if baselines is None else baselines)
        _write_tensors_and_encoder(model, folder, dtype, names)
        if add_files is not None:
            add_files(folder)
        # Without its configuration no folder loads, so it is written last.
        _write_config(model, folder, dtype, names)
        with writing(path):
            folder.rename(path)
        sync_folder(path.parent)


def _write_tensors_and_encoder(
    model: LatentVectorModel, folder: Path, dtype: Literal["float16", "float32"], names: list[str]
) -> None:
    kind = getattr(torch, dtype)
    tensors = {f"{name}.{key}": value for name in names for key, value in model.baselines[name].state_dict().items()}
    _write_tensors(model.network.state_dict(), folder / WEIGHTS, kind)
    if names:  # also if none of them has tensors: a reader looks for the file
        _write_tensors(tensors, folder / BASELINES, kind)
    runs = model.seen_rows.runs
    if runs:
        hashes = {str(number): torch.from_numpy(rows.hashes) for number, rows in enumerate(runs)}
        _write_tensors(hashes, folder / SEEN_ROWS, torch.int64)
    if model.coherence is not None:
        model.coherence.save(folder / COHERENCE_FILE)
    if model.encoder_folder is not None:
        LsaEncoder.load(model.encoder_folder).save(folder / ENCODER)


def _write_config(
    model: LatentVectorModel, folder: Path, dtype: Literal["float16", "float32"], names: list[str]
) -> None:
    """Write config.json, which names the checksum of every other file."""
    runs = model.seen_rows.runs
    files = {name: sha256_of(folder / name) for name in FILES if (folder / name).is_file()}
    config = FolderConfig(
        format=(MAJOR, MINOR),
        nextvec=version("nextvec"),
        network=model.network.config,
        dtype=dtype,
        context_length=model.context_length,
        min_context=model.min_context,
        outputs=list(model.outputs),
        space=model.space.to_dict(),
        encoder=model.encoder_name,
        chunker=model.chunker.to_dict(),
        baselines=[model.baselines[name].config for name in names],
        val=FolderScores(
            cosine_percentiles=list(model.val.cosine_percentiles), cosine=model.val.cosine, mrr=model.val.mrr
        ),
        seen_runs=[rows.run for rows in runs],
        is_history_complete=model.seen_rows.is_complete,
        files=files,
    )
    write_json(folder / CONFIG, config.model_dump(mode="json"))


def _write_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype) -> None:
    # Tensors that share memory are refused by safetensors, so each gets its own.
    copies = {name: tensor.detach().cpu().to(dtype).contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(file, save(copies))


def read_model_folder(path: Path, device: torch.device | str = "cpu") -> LatentVectorModel:
    """Read an exported model. Raises CheckpointError if a file is missing, damaged, hostile, or of a newer version."""
    config = read_config(path)
    _require_intact_files(path, config)
    try:
        space = Space.from_dict(config.space)
        network = _read_network(path / WEIGHTS, config.network, "")
        baselines = {}
        for values in config.baselines:
            name = str(values.get("kind"))
            baselines[name] = _read_network(path / BASELINES, values, f"{name}.").to(device)
        chunker = Chunker(**config.chunker)
        seen_rows = _read_seen_rows(path, config)
        has_coherence = COHERENCE_FILE in config.files
        coherence = Coherence.load(path / COHERENCE_FILE, space.dimensions) if has_coherence else None
    except (InputError, TypeError) as error:
        raise CheckpointError(f"model {path}: {one_line(error)}") from error
    if network.dimensions != space.dimensions or any(
        item.dimensions != space.dimensions for item in baselines.values()
    ):
        raise CheckpointError(
            f"model {path}: the dimensions of its network, baselines and embedding space differ. Export it again."
        )
    return LatentVectorModel(
        network=network.to(device),
        source=str(path),
        space=space,
        context_length=config.context_length,
        min_context=config.min_context,
        encoder_name=config.encoder,
        encoder_folder=path / ENCODER if space.encoder == LSA else None,
        chunker=chunker,
        baselines=baselines,
        val=ValScores(tuple(config.val.cosine_percentiles), config.val.cosine, config.val.mrr),
        coherence=coherence,
        seen_rows=seen_rows,
    )


def _read_seen_rows(path: Path, config: FolderConfig) -> SeenRows:
    """Return the record of the rows that the weights were trained on."""
    runs: list[dict[str, Any]] = []
    if config.seen_runs:
        try:
            with safe_open(path / SEEN_ROWS, framework="pt") as opened:
                runs = [
                    {"run": run, "hashes": opened.get_tensor(str(number))}
                    for number, run in enumerate(config.seen_runs)
                ]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{SEEN_ROWS} can't be read ({one_line(error)}). Download it again.") from error
    record = SeenRows.from_values({"runs": runs, "is_complete": config.is_history_complete})
    if len(record.runs) != len(config.seen_runs):
        raise CheckpointError(f"{SEEN_ROWS} has no integer hashes. Download it again.")
    return record


def _require_intact_files(path: Path, config: FolderConfig) -> None:
    """Raise CheckpointError unless every file has its checksum and all that the model needs are there."""
    needed = {WEIGHTS} | ({BASELINES} if any("kind" in item for item in config.baselines) else set())
    needed |= {SEEN_ROWS} if config.seen_runs else set()
    if config.space.get("encoder") == LSA:
        needed |= {name for name in FILES if name.startswith(ENCODER)}
    unknown = sorted(set(config.files) - set(FILES))
    if unknown:
        raise CheckpointError(f"model {path}: {CONFIG} names the unknown file '{unknown[0]}'. Export the model again.")
    for name in sorted(needed | set(config.files)):
        if name not in config.files:
            raise CheckpointError(f"model {path}: {CONFIG} has no checksum of {name}. Export the model again.")
        try:
            # A device or a pipe in the place of a file would be read forever.
            if (path / name).exists() and not (path / name).is_file():
                raise OSError("not a regular file")
            digest = sha256_of(path / name)
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
            raise CheckpointError(f"model {path}: {name} can't be read ({reason}). Download it again.") from error
        if digest != config.files[name]:
            raise CheckpointError(f"model {path}: {name} is damaged (SHA-256 differs). Download it again.")


def _read_network(file: Path, config: Plain, prefix: str) -> LatentModel:
    """Return a network with the weights of a file whose names start with `prefix`.

    The shapes in the file's header are compared with those of the configuration before anything large is allocated.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {
                name.removeprefix(prefix): tuple(opened.get_slice(name).get_shape())
                for name in opened.keys()  # noqa: SIM118 - not a dict
                if name.startswith(prefix)
            }
            _require_shapes(shapes, config)
            weights = {name: opened.get_tensor(prefix + name).float() for name in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} can't be read ({one_line(error)}). Download it again.") from error
    network = model_from_config(dict(config))
    load_weights(network, weights, strict=True)
    return network.eval()


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], config: Plain) -> None:
    """Raise CheckpointError unless a network of this configuration has exactly these tensors."""
    expected = tensor_shapes(dict(config))
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise CheckpointError(
                f"tensor {name} has the shape {shapes.get(name)}, but its configuration needs {expected.get(name)}. "
                "Download it again."
            )
