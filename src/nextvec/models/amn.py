"""AMN, the attention mixture network: four weighted means of the context, and a small network that corrects the first.

    means_h    = Σ softmax(position_h(age) + query_h([base, newest]) · key_h(context) / √64) context     (see `pooling`)
    prediction = means_1 + residual_net([means_1 … means_4, base])

`base` is the first mean with weights by age alone.

The published form (`variant = "original"`) has one mean with weights that do not depend on age, beside the plain mean.
Age and several time scales make the default form better. It has about as many parameters: 1,513,216 at D = 768 and
without the query, against 1,510,912.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextvec.models.base import NormThenDropout
from nextvec.models.layers import combine
from nextvec.models.pooling import Mixture
from nextvec.models.residual import BASE_DECAY, ResidualModel, zero_initialize

DECAYS = (BASE_DECAY, 0.5, 0.7, 1.0)
FIRST_HIDDEN, SECOND_HIDDEN = 176, 256


class AttentionMixture(ResidualModel):
    """The runbook's AMN for any D and any context length, in its default form."""

    name = "amn"
    reads_stored_format = True

    def __init__(self, dimensions: int, *, dropout: float = 0.1, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.mixture = Mixture(dimensions, 2 * dimensions, DECAYS)
        # The first hidden layer is a bottleneck: it reads five vectors, so its size decides the number of parameters.
        last_layer = nn.Linear(SECOND_HIDDEN, dimensions)
        self.residual_net = nn.Sequential(
            nn.Linear((len(DECAYS) + 1) * dimensions, FIRST_HIDDEN),
            nn.GELU(),
            NormThenDropout(FIRST_HIDDEN, dropout),
            nn.Linear(FIRST_HIDDEN, SECOND_HIDDEN),
            nn.GELU(),
            NormThenDropout(SECOND_HIDDEN, dropout),
            last_layer,
        )
        # The correction starts at zero: a fresh network predicts the first weighted mean.
        if zero_start:
            zero_initialize(last_layer)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # The condition of the content weights: the base and the newest vector, as two weighted sums of the context.
        base_weights_B1S = self.mixture.age_weights(context_BSD, mask_BS)
        newest_weights_B1S = torch.zeros_like(base_weights_B1S)
        newest_weights_B1S[..., -1] = 1
        condition_B2D, _ = combine(torch.cat([base_weights_B1S, newest_weights_B1S], dim=1), context_BSD, mask_BS)
        # The four means and the base again. Their float32 copy of the first mean is what the network corrects.
        weights_BHS = self.mixture.weights(condition_B2D.flatten(1), context_BSD, mask_BS)
        means_BHD, first_mean_BD = combine(torch.cat([weights_BHS, base_weights_B1S], dim=1), context_BSD, mask_BS)
        residual_BD: Tensor = self.residual_net(means_BHD.flatten(1))
        return first_mean_BD + residual_BD
