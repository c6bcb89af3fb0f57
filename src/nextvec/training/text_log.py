"""The lines of training.log, as pure functions of the recipe or of an epoch's metrics. People and `grep` read them.

Epoch 3/30
  train_cosine=0.5123 train_loss_mse=0.00127 train_loss_info=1.731 share_mse=0.50 share_info=0.50
  val_cosine=0.5234 val_gain=+0.0044 val_best_baseline=decayed-mean:0.5190 val_margin=+0.1012 val_loss_mse=0.001241 …
  lr=0.000473 windows_per_second=3126 seconds=4.1 best=true
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
    lines = [
        {"nextvec": facts["versions"]["nextvec"], "run": recipe.name, "recipe_hash": recipe.recipe_hash},
        {"model": recipe.model.kind, "parameters": f"{facts['parameters']:,}", "seed": recipe.seed},
        {"store": recipe.data.store, "space": facts["space"], "context": recipe.data.context, **windows},
        {**objective, "tau": f"{recipe.objective.tau:g}", "loss_weighting": recipe.objective.loss_weighting},
        {name: facts[name] for name in ("device", "precision", "threads", "cpu_ops")},
    ]
    return [*([SYNTHETIC_LINE] if facts["synthetic"] else []), *(_pairs(line) for line in lines)]


def baseline_line(split: str, cosines: Mapping[str, float]) -> str:
    """Return the line with the mean cosine of every baseline on a split."""
    return f"baselines on {split}: " + " ".join(f"{name}={cosine:.4f}" for name, cosine in cosines.items())


def epoch_lines(metrics: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return an epoch's heading, its metrics in the five lines below it, then its gates and diagnoses."""
    lines = [f"Epoch {metrics['epoch']}/{recipe.training.epochs}"]
    lines.append("  " + _metrics(metrics, "train_") + _metrics(metrics, "share_", ".2f"))
    lines += [f"  {_split_line(metrics, split)}" for split in ("val", "ood") if f"{split}_cosine" in metrics]
    lines.append(
        f"  lr={metrics['lr']:.3g} windows_per_second={metrics['windows_per_second']:.0f} "
        f"seconds={metrics['seconds']:.1f} best={str(metrics['best']).lower()}"
    )
    lines += [f"  {GateVerdict(**verdict).line}" for verdict in metrics["gates"]]
    return lines + [f"  diagnosis: {Diagnosis(**item).line}" for item in metrics.get("diagnoses", ())]


def _split_line(metrics: Mapping[str, Any], split: str) -> str:
    """Return the metrics of a split; the losses come last, as not every split has them."""
    losses = {name: value for name, value in metrics.items() if name.startswith(f"{split}_loss")}
    return (
        f"{split}_cosine={metrics[f'{split}_cosine']:.4f} {split}_gain={metrics[f'{split}_gain']:+.4f} "
        f"{split}_best_baseline={metrics[f'{split}_best_baseline'].replace(' ', ':')} "
        f"{split}_margin={metrics[f'{split}_margin']:+.4f} {_metrics(losses, split)}"
    ).rstrip()


def _metrics(metrics: Mapping[str, Any], prefix: str, form: str = ".4g") -> str:
    """Return the metrics whose names begin with `prefix` as `name=value `."""
    chosen = {name: value for name, value in metrics.items() if name.startswith(prefix)}
    return "".join(f"{name}={value:{'.4f' if name.endswith('cosine') else form}} " for name, value in chosen.items())


def _pairs(values: Mapping[str, Any]) -> str:
    """Return `name=value` pairs; a value with a space is put in quotes."""
    return " ".join(f'{name}="{value}"' if " " in str(value) else f"{name}={value}" for name, value in values.items())
