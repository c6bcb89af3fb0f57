"""The interface of every predictor, network or baseline, and helpers for masked contexts and number formats.

Letters in names: B windows of a batch, S context length, D dimensions, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec import ops

QUERY_PREFIX = "query_head."
"""Beginning of the names, in a state dict, of what only the query uses. The prediction uses everything else."""


class LatentModel(nn.Module):
    """Predicts the next vector of a document (B, D) from the S vectors before it (B, S, D), oldest first.

    A mask (B, S) is True where a context vector is present. Absent vectors are always the oldest ones. Their values are
    never read, so that the prediction equals the one from the shorter context. No method waits for the device.
    """

    name: str
    """The kind of the model: its name in the registry or in BASELINES."""

    variant: str = ""
    """The form of a network, "residual" or "original"; empty for a baseline."""

    reads_stored_format: bool = False
    """Whether `_raw` accepts half-precision input and ignores masked positions itself, if `ops` reads them in place."""

    constants: tuple[str, ...] = ()
    """Names in the state dict that are computed, not learned; a checkpoint may lack them."""

    def __init__(self, dimensions: int, **options: float | int | bool) -> None:
        super().__init__()
        assert dimensions > 0, dimensions
        self.dimensions = dimensions
        # Baselines have no variant, so their configuration has none either.
        variant = {"variant": self.variant} if self.variant else {}
        self.config: dict[str, Any] = {"kind": self.name, **variant, "dimensions": dimensions, **options}
        """Plain values from which `model_from_config` creates a model of the same shape."""
        self.query_head: nn.Module | None = None
        """The module that computes the query from (context_BSD, mask_BS); None for a model without a query."""

    @property
    def has_query(self) -> bool:
        """Whether the model has a second output: the query, which retrieves the next chunk."""
        return self.query_head is not None

    def forward(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return the raw prediction (B, D), float32 or autocast's dtype; only its direction has a meaning."""
        assert context_BSD.shape[2] == self.dimensions, (tuple(context_BSD.shape), self.dimensions)
        # Convert and mask the context here, unless the network reads the stored format with fused operations.
        if not (self.reads_stored_format and ops.reads_in_place(context_BSD)):
            context_BSD = read_context(context_BSD, mask_BS)
        return self._raw(context_BSD, mask_BS)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the raw prediction for a context from `read_context`, or for a stored one (`reads_stored_format`)."""
        raise NotImplementedError

    def predict(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return the prediction (B, D) with length 1, float32."""
        return unit(self(context_BSD, mask_BS))

    def raw_query(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return the query (B, D) of any length, for training; the model must have one."""
        assert self.query_head is not None, f"this {self.name} has no query"
        context_BSD = context_BSD if ops.reads_in_place(context_BSD) else read_context(context_BSD, mask_BS)
        query_BD: Tensor = self.query_head(context_BSD, mask_BS)
        return query_BD

    def query(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return the query (B, D) with length 1, float32; the next chunk is retrieved with it."""
        return unit(self.raw_query(context_BSD, mask_BS))

    def query_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the query head."""
        return [] if self.query_head is None else list(self.query_head.parameters())

    def prediction_parameters(self) -> list[nn.Parameter]:
        """Return all parameters that are not in the query head."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith(QUERY_PREFIX)]


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# Number formats


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (…, D) to length 1, in float32 (float64 stays). Zero stays zero, with a finite gradient."""
    return F.normalize(at_least_float32(vectors), dim=-1, eps=ops.MIN_LENGTH)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; any other format stays."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def matmul_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with this tensor: autocast's if it is enabled, else float32 at least."""
    kind = tensor.device.type
    # Some device types have no autocast at all, and asking for its state would fail.
    autocasts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocasts else torch.promote_types(tensor.dtype, torch.float32)


# Masked contexts


def read_context(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return the context (B, S, D) in the format of computation, with absent vectors set to zero.

    On the CPU that is float32 (float64 stays): it multiplies the small matrices of a window faster in float32 than in
    bfloat16. On a GPU it is the format of matrix products, converted once here instead of before every product.
    """
    dtype = torch.promote_types(context_BSD.dtype, torch.float32) if context_BSD.is_cpu else matmul_dtype(context_BSD)
    context_BSD = context_BSD.to(dtype)
    return context_BSD if mask_BS is None else context_BSD.masked_fill(~mask_BS[:, :, None], 0.0)


def mean_of_present(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return the mean (B, D) of the present context vectors; the absent ones must be zero."""
    if mask_BS is None:
        return context_BSD.mean(dim=1)
    return context_BSD.sum(dim=1) / _count_present(mask_BS)[:, None]


def present_first(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Move each row's present vectors to the front, in order, and the absent ones to the end.

    The output of a causal network at the last present step then equals its output for the shorter context, because
    nothing after a step affects it.
    """
    if mask_BS is None:
        return context_BSD
    length = mask_BS.shape[1]
    # Rotate each row to the left by its number of absent vectors.
    steps_S = torch.arange(length, device=mask_BS.device)
    source_BS = (steps_S - _count_present(mask_BS)[:, None]) % length
    # `gather`, unlike `take_along_dim`, can be exported with a variable number of windows.
    return context_BSD.gather(1, source_BS[:, :, None].expand(-1, -1, context_BSD.shape[2]))


def last_present(hidden_BSH: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return the state (B, H) at the last present step of a network that read `present_first`."""
    if mask_BS is None:
        return hidden_BSH[:, -1]
    newest_B11 = _count_present(mask_BS)[:, None, None] - 1
    return hidden_BSH.gather(1, newest_B11.expand(-1, -1, hidden_BSH.shape[2]))[:, 0]


def _count_present(mask_BS: Tensor) -> Tensor:
    """Return the number of present vectors in each row (B,), at least 1 so that it can be divided by."""
    return mask_BS.sum(dim=1).clamp(min=1)


# Dropout


class NormThenDropout(nn.LayerNorm):
    """LayerNorm followed by dropout, in one module so that dropout does not shift the names in a state dict."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__(size)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        return dropout(super().forward(input), self.dropout, self.training)


def dropout(tensor: Tensor, p: float, training: bool) -> Tensor:
    """Apply `F.dropout`; on the CPU with 16 random bits per element (4× faster) and `p` rounded to 1/65,536."""
    if not training or not p or not tensor.is_cpu:
        return F.dropout(tensor, p, training)
    # One random int64 gives four int16 between −2^15 and 2^15 − 1; an element is kept if its number is large enough.
    bits = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    threshold = min(round(p * 2**16), 2**16 - 1)
    kept = bits[: tensor.numel()].view(tensor.shape) >= threshold - 2**15
    # Kept elements are scaled up, so that the expected value stays.
    return tensor * (kept.to(tensor.dtype) * (2**16 / (2**16 - threshold)))
