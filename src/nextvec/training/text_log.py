"""training.log: the lines that people and `grep` read. Each is a pure function of the recipe or of an epoch's record.

Epoch 3/30
  train_cosine=0.5123 train_loss_mse=0.001270 train_loss_info=1.7312 share_mse=0.50 share_info=0.50
  val_cosine=0.5234 val_gain=+0.0044 over decayed-mean 0.5190 val_margin=+0.1012 val_loss_mse=0.001241 …
  lr=0.000473 windows_per_second=3126 seconds=4.1 best so far
  ● green gate: val cosine 0.5234 ≥ 0.48 (best baseline decayed-mean 0.5190)
"""

from __future__ import annotations

from typing import Any

from nextvec.guards.diagnosis.case import Diagnosis
from nextvec.guards.gates import GateVerdict
from nextvec.recipe import Recipe

SYNTHETIC_LINE = "SYNTHETIC data: a rehearsal; its scores say nothing about real text"


def header_lines(recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """The top of the log: what is trained, on what, where."""
    windows = ", ".join(f"{split} {count:,}" for split, count in facts["windows"].items())
    if facts["train_windows"] != facts["windows"]["train"]:
        windows += f", trained on {facts['train_windows']:,}"
    weights = recipe.objective.model_dump(include={"mse", "info_nce", "moment", "variance"})
    terms = " ".join(f"{name}={weight:g}" for name, weight in weights.items() if weight)
    lines = [SYNTHETIC_LINE] if facts["synthetic"] else []
    return [
        *lines,
        f"nextvec {facts['versions']['nextvec']} · run {recipe.name} · recipe {recipe.recipe_hash}",
        f"model {recipe.model.kind}, {facts['parameters']:,} parameters, seed {recipe.seed}",
        f"data {recipe.data.store} · {facts['space']} · context {recipe.data.context} · windows: {windows}",
        f"objective {terms} tau={recipe.objective.tau:g} loss_weighting={recipe.objective.loss_weighting}",
        f"device {facts['device']}, {facts['precision']}, {facts['threads']} threads, CPU ops: {facts['cpu_ops']}",
    ]


def epoch_lines(record: dict[str, Any], recipe: Recipe) -> list[str]:
    """An epoch's heading, within the five lines below it its figures, and then its gates."""
    lines = [f"Epoch {record['epoch']}/{recipe.training.epochs}"]
    lines.append("  " + _figures(record, "train_") + _figures(record, "share_", ".2f"))
    for split in ("val", "ood"):
        if f"{split}_cosine" in record:
            lines.append(f"  {_split_line(record, split)}")
    best = " best so far" if record["best"] else ""
    lines.append(
        f"  lr={record['lr']:.3g} windows_per_second={record['windows_per_second']:.0f} "
        f"seconds={record['seconds']:.1f}{best}"
    )
    lines += [f"  {GateVerdict(**verdict).line}" for verdict in record["gates"]]
    return lines + [f"  diagnosis: {Diagnosis(**item).line}" for item in record.get("diagnoses", ())]


def _split_line(record: dict[str, Any], split: str) -> str:
    shown = (f"{split}_cosine", f"{split}_gain", f"{split}_margin")
    baseline = f"over {record[f'{split}_best_baseline']}"
    rest = {name: value for name, value in record.items() if name.startswith(f"{split}_loss")}
    return (
        f"{split}_cosine={record[shown[0]]:.4f} {split}_gain={record[shown[1]]:+.4f} {baseline} "
        f"{split}_margin={record[shown[2]]:+.4f} {_figures(rest, split)}"
    ).rstrip()


def _figures(record: dict[str, Any], prefix: str, form: str = ".4g") -> str:
    return "".join(f"{name}={_number(name, value, form)} " for name, value in record.items() if name.startswith(prefix))


def _number(name: str, value: float, form: str) -> str:
    return f"{value:.4f}" if name.endswith("cosine") else f"{value:{form}}"
