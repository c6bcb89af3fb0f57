"""Which weights best_model.pt contains: for each output, the best ones of the start and of all epochs, by val.

The prediction is selected by `training.best_metric`, the query by its MRR. The two outputs share no weights, so the
best prediction and the best query together are a model that scores exactly what was measured. Epoch 0 is the start,
before the first step, so that training never makes an output worse on val than it was, also after a warm start.

The selected weights are part of the training state: best_model.pt can be written again from it at any time.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from nextvec.core.run_paths import BEST_MODEL
from nextvec.errors import CheckpointError
from nextvec.guards.gates import selection_score
from nextvec.models.base import QUERY_PREFIX, LatentModel
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.run import Run
from nextvec.training.state import EpochMetrics, SelectedOutput
from nextvec.training.text_log import selection_line, start_line
from nextvec.training.validation import validate

Output = Literal["prediction", "query"]


def measure_start(run: Run) -> None:
    """Validate the weights before the first step, and record them as epoch 0, the first candidate of each output."""
    metrics: EpochMetrics = {"epoch": 0, "step": 0}
    for split in ("val", "ood"):
        if split in run.sets:
            metrics |= validate(run, split)
    run.state.start = metrics
    select_outputs(run, metrics)
    run.events.write("start", **metrics)
    run.log(start_line(metrics))


def select_outputs(run: Run, metrics: EpochMetrics) -> dict[str, bool]:
    """Keep the weights of each output that scores higher than before; return the flags for the epoch's metrics.

    The flags are `best` for the prediction and `query_best` for the query, if the model has one.
    """
    flags = {}
    for output, score in _scores(run.recipe, metrics).items():
        kept = run.state.selected.get(output)
        is_best = kept is None or score > _scores(run.recipe, run.state.record(kept.epoch))[output]
        if is_best:
            run.state.selected[output] = SelectedOutput(metrics["epoch"], _weights(run.eval_model, output))
        flags["best" if output == "prediction" else "query_best"] = is_best
    return flags


def _scores(recipe: Recipe, metrics: EpochMetrics) -> dict[Output, float]:
    """Return the score that selects each output; higher is better."""
    scores: dict[Output, float] = {"prediction": selection_score(recipe, metrics)}
    if "val_mrr" in metrics:
        scores["query"] = metrics["val_mrr"]
    return scores


def _weights(model: LatentModel, output: Output) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of the tensors that an output does not share with the other one."""
    is_query = output == "query"
    return {
        name: value.detach().to("cpu", copy=True)
        for name, value in model.state_dict().items()
        if name.startswith(QUERY_PREFIX) == is_query
    }


def selection_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return, for each output, the selected epoch and the metric there and at the start, as plain values."""
    metrics = {"prediction": run.recipe.training.best_metric, "query": "val_mrr"}
    return {
        output: {
            "epoch": kept.epoch,
            "metric": metrics[output],
            "value": run.state.record(kept.epoch)[metrics[output]],
            "start": run.state.start[metrics[output]],
        }
        for output, kept in run.state.selected.items()
    }


def best_checkpoint(run: Run) -> dict[str, Any]:
    """Return the content of best_model.pt: the selected weights; epoch, step and metrics are the prediction's."""
    metrics = run.state.record(run.state.selected["prediction"].epoch)
    selected = [kept.weights for kept in run.state.selected.values()]
    # In the order of the model's own state dict, like every other checkpoint.
    weights = {name: tensors[name] for name in run.model.state_dict() for tensors in selected if name in tensors}
    progress = {"epoch": metrics["epoch"], "step": metrics["step"], "metrics": metrics}
    return {**run.metadata(), **progress, "selection": selection_of(run), "model_state_dict": weights}


def restore_best(run: Run) -> str:
    """Write best_model.pt again if it is missing, damaged, or not the selection of the restored training state.

    Returns a warning if it was missing or damaged. A file that is newer than the state is what a kill between the two
    leaves, and no reason to warn.
    """
    if not run.state.history:
        return ""
    damage = ""
    try:
        saved = read_checkpoint(run.path / BEST_MODEL)
        if not saved.notice and saved.values.get("selection") == selection_of(run):
            return ""
        damage = saved.notice
    except CheckpointError as error:
        damage = str(error)
    save_checkpoint(run.path / BEST_MODEL, best_checkpoint(run))
    return f"{damage.rstrip('.')}. {BEST_MODEL} was written again." if damage else ""


def log_trained(run: Run) -> None:
    """Record the end of the training, and which epochs best_model.pt is from."""
    selection = selection_of(run)
    run.event("trained", best_epoch=selection["prediction"]["epoch"], selection=selection)
    run.log(selection_line(selection))
