"""What a run computes on: device, number format, threads and seeds.

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
    """The torch device for a name of `DEVICES` (or ``cuda:1``), and a notice if another one had to be taken.

    `auto` takes cuda, then mps, then cpu. A device that this machine lacks falls back to the cpu with a notice.
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
    """The dtype that matrix products run in: `auto` is bfloat16 where the processor multiplies it fast, else float32.

    Weights, losses and the optimizer's state are float32 either way.
    """
    import torch

    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    assert name == "auto", name
    return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        cpu = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a model's forward pass runs; does nothing for float32."""
    import torch

    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def set_threads(threads: int | None) -> int:
    """Use that many processor threads (None: what torch chooses, the machine's cores); the number in force."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def keep_memory() -> bool:
    """Let the C library keep what a step frees for the next one; whether it could be told (glibc only).

    It would give buffers of some megabytes back to the system and get them again, page by page, in every step: a sixth
    of a training step on two cores. What is kept is at most what one step uses at its peak.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # the numbers of malloc.h
    return bool(mallopt(mmap_threshold, 2**25)) and bool(mallopt(trim_threshold, 2**30))


def give_back_memory() -> None:
    """Let the C library give what is free back to the system, once, whatever `keep_memory` said (glibc only)."""
    import ctypes

    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device. numpy is never used through its global state."""
    import torch

    torch.manual_seed(seed)


def prepare_process() -> None:
    """Settings that must be made before torch loads: on macOS two OpenMP runtimes may meet and abort the process."""
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")


def peak_memory(device: torch.device) -> int:
    """The most megabytes that this process has held so far: of the graphics card's memory on cuda, else of its own."""
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux kilobytes
