"""Device, precision, threads, seeds and memory.

torch is imported inside the functions, so that reading a recipe or a run never loads it.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from nextvec.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import torch


DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> tuple[torch.device, str | None]:
    """Return the torch device for a name of `DEVICES` (or ``cuda:1``), and a notice if it falls back to the CPU.

    `auto` chooses cuda, then mps, then cpu. Raises InputError for an unknown name.
    """
    import torch

    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and (kind == "auto" or not (number.isascii() and number.isdecimal()))):
        raise InputError(f"device '{name}' is unknown.{did_you_mean(kind, DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if available[device])), None
    if not available[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        return torch.device("cpu"), f"device '{name}' is not available here; using cpu"
    return torch.device(name), None


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products. `auto` is bfloat16 if the hardware multiplies it fast, else float32.

    Weights, losses and the optimizer's state are always float32.
    """
    import torch

    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    assert name == "auto", name
    return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16 matrix products; emulation is slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        cpu = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the autocast context of a forward pass; for float32 it does nothing."""
    import torch

    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads (None: torch's default, one per core), and return the number in use."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def keep_memory() -> bool:
    """Make malloc keep freed buffers for the next step. Return whether mallopt succeeded (glibc only).

    By default glibc returns buffers of several megabytes to the system and requests them again in every step, page by
    page. That took a sixth of a training step on two cores. At most one step's peak memory is kept.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, 2**25)) and bool(mallopt(trim_threshold, 2**30))


def give_back_memory() -> None:
    """Return malloc's free memory to the system once, in spite of `keep_memory` (glibc only)."""
    import ctypes

    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device. numpy's global generator is never used."""
    import torch

    torch.manual_seed(seed)


def prepare_process() -> None:
    """Apply settings that torch needs before its import.

    On macOS, two OpenMP runtimes in one process would end it with "Abort trap: 6".
    """
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in MB: GPU memory on cuda, otherwise resident memory."""
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux kilobytes
