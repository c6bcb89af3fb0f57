"""AMN, the attention mixture network: four steered means of the context, and a small network that corrects the first.

    means_h    = Σ softmax(position_h(age) + query_h([base, newest]) · key_h(context) / √64) context     (see `mixture`)
    prediction = means_1 + residual_net([means_1 … means_4, base]), base being means_1 without its content

The published form (`variant = "original"`) has one mean whose weights know no age, beside the plain mean. Position and
several time scales are what lets it win; the parameters are as many: 1,513,216 at D = 768, of 1,510,912 published.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nextvec import ops
from nextvec.models.base import NormThenDropout
from nextvec.models.layers import combine
from nextvec.models.pooling import AGES, KEY, Mixture
from nextvec.models.residual import BASE_DECAY, ResidualModel, start_at_zero

DECAYS = (BASE_DECAY, 0.5, 0.7, 1.0)
WIDE, NARROW = 176, 256


class AttentionMixture(ResidualModel):
    """The runbook's AMN for any D and any context length, in its default form."""

    name = "amn"
    reads_any_context = True

    def __init__(self, dimensions: int, *, dropout: float = 0.1, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.mixture = Mixture(dimensions, 2 * dimensions, DECAYS)
        last = nn.Linear(NARROW, dimensions)
        self.residual_net = nn.Sequential(
            nn.Linear((len(DECAYS) + 1) * dimensions, WIDE), nn.GELU(), NormThenDropout(WIDE, dropout),
            nn.Linear(WIDE, NARROW), nn.GELU(), NormThenDropout(NARROW, dropout),
            last,
        )  # fmt: skip
        if zero_start:
            start_at_zero(last)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        if len(context_BSD) == 1 and not self.training and not torch.is_grad_enabled():
            sizes = (AGES, len(DECAYS), KEY, WIDE, NARROW)
            prediction_1D = ops.predict_one(context_BSD, mask_BS, self._weights, sizes)
            if prediction_1D is not None:
                return prediction_1D
        by_age_B1S = self.mixture.weights_by_age(context_BSD, mask_BS)
        newest_B1S = torch.zeros_like(by_age_B1S)
        newest_B1S[..., -1] = 1
        asks_B2D, _ = combine(torch.cat([by_age_B1S, newest_B1S], dim=1), context_BSD, mask_BS)
        steered_BHS = self.mixture.weights(asks_B2D.flatten(1), context_BSD, mask_BS)
        means_BHD, mean_BD = combine(torch.cat([steered_BHS, by_age_B1S], dim=1), context_BSD, mask_BS)
        residual_BD: Tensor = self.residual_net(means_BHD.flatten(1))
        return mean_BD + residual_BD

    @property
    def _weights(self) -> tuple[Tensor, ...]:
        """What one prediction reads, in the order of `ops.predict_one`."""
        mixture = self.mixture
        wide, _, wide_norm, narrow, _, narrow_norm, last = self.residual_net
        modules: tuple[Any, ...] = (mixture.query, wide, wide_norm, narrow, narrow_norm, last)
        pairs = (tensor for module in modules for tensor in (module.weight, module.bias))
        return mixture.position_HA, mixture.key.weight, *pairs
