"""Means of a context that a network can steer: by age, and by content.

    mixture_h = Σ_s softmax_s(position_h[age of s] + query_h · key_h(context_s) / √K) context_s

Each head starts as a decayed mean of its own decay, so that a fresh network already has the context at several time
scales, from its newest vector to its mean. Ages count back from the newest vector: a shorter context reads the same
numbers as the end of a longer one, and any length can be read.

Letters in names: B windows of a batch, S context length, D dimensions, H heads, K key size, A ages.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextvec.models.base import at_least_float32
from nextvec.models.layers import combine, score

KEY = 64
AGES = 64
"""Ages that have a weight of their own; older vectors share the last one's."""

QUERY_DECAYS = (0.05, 0.5, 1.0)
"""What the heads of the query output start as: nearly the newest vector, a steep mean, the plain mean."""

STARTED = ("position_HA", "gain_HD")
"""Ends of the names of parameters that start as numbers with a meaning, so that no weight decay should shrink them."""


class Mixture(nn.Module):
    """One weighted mean of the context for each of `decays`, which it starts as; `asks` numbers steer the weights."""

    def __init__(self, dimensions: int, asks: int, decays: tuple[float, ...]) -> None:
        super().__init__()
        self.heads = len(decays)
        ages_A = torch.arange(AGES, dtype=torch.float32)
        self.position_HA = nn.Parameter(torch.tensor(decays).log()[:, None] * ages_A)
        self.key = nn.Linear(dimensions, self.heads * KEY, bias=False)
        self.query = nn.Linear(asks, self.heads * KEY)
        # Content counts for little at first: the weights are the decays' until there is a reason to leave them.
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.zeros_(self.query.bias)

    def forward(self, asks_BA: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """(B, H, D) one mean for each head, from what steers them (B, asks)."""
        means_BHD, _ = combine(self.weights(asks_BA, context_BSD, mask_BS), context_BSD, mask_BS)
        return means_BHD

    def weights(self, asks_BA: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """(B, H, S) what each head's mean takes of each vector; adds up to 1 over S."""
        query_HBK = self.query(asks_BA).unflatten(1, (self.heads, KEY)).transpose(0, 1)
        # query · (W c) = (query W) · c: the same scores without making S keys.
        folded_HBD = torch.matmul(query_HBK, self.key.weight.unflatten(0, (self.heads, KEY)))
        scores_BHS = score(folded_HBD.transpose(0, 1), context_BSD, mask_BS)
        return _softmax(scores_BHS / math.sqrt(KEY) + self._position(context_BSD.shape[1]), mask_BS)

    def weights_by_age(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """(B, 1, S) what the first head's mean would take if it looked at age alone."""
        scores_BHS = self._position(context_BSD.shape[1])[:1].expand(len(context_BSD), 1, -1)
        return _softmax(scores_BHS, mask_BS)

    def _position(self, length: int) -> Tensor:
        """(H, S) the log-weight of each step, oldest first."""
        ages_HS = self.position_HA[:, :length]
        if length > AGES:
            ages_HS = torch.cat([ages_HS, ages_HS[:, -1:].expand(-1, length - AGES)], dim=1)
        return ages_HS.flip(1)


def _softmax(scores_BHS: Tensor, mask_BS: Tensor | None) -> Tensor:
    if mask_BS is not None:
        scores_BHS = scores_BHS.masked_fill(~mask_BS[:, None], torch.finfo(scores_BHS.dtype).min)
    return torch.softmax(scores_BHS, dim=2)


def _newest(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """(B, D) the last vector of a context, at least float32, zero where a context has none."""
    newest_BD = at_least_float32(context_BSD[:, -1])
    return newest_BD if mask_BS is None else newest_BD.masked_fill(~mask_BS[:, -1:], 0.0)


class QueryHead(nn.Module):
    """The second output: where to look for the next chunk, rather than what it is on average.

    A few steered means, and a linear correction of them that weight decay keeps small. It reads the context itself,
    apart from the network of the prediction: what predicts the mean direction blurs what tells a chunk from its
    neighbours.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.mixture = Mixture(dimensions, dimensions, QUERY_DECAYS)
        self.gain_HD = nn.Parameter(torch.tensor([0.7, 0.3, 0.0])[:, None].repeat(1, dimensions))
        self.metric = nn.Linear(dimensions, dimensions)
        nn.init.zeros_(self.metric.weight)
        nn.init.zeros_(self.metric.bias)

    def forward(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """(B, D) the raw query for a context; what stands in the place of absent vectors is not read."""
        means_BHD = self.mixture(_newest(context_BSD, mask_BS), context_BSD, mask_BS)
        steered_BD = (means_BHD * self.gain_HD).sum(dim=1)
        query_BD: Tensor = steered_BD + self.metric(steered_BD)
        return query_BD
