"""Comparison of the ranks of all predictors: MRR and R@10 with intervals, and the model's gain over the best baselines.

Every predictor has a rank for the same queries, so that differences are paired. Each measure has its own best baseline.

Letter in names: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextvec.evaluation.bootstrap import estimate_gains
from nextvec.evaluation.results import Estimate, RecallGain, RetrievalGain


@dataclass(frozen=True)
class RankComparison:
    """MRR and R@10 of all predictors, by name, and the gains of the model over each baseline."""

    model: str | None
    mrr: dict[str, Estimate]
    r_at_10: dict[str, Estimate]
    mrr_gains: dict[str, Estimate]
    """Baseline → the model's MRR minus that of the baseline; empty without a model."""
    r_at_10_gains: dict[str, Estimate]

    def retrieval_gain(self, output: str) -> RetrievalGain | None:
        """Return the gain in MRR over the best baseline; `output` names what retrieves: `query` or `prediction`."""
        if self.model is None or not self.mrr_gains:
            return None
        best = max(self.mrr_gains, key=lambda name: self.mrr[name].value)
        mrr, baseline_mrr = self.mrr[self.model].value, self.mrr[best].value
        return RetrievalGain(output, mrr, best, baseline_mrr, self.mrr_gains[best])

    @property
    def recall_gain(self) -> RecallGain | None:
        """The gain in R@10 over the best baseline; None without a model or without baselines."""
        if self.model is None or not self.r_at_10_gains:
            return None
        best = max(self.r_at_10_gains, key=lambda name: self.r_at_10[name].value)
        recall, baseline_recall = self.r_at_10[self.model].value, self.r_at_10[best].value
        return RecallGain(recall, best, baseline_recall, self.r_at_10_gains[best])


def compare_ranks(
    ranks: Mapping[str, NDArray[np.float64]],
    groups_Q: NDArray[np.integer],
    resamples: int,
    seed: int,
    model: str | None,
) -> RankComparison:
    """Compare the ranks (Q,) of the targets by each predictor; intervals resample groups of documents."""
    reciprocal = {name: 1 / rank_Q for name, rank_Q in ranks.items()}
    is_found = {name: (rank_Q <= 10).astype(np.float64) for name, rank_Q in ranks.items()}
    mrr, mrr_gains = estimate_gains(reciprocal, groups_Q, resamples, seed, model, bounds=(0, 1))
    recall, recall_gains = estimate_gains(is_found, groups_Q, resamples, seed, model, bounds=(0, 1))
    return RankComparison(model, mrr, recall, mrr_gains, recall_gains)
