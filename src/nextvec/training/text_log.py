"""The lines of training.log, as pure functions of the recipe or of an epoch's metrics. People and `grep` read them.

start: val cosine 0.5190 (best baseline decayed-mean 0.5190), MRR of the query 0.2210 (best baseline copy-last 0.2230)
Epoch 3/30
  train_cosine=0.5123 train_loss_mse=0.00127 train_loss_info=1.731 share_mse=0.50 share_info=0.50
  val_cosine=0.5234 val_gain=+0.0044 val_best_baseline=decayed-mean:0.5190 val_margin=+0.1012 val_loss_mse=0.001241 …
  lr=0.000473 windows_per_second=3126 seconds=4.1 best=true query_best=false
  ● green gate: val cosine 0.5234 ≥ 0.48 (best baseline decayed-mean 0.5190)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nextvec.guards.diagnosis.case import Diagnosis
from nextvec.guards.gates import GateVerdict
from nextvec.recipe import Recipe

SYNTHETIC_LINE = "SYNTHETIC data: this is a dry run, and its scores do not transfer to real text."


def header_lines(recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
    """Return the first lines of the log: model, data, objective and hardware."""
    weights = recipe.objective.model_dump(include={"mse", "info_nce", "moment", "variance"})
    objective = {name: f"{weight:g}" for name, weight in weights.items() if weight}
    windows = {f"{split}_windows": f"{count:,}" for split, count in facts["windows"].items()}
    if facts["train_windows"] != facts["windows"]["train"]:
        windows["train_windows_with_shorter_contexts"] = f"{facts['train_windows']:,}"
    block = {"info_nce_block": recipe.objective.info_nce_block} if recipe.objective.info_nce_block else {}
    optimization = recipe.training.model_dump(include={"epochs", "batch_size", "lr", "ema_decay"})
    several = ("processes",) if facts["processes"] > 1 else ()
    lines = [
        {"nextvec": facts["versions"]["nextvec"], "run": recipe.name, "recipe_hash": recipe.recipe_hash},
        {"model": recipe.model.kind, "parameters": f"{facts['parameters']:,}", "seed": recipe.seed},
        {"store": recipe.data.store, "space": facts["space"], "context": recipe.data.context, **windows},
        {**objective, "tau": f"{recipe.objective.tau:g}", **block, "loss_weighting": recipe.objective.loss_weighting},
        {name: f"{value:g}" for name, value in optimization.items()},
        {name: facts[name] for name in ("device", *several, "precision", "threads", "cpu_ops")},
    ]
    return [*([SYNTHETIC_LINE] if facts["synthetic"] else []), *(_pairs(line) for line in lines)]


def baseline_line(split: str, cosines: Mapping[str, float]) -> str:
    """Return the line with the mean cosine of every baseline on a split."""
    return f"baselines on {split}: " + " ".join(f"{name}={cosine:.4f}" for name, cosine in cosines.items())


def start_line(metrics: Mapping[str, Any]) -> str:
    """Return the validation before the first step. `val cosine` has a space, so that `grep val_cosine` finds epochs."""
    parts = [f"val cosine {metrics['val_cosine']:.4f} (best baseline {metrics['val_best_baseline']})"]
    if "val_mrr" in metrics:
        parts.append(f"MRR of the query {metrics['val_mrr']:.4f} (best baseline {metrics['val_mrr_best_baseline']})")
    return f"start: {', '.join(parts)}"


def selection_line(selection: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which epoch each output of best_model.pt is from: `TrainingState.selected` without its weights."""
    parts = []
    for output, kept in selection.items():
        when = f"epoch {kept['epoch']}" if kept["epoch"] else "the start, because no epoch was better"
        metric = kept["metric"].replace("_", " ")
        parts.append(f"{output} of {when} ({metric} {kept['value']:.4f}, at the start {kept['start']:.4f})")
    return f"best_model.pt: {', '.join(parts)}"


def epoch_lines(metrics: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return an epoch's heading, its metrics in the five lines below it, then its gates and diagnoses."""
    lines = [f"Epoch {metrics['epoch']}/{recipe.training.epochs}"]
    lines.append("  " + _metrics(metrics, "train_") + _metrics(metrics, "share_", ".2f"))
    lines += [f"  {_split_line(metrics, split)}" for split in ("val", "ood") if f"{split}_cosine" in metrics]
    lines.append(
        f"  lr={metrics['lr']:.3g} windows_per_second={metrics['windows_per_second']:.0f} "
        f"seconds={metrics['seconds']:.1f} best={str(metrics['best']).lower()}"
        + (f" query_best={str(metrics['query_best']).lower()}" if "query_best" in metrics else "")
    )
    lines += [f"  {GateVerdict(**verdict).line}" for verdict in metrics["gates"]]
    return lines + [f"  diagnosis: {Diagnosis(**item).line}" for item in metrics.get("diagnoses", ())]


def _split_line(metrics: Mapping[str, Any], split: str) -> str:
    """Return the metrics of a split; the losses come last, as not every split has them."""
    losses = {name: value for name, value in metrics.items() if name.startswith(f"{split}_loss")}
    query = ""
    if f"{split}_mrr" in metrics:
        best = metrics[f"{split}_mrr_best_baseline"].replace(" ", ":")
        query = f"{split}_mrr={metrics[f'{split}_mrr']:.4f} {split}_mrr_best_baseline={best} "
    return (
        f"{split}_cosine={metrics[f'{split}_cosine']:.4f} {split}_gain={metrics[f'{split}_gain']:+.4f} "
        f"{split}_best_baseline={metrics[f'{split}_best_baseline'].replace(' ', ':')} "
        f"{split}_margin={metrics[f'{split}_margin']:+.4f} {query}{_metrics(losses, split)}"
    ).rstrip()


def _metrics(metrics: Mapping[str, Any], prefix: str, form: str = ".4g") -> str:
    """Return the metrics whose names begin with `prefix` as `name=value `."""
    chosen = {name: value for name, value in metrics.items() if name.startswith(prefix)}
    return "".join(f"{name}={value:{'.4f' if name.endswith('cosine') else form}} " for name, value in chosen.items())


def _pairs(values: Mapping[str, Any]) -> str:
    """Return `name=value` pairs; a value with a space is put in quotes."""
    return " ".join(f'{name}="{value}"' if " " in str(value) else f"{name}={value}" for name, value in values.items())
