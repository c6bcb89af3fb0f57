"""Device, precision, threads, seeds and peak memory of torch.

Settings that do not need torch are in `core/process.py`.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from nextvec.errors import InputError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")

_ALIASES = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps", "apple": "mps"}
"""Names that people use for a device → torch's name."""


def resolve_device(name: str) -> tuple[torch.device, str | None]:
    """Return the torch device for a name of `DEVICES` (or ``cuda:1``), and a notice if it falls back to the CPU.

    `auto` chooses cuda, then mps, then cpu. Raises InputError for an unknown name.
    """
    # A number is allowed after the name of a kind of device only: "cuda:1", but not "auto:1".
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and (kind == "auto" or not (number.isascii() and number.isdecimal()))):
        meant = _ALIASES.get(kind.lower(), kind.lower())
        hint = f" Did you mean '{meant}{colon}{number}'?" if meant in DEVICES and meant != kind else ""
        raise InputError(f"device '{name}' is unknown.{hint or did_you_mean(kind, DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if available[device])), None
    # A GPU that does not exist is not an error: a recipe made on a GPU machine also trains on the CPU.
    if not available[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        return torch.device("cpu"), f"device '{name}' is not available here; using cpu"
    return torch.device(name), None


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products. `auto` is bfloat16 if the hardware multiplies it fast, else float32.

    Weights, losses and the optimizer's state are always float32.
    """
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    assert name == "auto", name
    return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16 matrix products; emulation is slower than float32."""
    # Without the instructions, torch emulates bfloat16 on CUDA and on the CPU alike.
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        cpu = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the autocast context of a forward pass; for float32 it does nothing."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads (None: torch's default, one per core), and return the number in use.

    Raises InputError for more threads than cores: they would only wait for each other.
    """
    if threads is not None:
        cores = available_cores()
        if threads > cores:
            raise InputError(f"runtime.threads is {threads}, but this process has {cores} cores. Set at most {cores}.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device. numpy's global generator is never used."""
    torch.manual_seed(seed)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in MB: GPU memory on cuda, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux kilobytes
