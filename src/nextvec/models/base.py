"""What every predictor is: a network, or a closed form, that reads a context and says where the next vector points.

Letters in names: B windows of a batch, S context length, D dimensions, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec import ops

SHORTEST = 1e-6
"""Length below which a vector counts as having no direction: `unit` divides by at least this."""


class LatentModel(nn.Module):
    """Predicts the next vector of a document, (B, D), from the S vectors before it, (B, S, D), oldest first.

    A mask (B, S) is True where a context vector is there. Absent vectors are always the oldest ones; what stands in
    their place is never read, so that the prediction equals the one from the shorter context. No method waits for the
    device.
    """

    name: str
    """Its kind: the name in the registry or in BASELINES."""

    variant: str = ""
    """Which form of a network it is: "residual" or "original"; empty for a baseline."""

    reads_any_context: bool = False
    """Whether `_raw` reads vectors of any format, and leaves absent ones alone, where `nextvec.kernels` does."""

    constants: tuple[str, ...] = ()
    """Names in the state dict that are computed, not learned: a checkpoint may lack them."""

    def __init__(self, dimensions: int, **options: float | int | bool) -> None:
        super().__init__()
        assert dimensions > 0, dimensions
        self.dimensions = dimensions
        variant = {"variant": self.variant} if self.variant else {}
        self.config: dict[str, Any] = {"kind": self.name, **variant, "dimensions": dimensions, **options}
        """Plain values from which `model_from_config` makes a model of the same shape."""
        self.query_head: nn.Module | None = None
        """What makes the second output, from (context_BSD, mask_BS); None where there is none."""

    @property
    def has_query(self) -> bool:
        """Whether there is a second output beside the prediction: the query, for retrieval."""
        return self.query_head is not None

    def forward(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """The raw prediction (B, D) of any length, float32 or autocast's dtype; only its direction has a meaning."""
        assert context_BSD.shape[2] == self.dimensions, (tuple(context_BSD.shape), self.dimensions)
        return self._raw(self._ready(context_BSD, mask_BS), mask_BS)

    def _ready(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        if self.reads_any_context and ops.read(context_BSD):
            return context_BSD
        return read_context(context_BSD, mask_BS)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """`forward` for a context from `_ready`."""
        raise NotImplementedError

    def predict(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """The prediction (B, D) at unit length, float32."""
        return unit(self(context_BSD, mask_BS))

    def raw_query(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """The query (B, D) of any length, as training needs it; only where `has_query`."""
        assert self.query_head is not None, f"this {self.name} has no query"
        context_BSD = context_BSD if ops.read(context_BSD) else read_context(context_BSD, mask_BS)
        query_BD: Tensor = self.query_head(context_BSD, mask_BS)
        return query_BD

    def query(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """The query (B, D) at unit length, float32: what the next chunk is looked for with."""
        return unit(self.raw_query(context_BSD, mask_BS))

    def query_parameters(self) -> list[nn.Parameter]:
        """What only the query is made of."""
        return [] if self.query_head is None else list(self.query_head.parameters())

    def prediction_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("query_head.")]


def count_parameters(model: nn.Module) -> int:
    """How many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (…, D) scaled to length 1, float32 (float64 stays). The zero vector stays zero, its gradient finite."""
    return F.normalize(at_least_float32(vectors), dim=-1, eps=SHORTEST)


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor of half precision as float32, any other as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def read_context(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """The context (B, S, D) in float32 (float64 stays), with zeros where nothing is there.

    On a graphics card under autocast it is in autocast's format: brought there once, not before every product. A
    processor multiplies the small matrices of a window faster in float32, and float16 takes it a detour to bfloat16.
    """
    context_BSD = (
        at_least_float32(context_BSD) if context_BSD.is_cpu else context_BSD.to(format_of_products(context_BSD))
    )
    return context_BSD if mask_BS is None else context_BSD.masked_fill(~mask_BS[:, :, None], 0.0)


def format_of_products(tensor: Tensor) -> torch.dtype:
    """The dtype that a matrix product with this tensor runs in: autocast's where that is on, else float32 at least."""
    kind = tensor.device.type
    autocasts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocasts else torch.promote_types(tensor.dtype, torch.float32)


def mean_of_present(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """The mean (B, D) of the context vectors that are there; the others must be zero."""
    if mask_BS is None:
        return context_BSD.mean(dim=1)
    return context_BSD.sum(dim=1) / _count_present(mask_BS)[:, None]


def present_first(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """The context with each row's present vectors moved to the front, in order, as if the shorter context stood alone.

    A causal network then gives at the last present step what it gives for the shorter context; nothing after that
    step can reach it.
    """
    if mask_BS is None:
        return context_BSD
    length = mask_BS.shape[1]
    steps_S = torch.arange(length, device=mask_BS.device)
    source_BS = (steps_S - _count_present(mask_BS)[:, None]) % length
    return context_BSD.take_along_dim(source_BS[:, :, None], dim=1)


def last_present(hidden_BSH: Tensor, mask_BS: Tensor | None) -> Tensor:
    """The step (B, H) of the last present vector, for a network that read `present_first`."""
    if mask_BS is None:
        return hidden_BSH[:, -1]
    return hidden_BSH.take_along_dim(_count_present(mask_BS)[:, None, None] - 1, dim=1)[:, 0]


def _count_present(mask_BS: Tensor) -> Tensor:
    """How many context vectors each row has, (B,); at least 1, so that nothing divides by zero."""
    return mask_BS.sum(dim=1).clamp(min=1)


class NormThenDropout(nn.LayerNorm):
    """LayerNorm with dropout behind it: one module, so that dropout never moves the names in a state dict."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__(size)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return drop(super().forward(input), self.dropout, self.training)


def drop(tensor: Tensor, share: float, training: bool) -> Tensor:
    """`F.dropout`; on a processor from 16 random bits a number, a quarter of the time, `share` rounded to 1/65,536."""
    if not training or not share or not tensor.is_cpu:
        return F.dropout(tensor, share, training)
    bits = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    dropped = min(round(share * 2**16), 2**16 - 1)
    kept = bits[: tensor.numel()].view(tensor.shape) >= dropped - 2**15
    return tensor * (kept.to(tensor.dtype) * (2**16 / (2**16 - dropped)))
