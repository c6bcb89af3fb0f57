"""AMN as published: the mean of the context, plus a learned correction. It can't tell a context's order.

    base     = mean of the context
    weighted = Σ softmax(query(base) · key(context) / √256) context
    output   = base + residual_net([base, weighted])

With the last layer at zero (`zero_start`) a fresh network is the context mean exactly: its first evaluation can't be
below that baseline. 1,510,912 parameters at D = 768.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextvec.models.base import LatentModel, NormThenDropout, mean_of_present

KEY, WIDE, NARROW = 256, 512, 256


class OriginalAttentionMixture(LatentModel):
    """The runbook's AMN for any D and any context length."""

    name = "amn"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.0, zero_start: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        self.context_encoder = nn.Linear(dimensions, KEY)
        self.query_encoder = nn.Linear(dimensions, KEY)
        last = nn.Linear(NARROW, dimensions)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * dimensions, WIDE), nn.GELU(), NormThenDropout(WIDE, dropout),
            nn.Linear(WIDE, NARROW), nn.GELU(), NormThenDropout(NARROW, dropout),
            last,
        )  # fmt: skip
        if zero_start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        base_BD = mean_of_present(context_BSD, mask_BS)
        weights_BS = self._attention(base_BD, context_BSD, mask_BS)
        weighted_BD = torch.einsum("bs,bsd->bd", weights_BS, context_BSD)
        residual_BD: Tensor = self.residual_net(torch.cat([base_BD, weighted_BD], dim=1))
        return base_BD + residual_BD

    def _attention(self, base_BD: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """The share (B, S) of each context vector in the mixture."""
        query_BK = self.query_encoder(base_BD)
        # query · (W c + b) = (query W) · c + query · b: the same scores without making S keys, a third of all the work.
        folded_BD = query_BK @ self.context_encoder.weight
        offset_B = query_BK @ self.context_encoder.bias
        scores_BS = torch.einsum("bsd,bd->bs", context_BSD, folded_BD) + offset_B[:, None]
        scores_BS = scores_BS.float() / math.sqrt(KEY)
        if mask_BS is not None:
            scores_BS = scores_BS.masked_fill(~mask_BS, torch.finfo(scores_BS.dtype).min)
        return torch.softmax(scores_BS, dim=1)
