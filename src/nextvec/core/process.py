"""Settings of the process that do not need torch: macOS's OpenMP runtimes, and what malloc does with freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress


def prepare_process() -> None:
    """Apply settings that torch needs before its import.

    On macOS, two OpenMP runtimes in one process would end it with "Abort trap: 6".
    """
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")


def keep_memory() -> bool:
    """Make malloc keep freed buffers for the next step. Return whether mallopt succeeded (glibc only).

    By default glibc returns buffers of several megabytes to the system and requests them again in every step, page by
    page. That took a sixth of a training step on two cores. At most one step's peak memory is kept.
    """
    if not sys.platform.startswith("linux"):
        return False
    # musl and other C libraries have no mallopt.
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Blocks up to 32 MB come from the heap instead of mmap, and the heap keeps up to 1 GB of free memory.
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, 2**25)) and bool(mallopt(trim_threshold, 2**30))


def give_back_memory() -> None:
    """Return malloc's free memory to the system once, in spite of `keep_memory` (glibc only)."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def is_one_of_several() -> bool:
    """Return whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_follower() -> bool:
    """Return whether torchrun started this process and another one is the main one, which prints."""
    return is_one_of_several() and os.environ.get("RANK", "0") != "0"
