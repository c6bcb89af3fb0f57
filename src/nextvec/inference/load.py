"""Open a trained model from any source: a run, a checkpoint, an exported folder, the hub, or nextvec itself."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from nextvec.core.device import resolve_device
from nextvec.core.run_paths import (
    BASELINES_FILE,
    BEST_MODEL,
    COHERENCE_FILE,
    ENCODER_FOLDER,
    EVALUATION_FILE,
    RECIPE_FILE,
)
from nextvec.data.chunking import Chunker
from nextvec.data.encoders import LSA, full_name
from nextvec.data.encoders.remote_names import without_url
from nextvec.data.seen_rows import SeenRows
from nextvec.data.space import UNKNOWN, Space
from nextvec.errors import CheckpointError, DamagedCheckpointError, InputError, did_you_mean
from nextvec.inference.coherence import Coherence
from nextvec.inference.folder_config import CONFIG, WEIGHTS
from nextvec.inference.hub import HUB_ID, download_model
from nextvec.inference.model import LatentVectorModel, ValScores
from nextvec.inference.model_folder import read_model_folder
from nextvec.models.base import LatentModel
from nextvec.models.baselines import ContextMean, CopyLast
from nextvec.models.checkpoint import FORMAT_VERSION, Checkpoint, read_baselines, read_checkpoint
from nextvec.models.knn import KNN

DEFAULT_CONTEXT = 5
"""Context length of the original trainer's checkpoints, which lack it."""


def load_model(source: str | Path, device: str = "cpu", *, encoder: str | Path = "") -> LatentVectorModel:
    """Load a trained model in evaluation mode.

    `source` is the name of a model that comes with nextvec, a run folder, a checkpoint (.pt), an exported folder, or
    `owner/name[@revision]` on the Hugging Face hub; they are tried in this order. `device` is auto, cpu, cuda or mps.
    `encoder` replaces the model's encoder by the same one elsewhere, such as ``openai:URL#MODEL`` of a server that has
    moved. Raises CheckpointError if the model is missing, damaged, or of a newer version, InputError for an unknown
    device or encoder, MissingExtraError if a model of the hub needs a package.
    """
    torch_device, _ = resolve_device(device)
    model = _load_source(str(source), torch_device)
    return replace(model, replacement_encoder=full_name(str(encoder))) if str(encoder) else model


def _load_source(name: str, torch_device: torch.device) -> LatentVectorModel:
    """Load a model from the first kind of source that has it."""
    if name in shipped_models():
        folder = Path(str(files("nextvec") / "shipped_models" / name))
        return replace(read_model_folder(folder, torch_device), source=name)
    path = Path(name)
    if path.is_dir():
        return _load_folder(path, torch_device)
    if path.is_file():
        if path.name in (CONFIG, WEIGHTS):
            raise CheckpointError(f"model {path}: is one file of an exported model. Name its folder.")
        return _load_checkpoint(path, torch_device)
    if HUB_ID.fullmatch(name):
        model = read_model_folder(download_model(name), torch_device)
        # The texts and the key of a user must not reach a server that somebody else's model names.
        return replace(model, source=name, encoder_name=without_url(model.encoder_name))
    known = did_you_mean(name, shipped_models()) if shipped_models() else ""
    raise CheckpointError(f"model '{name}': no such file or folder.{known}")


def shipped_models() -> list[str]:
    """Return the names of the models that come with nextvec."""
    folder = files("nextvec") / "shipped_models"
    return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []


def _load_folder(path: Path, device: torch.device) -> LatentVectorModel:
    """Load an exported folder or the best model of a run."""
    if (path / CONFIG).is_file():
        return read_model_folder(path, device)
    if not (path / BEST_MODEL).is_file() and not (path / RECIPE_FILE).is_file():
        raise CheckpointError(
            f"model {path}: has neither {CONFIG} nor {BEST_MODEL}. Name an exported folder, a run or a .pt file."
        )
    return _load_checkpoint(path / BEST_MODEL, device)


def _load_checkpoint(path: Path, device: torch.device) -> LatentVectorModel:
    """Load a checkpoint, and the encoder, baselines and val scores of the run folder that it is in."""
    checkpoint = read_checkpoint(path)
    values, run = checkpoint.values, path.parent
    network = checkpoint.model().to(device)
    # The original trainer's files have neither space nor context length.
    space = Space.from_dict(values["space"]) if "space" in values else Space(UNKNOWN, "", network.dimensions)
    try:
        chunker = Chunker(**values.get("chunker", {}))
        context_length = int(values.get("context", DEFAULT_CONTEXT))
    except (InputError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path}: its chunker or context is malformed. Train the run again."
        ) from error
    return LatentVectorModel(
        network=network,
        source=str(path),
        space=space,
        context_length=context_length,
        min_context=checkpoint.recipe.data.min_context if checkpoint.is_native else None,
        encoder_name=str(values.get("encoder", "")),
        encoder_folder=run / ENCODER_FOLDER if space.encoder == LSA else None,
        chunker=chunker,
        baselines=_read_baselines(checkpoint, network.dimensions, device),
        val=_read_val_scores(run, network.name) if path.name == BEST_MODEL else ValScores(),
        coherence=_read_coherence(run, network.dimensions),
        seen_rows=SeenRows.from_values(values.get("seen_rows")),
    )


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Return the weights of any source of `load_model` as a checkpoint, to evaluate them or to start training from.

    Raises the errors of `load_model`.
    """
    path = Path(source)
    is_run = path.is_dir() and not (path / CONFIG).is_file()
    # A path with a checkpoint's suffix stays one even if it is missing, for the clearer error.
    if is_run or path.is_file() or (path.suffix == ".pt" and str(source) not in shipped_models()):
        return read_checkpoint(path)
    model = load_model(source)
    values = {
        "format": FORMAT_VERSION,
        "model_type": model.network.name,
        "model_config": model.network.config,
        "model_state_dict": model.network.state_dict(),
        "space": model.space.to_dict(),
        "context": model.context_length,
        "chunker": model.chunker.to_dict(),
        "encoder": model.encoder_name,
        "seen_rows": model.seen_rows.to_values(),
        "recipe": _recipe_of(model),
        "data": {},
    }
    return Checkpoint(path, values)


def _recipe_of(model: LatentVectorModel) -> str:
    """Return a recipe whose windows are those that the model was evaluated on."""
    least = "" if model.min_context is None else f"min_context = {model.min_context}\n"
    return f"[data]\ncontext = {model.context_length}\n{least}"


def _read_baselines(checkpoint: Checkpoint, dimensions: int, device: torch.device) -> dict[str, LatentModel]:
    """Return the run's baselines; outside of a run, or if they are damaged, those that need no fitting."""
    file = checkpoint.path.parent / BASELINES_FILE
    if checkpoint.is_native and file.is_file():
        try:
            baselines = read_baselines(file, device)
            if all(baseline.dimensions == dimensions for baseline in baselines.values()):
                # kNN predicts from the training windows, which are not loaded with a model.
                return {name: baseline for name, baseline in baselines.items() if not isinstance(baseline, KNN)}
        except DamagedCheckpointError:
            pass  # a comparison with fewer baselines is better than none
    unfitted = (CopyLast(dimensions), ContextMean(dimensions))
    return {baseline.name: baseline.to(device).eval() for baseline in unfitted}


def _read_coherence(run: Path, dimensions: int) -> Coherence | None:
    """Return the coherence of a run's embedding space; None if it was not fitted or the file is damaged."""
    try:
        return Coherence.load(run / COHERENCE_FILE, dimensions)
    except CheckpointError:
        return None


def _read_val_scores(run: Path, name: str) -> ValScores:
    """Return the val scores in a run's evaluation; empty if it was not evaluated or the file is damaged."""
    try:
        evaluation: dict[str, Any] = json.loads((run / EVALUATION_FILE).read_text(encoding="utf-8"))
        val = evaluation["splits"]["val"]
        predictors = val["predictors"].items()
        return ValScores(
            cosine_percentiles=tuple(map(float, val.get("cosine_percentiles", ()))),
            cosine={predictor: float(result["cosine"]["value"]) for predictor, result in predictors},
            mrr={predictor: float(result["retrieval"]["mrr"]) for predictor, result in predictors},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ValScores()
