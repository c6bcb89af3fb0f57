"""Compile `kernels.c` for the CPU at hand, cache the library, and bind its functions with ctypes.

The library is linked without an OpenMP runtime of its own. Its parallel loops use the one that torch has already
loaded, so both share one pool of `torch.get_num_threads()` threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
COMPILER_OPTIONS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-std=gnu11",
)
COMPILE_TIMEOUT_SECONDS = 120


class NativeOpsUnavailableError(Exception):
    """The C code cannot be compiled or loaded here; the message is the reason."""


# Compile and cache


def load_library() -> ctypes.CDLL:
    """Load the compiled library, compiling it first if it is not cached.

    Raises:
        NativeOpsUnavailableError: This is not Linux, or the C compiler is missing or fails.
    """
    if not sys.platform.startswith("linux"):
        raise NativeOpsUnavailableError("only compiled on Linux")
    compiler = shlex.split(os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "cc"))
    if not shutil.which(compiler[0]):
        raise NativeOpsUnavailableError(f"no C compiler: {compiler[0]}")
    options = [option for option in COMPILER_OPTIONS if _is_supported(option)]
    file_name = f"kernels-{_cache_key([*compiler, *options])}.so"
    try:
        cache_folder = _cache_folder()
        if cache_folder is None:  # a loaded library does not need its file any more
            with tempfile.TemporaryDirectory(prefix="nextvec-") as folder:
                return _compile(compiler, options, Path(folder, file_name))
        if (cache_folder / file_name).is_file():
            with suppress(OSError):  # a damaged file is compiled again
                return ctypes.CDLL(str(cache_folder / file_name))
        return _compile(compiler, options, cache_folder / file_name)
    except OSError as error:
        raise NativeOpsUnavailableError(f"{error}") from None


def _is_supported(option: str) -> bool:
    """Return whether compilers for this CPU accept an option: vector widths are an x86 option."""
    return not option.startswith("-mprefer") or platform.machine() in ("x86_64", "AMD64")


def _compile(compiler: list[str], options: list[str], file: Path) -> ctypes.CDLL:
    """Compile the source to `file` and load it."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        object_file, library_file = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        # Linking without -fopenmp leaves its symbols open, and torch's OpenMP runtime resolves them.
        _run([*compiler, *options, "-c", str(SOURCE), "-o", str(object_file)])
        _run([*compiler, "-shared", str(object_file), "-o", str(library_file), "-lm"])
        # A rename is atomic, so that a process that compiles at the same time never loads half a file.
        library_file.replace(file)
    return ctypes.CDLL(str(file))


def _run(command: list[str]) -> None:
    """Run the compiler. Raises NativeOpsUnavailableError with its last line if it fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NativeOpsUnavailableError(f"{command[0]} needed more than {COMPILE_TIMEOUT_SECONDS} s") from None
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or [f"exit {process.returncode}"])[-1]
        raise NativeOpsUnavailableError(f"{command[0]} failed: {last_line}")


def _cache_folder() -> Path | None:
    """Return the user's cache folder for compiled files, or None if it cannot be written."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    with suppress(OSError, RuntimeError):
        folder = (Path(cache_home) if cache_home else Path.home() / ".cache") / "nextvec"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A folder of another user could hold a library of theirs.
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    return None


def _cache_key(command: list[str]) -> str:
    """Return a hash of everything that the compiled code depends on: source, options, compiler and CPU."""
    facts = [SOURCE.read_bytes(), " ".join(command).encode(), platform.machine().encode()]
    # -march=native depends on the CPU's features; a home folder may be shared by several machines.
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts += [line.encode() for line in lines if line.startswith(("flags", "model name", "Features"))][:2]
    compiler = shutil.which(command[0])
    if compiler:
        status = Path(compiler).resolve().stat()
        facts.append(f"{status.st_size} {status.st_mtime_ns}".encode())
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]


# Bind


_FORMAT_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class StridedVectors(ctypes.Structure):
    """`struct strided_vectors` of kernels.c: the address, format and strides of a tensor's vectors."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("format", ctypes.c_long),
        ("stride0", ctypes.c_long),
        ("stride1", ctypes.c_long),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> StridedVectors:
        """Describe a tensor of two or three dimensions; its last dimension is contiguous."""
        return cls(tensor.data_ptr(), _FORMAT_CODES[tensor.dtype], tensor.stride(0), tensor.stride(1))


_ADDRESS, _INT, _FLOAT, _VECTORS = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.POINTER(StridedVectors)

# The arguments of each function in kernels.c, in its order. Every function returns nothing but symmetric_info_nce.
_ARGTYPES = {
    # scores, heads, extra, vectors, present, B, H, S, D
    "nextvec_score": [_ADDRESS, _VECTORS, _ADDRESS, _VECTORS, _ADDRESS, _INT, _INT, _INT, _INT],
    # sums, first, weights, vectors, present, B, H, S, D
    "nextvec_combine": [_VECTORS, _ADDRESS, _ADDRESS, _VECTORS, _ADDRESS, _INT, _INT, _INT, _INT],
    # units, lengths, vectors, min_length, B, D
    "nextvec_normalize": [_ADDRESS, _ADDRESS, _VECTORS, _FLOAT, _INT, _INT],
    # products, distances, squares, left, right, B, D
    "nextvec_compare_rows": [_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _INT, _INT],
    # means, variances, vectors, B, D
    "nextvec_moments": [_ADDRESS, _ADDRESS, _ADDRESS, _INT, _INT],
    # products, squares, vectors, shift, slope, B, D
    "nextvec_affine_products": [_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _INT, _INT],
    # products, row_log_sums, column_log_sums, groups, tau, B
    "nextvec_symmetric_info_nce": [_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _FLOAT, _INT],
    # block, block_factor, shift, slope, units, targets, unit_factors, target_factor, lengths, B, D
    "nextvec_mix": [*[_ADDRESS] * 9, _INT, _INT],
    # norm, chunk_sums, tensors, counts, count, chunk_size
    "nextvec_norm": [_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _INT, _INT],
    # addresses, counts, gradient_factors, weight_factors, rate, beta1, beta2, epsilon, average_fraction, count, chunk
    "nextvec_update_weights": [*[_ADDRESS] * 4, *[ctypes.c_double] * 3, *[_FLOAT] * 2, _INT, _INT],
}


@cache
def _library_or_reason() -> ctypes.CDLL | str:
    """Return the library with typed functions, or the reason why there is none."""
    try:
        library = load_library()
    except NativeOpsUnavailableError as error:
        return str(error)
    for name, argtypes in _ARGTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argtypes, None
    library.nextvec_symmetric_info_nce.restype = ctypes.c_double
    return library


# Use


class _Switch:
    """Whether the C code may be used; changed by `native_ops` only."""

    enabled = True


@contextmanager
def native_ops(enabled: bool) -> Iterator[None]:
    """Use the C code inside the `with` block where it is available, or never; the state before it comes back after."""
    before, _Switch.enabled = _Switch.enabled, enabled
    try:
        yield
    finally:
        _Switch.enabled = before


def backend(device: torch.device) -> str:
    """Return what runs the fused operations on a device: "native", "torch", or "torch (why not native)"."""
    if device.type != "cpu" or not _Switch.enabled:
        return "torch"
    library = _library_or_reason()
    return f"torch ({library})" if isinstance(library, str) else "native"


def native_library(*tensors: Tensor) -> ctypes.CDLL | None:
    """Return the library if it can read these tensors, else None.

    It reads CPU tensors of float32, float16 and bfloat16; the last dimension of the last tensor must be contiguous.
    """
    if not _Switch.enabled:
        return None
    for tensor in tensors:
        if not tensor.is_cpu or tensor.dtype not in _FORMAT_CODES:
            return None
    if tensors and tensors[-1].ndim and tensors[-1].stride(-1) != 1:
        return None
    library = _library_or_reason()
    return None if isinstance(library, str) else library
