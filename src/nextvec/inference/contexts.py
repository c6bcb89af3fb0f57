"""Contexts from users: arrays or tensors of any float type, checked and read in blocks of bounded memory.

Letters in names: N contexts, B contexts of a block, S context length, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nextvec.errors import InputError, SpaceError

Vectors = NDArray[Any] | Tensor
ContextsLike = Vectors | Sequence[Vectors]
"""(N, S, D), (S, D), or a list of contexts (S, D) of any lengths."""

MAX_CONTEXTS = 1024
"""Contexts per forward pass, as in an evaluation: the same weights then give the same scores."""
MAX_BLOCK_NUMBERS = 2**25
"""Upper limit of B · S · D, 128 MB in float32."""
MAX_LENGTH_ERROR = 0.01
"""Unit vectors may differ from length 1 by this much; rounding to bfloat16 changes a length by 0.002."""


@dataclass(frozen=True)
class Contexts:
    """N contexts that fit a model; `read_contexts` makes them."""

    parts: Tensor | list[Tensor]
    """(N, S, D), or a list of N tensors (S, D) of several lengths."""
    device: torch.device
    """The device of the caller's vectors."""
    is_numpy: bool

    def __len__(self) -> int:
        return len(self.parts)

    def blocks(self, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield the positions of each block, its contexts (B, S, D) in float32 on `device`, and its mask.

        Raises InputError for a vector that is not finite or not of unit length.
        """
        longest = max(map(len, self.parts), default=1)
        dimensions = self.parts[0].shape[-1] if len(self) else 1
        size = max(1, min(MAX_CONTEXTS, MAX_BLOCK_NUMBERS // (longest * dimensions)))
        for start in range(0, len(self), size):
            positions = slice(start, start + size)
            context_BSD, mask_BS = _stack(self.parts[positions])
            context_BSD = context_BSD.to(device, torch.float32)
            mask_BS = None if mask_BS is None else mask_BS.to(device)
            require_unit_length(context_BSD, mask_BS, start)
            yield positions, context_BSD, mask_BS

    def like_input(self, vectors_ND: Tensor) -> Vectors:
        """Return vectors as the caller passed the contexts: a numpy array, or a tensor on the same device."""
        return vectors_ND.cpu().numpy() if self.is_numpy else vectors_ND.to(self.device)


def read_contexts(contexts: ContextsLike, dimensions: int, max_length: int, owner: str) -> Contexts:
    """Check the shapes of contexts for a model that reads at most `max_length` vectors of D = `dimensions`.

    Raises InputError for another shape, an empty or too long context, or vectors that are not floats; SpaceError for
    another D. Both name the model by `owner`.
    """
    if isinstance(contexts, Tensor | np.ndarray):
        tensor = _to_tensor(contexts, "vectors")
        if tensor.ndim not in (2, 3):
            raise InputError(f"vectors: shape {tuple(tensor.shape)} is not (N, S, D) or (S, D). Reshape them.")
        contexts_NSD = tensor if tensor.ndim == 3 else tensor[None]
        parts: Tensor | list[Tensor] = contexts_NSD
        first: Any = contexts
        shapes = [tuple(contexts_NSD.shape[1:])] if len(contexts_NSD) else []
    else:
        first = contexts[0] if len(contexts) else np.empty(0)
        parts = [_to_tensor(context, f"context {number}") for number, context in enumerate(contexts)]
        shapes = [tuple(context.shape) for context in parts]
    for number, shape in enumerate(shapes):
        require_shape(shape, number, dimensions, max_length, owner)
    is_tensor = isinstance(first, Tensor)
    return Contexts(parts, first.device if is_tensor else torch.device("cpu"), not is_tensor)


def _to_tensor(vectors: Any, name: str) -> Tensor:
    """Return vectors as a tensor without gradients. Raises InputError unless they are numbers of a float type."""
    if isinstance(vectors, Tensor):
        tensor = vectors.detach()
    else:
        try:
            array = np.asarray(vectors)
            # torch reads neither foreign byte orders nor negative strides, and warns about read-only memory.
            # A reversed array of one row counts as contiguous, so its strides are checked as well.
            is_readable = array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative
            if not is_readable or min(array.strides, default=0) < 0:
                array = array.astype(array.dtype.newbyteorder("="), order="C")
            tensor = torch.from_numpy(array)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: not an array of numbers. Pass float vectors of one length D.") from error
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{name}: {kind} is not a float type. Pass float vectors.")
    return tensor


def require_shape(shape: tuple[int, ...], number: int, dimensions: int, max_length: int, owner: str) -> None:
    """Raise InputError or SpaceError unless a shape is (S, D) for 1 ≤ S ≤ `max_length` and D = `dimensions`."""
    if len(shape) != 2:
        raise InputError(f"context {number}: shape {shape} is not (S, D). Pass one row per vector.")
    if shape[1] != dimensions:
        raise SpaceError(
            f"context {number}: its vectors have {shape[1]} dimensions, but {owner} reads {dimensions}. "
            "Use vectors of the model's encoder."
        )
    if shape[0] == 0:
        raise InputError(f"context {number}: has no vectors. Pass at least one.")
    if shape[0] > max_length:
        raise InputError(
            f"context {number}: has {shape[0]} vectors, but {owner} reads at most {max_length}. "
            f"Pass the last {max_length}."
        )


def _stack(parts: Tensor | list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return contexts as one tensor (B, S, D), the newest vectors aligned, and the mask of several lengths."""
    if isinstance(parts, Tensor):
        return parts, None
    lengths = [len(context) for context in parts]
    if len(set(lengths)) == 1:
        return torch.stack(parts), None
    # Absent vectors are the oldest ones.
    context_BSD = pad_sequence([context.float() for context in parts], batch_first=True, padding_side="left")
    ages_S = torch.arange(max(lengths) - 1, -1, -1)
    return context_BSD, ages_S < torch.tensor(lengths)[:, None]


def require_unit_length(context_BSD: Tensor, mask_BS: Tensor | None, start: int) -> None:
    """Raise InputError for the first vector that is not finite or not of unit length; `start` is the first context."""
    lengths_BS = torch.linalg.vector_norm(context_BSD, dim=2)
    is_unit_BS = (lengths_BS - 1).abs() <= MAX_LENGTH_ERROR  # False for NaN
    if mask_BS is not None:
        is_unit_BS |= ~mask_BS
    if bool(is_unit_BS.all()):
        return
    row, position = (int(index) for index in (~is_unit_BS).nonzero()[0])
    length = float(lengths_BS[row, position])
    where = f"context {start + row}, vector {position}"
    if not bool(context_BSD[row, position].isfinite().all()):
        raise InputError(f"{where}: contains NaN or infinity. Encode the text again.")
    raise InputError(f"{where}: has length {length:.3g}, but the model reads unit vectors. Divide it by its length.")
