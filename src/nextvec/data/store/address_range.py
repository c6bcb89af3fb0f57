"""Several files in consecutive addresses of memory, as one numpy array.

Python's mmap module chooses the address of a map by itself. The C library's mmap accepts one (MAP_FIXED): a range of
addresses is reserved first, without memory, and each file is mapped into its place in it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MAP_FIXED = 0x10  # Linux, macOS and the BSDs agree
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""The kernel refuses a map larger than memory and swap without it, although no page of it is written to."""


class AddressRange:
    """A range of addresses for files. It is released with the last array on it."""

    def __init__(self, size: int) -> None:
        """Reserve `size` bytes. Raises OSError if the system has no mmap, or refuses."""
        map_memory, unmap = _functions()
        self._map_memory, self._size = map_memory, size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._address = _require_map(map_memory(None, size, 0, flags, -1, 0))
        # Not at exit: other threads and exit functions may still use the array, and the system unmaps it anyway.
        weakref.finalize(self, unmap, self._address, size).atexit = False

    def map_file(self, start: int, size: int, descriptor: int, offset: int) -> None:
        """Map `size` bytes of an open file, from `offset` on, to byte `start` of the range, copy-on-write.

        `start` and `offset` must be multiples of the page size. Raises OSError if the system refuses.
        """
        assert 0 <= start <= start + size <= self._size, (start, size, self._size)
        if size:
            protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
            _require_map(self._map_memory(self._address + start, size, protection, flags, descriptor, offset))

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return the range as an array, which keeps it alive."""
        return np.asarray(_Interface(self, shape, np.dtype(dtype).str))

    @property
    def address(self) -> int:
        """The first address."""
        return self._address


class _Interface:
    """What numpy needs to know to make an array of a range. numpy keeps this object as the array's base."""

    def __init__(self, addresses: AddressRange, shape: tuple[int, ...], typestr: str) -> None:
        self._addresses = addresses
        self.__array_interface__ = {
            "data": (addresses.address, False),
            "shape": shape,
            "typestr": typestr,
            "version": 3,
        }


def _functions() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return the C library's mmap and munmap. Raises OSError if there are none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        map_memory, unmap = library.mmap, library.munmap
    except (AttributeError, TypeError) as error:
        raise OSError("this system has no mmap") from error
    map_memory.restype = ctypes.c_void_p
    map_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
    unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return map_memory, unmap


def _require_map(address: int | None) -> int:
    """Return the address of a map. Raises OSError for MAP_FAILED."""
    if address is None or address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return address
