"""The metrics that a gate can use. No pydantic here, so that a watcher of a run can import them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GateMetric:
    """A metric of an epoch."""

    meaning: str
    lower_is_better: bool = False


GATE_METRICS = {
    "val_cosine": GateMetric("mean cosine between prediction and target on val"),
    "val_gain": GateMetric("val_cosine minus the best baseline's cosine"),
    "val_margin": GateMetric("cosine to the target minus cosine to the last context vector, on val"),
    "val_mrr": GateMetric("MRR of the query on val, among all its chunks"),
    "val_mrr_gain": GateMetric("val_mrr minus the best baseline's MRR"),
    "val_loss": GateMetric("the objective on val", lower_is_better=True),
    "ood_cosine": GateMetric("mean cosine between prediction and target on ood"),
    "ood_gain": GateMetric("ood_cosine minus the best baseline's cosine"),
    "ood_margin": GateMetric("cosine to the target minus cosine to the last context vector, on ood"),
    "train_cosine": GateMetric("mean cosine over the epoch's training batches"),
    "train_loss_mse": GateMetric("mean squared error over the epoch's training batches", lower_is_better=True),
    "train_loss_info": GateMetric("InfoNCE over the epoch's training batches", lower_is_better=True),
    "min_gradient_share_ratio": GateMetric("smallest ratio of a term's gradient share to its requested share"),
    "supervised_gradient_share": GateMetric("gradient share of the terms that use the target (MSE, InfoNCE)"),
    "baseline_gap_closed": GateMetric("fraction closed of epoch 1's gap between val_cosine and the context mean's"),
    "epochs_since_best": GateMetric("epochs since training.best_metric was best", lower_is_better=True),
    "generalization_gap": GateMetric("train_cosine minus val_cosine", lower_is_better=True),
}
"""Name → metric."""
