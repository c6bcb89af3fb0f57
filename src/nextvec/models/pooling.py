"""Weighted means of a context, with weights that depend on the age and the content of its vectors.

    mean_h = Σ_s softmax_s(position_h[age of s] + query_h · key_h(context_s) / √K) context_s

Each head starts as a decayed mean with a decay of its own. A fresh network thus sees the context at several time
scales, from its newest vector to its plain mean. Ages count back from the newest vector: a shorter context has the same
position weights as the end of a longer one, and the context may have any length.

Letters in names: B windows of a batch, S context length, D dimensions, H heads, K key size, A ages, C conditions (the
numbers that the query is computed from), R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextvec.models.base import at_least_float32
from nextvec.models.layers import combine, score

KEY_SIZE = 64
NUM_AGES = 64
"""Ages with a position weight of their own; older vectors share the last one."""

QUERY_DECAYS = (0.25, 0.05, 1.0)
"""The initial decays of the query head: the mean that it starts as, nearly the newest vector, the plain mean."""
QUERY_KEY_SIZE, METRIC_RANK = 16, 96
"""The query head is small: with 64 and a full rank it costs more and retrieves no better."""

NO_DECAY_SUFFIXES = ("position_HA", "gain_HD")
"""Name endings of parameters whose initial values have a meaning, so that weight decay must not shrink them."""


class Mixture(nn.Module):
    """One weighted mean of the context per decay in `decays`; `conditions` numbers steer the weights."""

    def __init__(self, dimensions: int, conditions: int, decays: tuple[float, ...], key_size: int = KEY_SIZE) -> None:
        super().__init__()
        self.heads, self.key_size = len(decays), key_size
        ages_A = torch.arange(NUM_AGES, dtype=torch.float32)
        # softmax(log(decay) · age) weights each vector with decay^age.
        self.position_HA = nn.Parameter(torch.tensor(decays).log()[:, None] * ages_A)
        self.key = nn.Linear(dimensions, self.heads * key_size, bias=False)
        self.query = nn.Linear(conditions, self.heads * key_size)
        # Content has little effect at first: the weights stay at decay^age until the gradient moves them.
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.zeros_(self.query.bias)

    def forward(self, condition_BC: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the mean of each head, (B, H, D)."""
        means_BHD, _ = combine(self.weights(condition_BC, context_BSD, mask_BS), context_BSD, mask_BS)
        return means_BHD

    def weights(self, condition_BC: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return each head's weights of the context vectors, (B, H, S); they add up to 1 over S."""
        query_HBK = self.query(condition_BC).unflatten(1, (self.heads, self.key_size)).transpose(0, 1)
        # query · (W c) = (query W) · c: the same scores, without computing a key for each of the S vectors.
        folded_HBD = torch.matmul(query_HBK, self.key.weight.unflatten(0, (self.heads, self.key_size)))
        scores_BHS = score(folded_HBD.transpose(0, 1), context_BSD, mask_BS)
        return _masked_softmax(scores_BHS / math.sqrt(self.key_size) + self._position(context_BSD.shape[1]), mask_BS)

    def age_weights(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the first head's weights by age alone, without content, (B, 1, S)."""
        scores_BHS = self._position(context_BSD.shape[1])[:1].expand(context_BSD.shape[0], 1, -1)
        return _masked_softmax(scores_BHS, mask_BS)

    def _position(self, length: int) -> Tensor:
        """Return the log-weight of each step, oldest first, (H, S)."""
        position_HS = self.position_HA[:, :length]
        if length > NUM_AGES:
            # Beyond NUM_AGES, every vector has the weight of the last age.
            oldest_HS = position_HS[:, -1:].expand(-1, length - NUM_AGES)
            position_HS = torch.cat([position_HS, oldest_HS], dim=1)
        return position_HS.flip(1)


def _masked_softmax(scores_BHS: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Apply softmax over S to the present vectors; the lowest finite score keeps a row without any from being NaN."""
    if mask_BS is not None:
        scores_BHS = scores_BHS.masked_fill(~mask_BS[:, None], torch.finfo(scores_BHS.dtype).min)
    return torch.softmax(scores_BHS, dim=2)


def _newest_vector(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return the last context vector (B, D), at least float32; zero for an empty context."""
    newest_BD = at_least_float32(context_BSD[:, -1])
    return newest_BD if mask_BS is None else newest_BD.masked_fill(~mask_BS[:, -1:], 0.0)


class QueryHead(nn.Module):
    """The second output: a query that retrieves the next chunk, instead of an estimate of its vector.

    It is a gated sum of weighted means plus a linear correction of low rank, which weight decay keeps small. It reads
    the context itself and shares nothing with the network of the prediction: what predicts the mean direction blurs the
    difference between a chunk and its neighbors.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.mixture = Mixture(dimensions, dimensions, QUERY_DECAYS, QUERY_KEY_SIZE)
        # Start as the first mean, without a correction.
        self.gain_HD = nn.Parameter(torch.tensor([1.0, 0.0, 0.0])[:, None].repeat(1, dimensions))
        self.metric_down = nn.Linear(dimensions, METRIC_RANK, bias=False)
        self.metric_up = nn.Linear(METRIC_RANK, dimensions)
        nn.init.zeros_(self.metric_up.weight)
        nn.init.zeros_(self.metric_up.bias)

    @torch.no_grad()
    def start_with(self, decay: float) -> None:
        """Make a fresh query the decayed mean with another decay, such as the one that retrieves best on train."""
        self.mixture.position_HA[0] = math.log(decay) * torch.arange(NUM_AGES, dtype=torch.float32)

    def forward(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the raw query (B, D); values at masked positions are not read."""
        # query = pooled + U V pooled + b, with pooled = Σ_h gain_h ∘ mean_h; the newest vector steers the means.
        means_BHD = self.mixture(_newest_vector(context_BSD, mask_BS), context_BSD, mask_BS)
        pooled_BD = (means_BHD * self.gain_HD).sum(dim=1)
        query_BD: Tensor = pooled_BD + self.metric_up(self.metric_down(pooled_BD))
        return query_BD
