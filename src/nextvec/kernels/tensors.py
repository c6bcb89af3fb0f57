"""A pass over many tensors at once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from nextvec.kernels.library import compiled

CHUNK = 2**14
"""Numbers that a thread takes at a time."""


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The length of all numbers of some tensors as one vector, 0-dim."""
    library = compiled(*tensors)
    if library is None or any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in tensors):
        return torch.nn.utils.get_total_norm(tensors)
    length, counts = torch.empty(()), [tensor.numel() for tensor in tensors]
    room = (ctypes.c_double * sum(-(-count // CHUNK) for count in counts))()
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    sizes = (ctypes.c_long * len(tensors))(*counts)
    library.nextvec_norm(length.data_ptr(), room, addresses, sizes, len(tensors), CHUNK)
    return length
