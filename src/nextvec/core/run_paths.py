"""The file names of a run folder. Standard library only, so that every reader of a run can import them."""

from __future__ import annotations

from pathlib import Path

RECIPE_FILE = "recipe.toml"
"""The resolved recipe."""
EVENTS_FILE = "events.jsonl"
"""The append-only event log, from which everything about a run can be read."""

TRAINING_LOG = "training.log"
"""The log for people; the runbook greps it."""
SENTINEL_LOG = "ood_sentinel.log"
"""The lines of the sentinel."""
HISTORY_FILE = "training_history.json"
"""The metrics of every epoch."""

BEST_MODEL = "best_model.pt"
"""The checkpoint with the best prediction, by `training.best_metric`, and the best query, by MRR on val."""
RESUME_STATE = "resume.pt"
"""The training state that `nextvec resume` continues from."""
PREVIOUS_STATE = "resume_previous.pt"
"""The training state saved before `RESUME_STATE`, in case that file is damaged."""
BASELINES_FILE = "baselines.pt"
"""The fitted baselines."""
CHECKSUMS_FILE = "checkpoints.json"
"""SHA-256 of every .pt file."""
ENCODER_FOLDER = "encoder"
"""The fitted encoder of the training store, if it has one."""

EVALUATION_FILE = "evaluation.json"
"""The evaluation of the best model."""
COHERENCE_FILE = "coherence.safetensors"
"""The whitening by which `nextvec score` finds chunks that don't fit into their document."""
REPORT_FILE = "report.html"
"""The report page."""
MODEL_CARD = "model_card.md"
"""The model card, with Hugging Face metadata."""
TENSORBOARD_FOLDER = "tensorboard"
"""TensorBoard's files, if `--tracker tensorboard` is given."""
TRACKERS_FOLDER = "trackers"
"""For each tracker NAME.json, the id of the tracked run and the epochs sent, and NAME.log, its library's output."""


TIME, TIME_FORMAT = "{time}", "%Y%m%d_%H%M%S"
"""In the name of a new run folder: replaced by the time in this format when the folder is made."""


def epoch_file(epoch: int) -> str:
    """Return the name of the checkpoint after an epoch (from 1)."""
    return f"epoch_{epoch}.pt"


def tracker_file(folder: Path, name: str) -> Path:
    """Return the file with the position of a tracker."""
    return folder / TRACKERS_FOLDER / f"{name}.json"
