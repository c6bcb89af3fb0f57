"""Finding a C compiler, compiling `kernels.c` for this very processor, and keeping the result for the next process.

The parallel loops are those of torch's own OpenMP runtime, which is loaded already: one pool of threads, as many as
`torch.set_num_threads` says. That is why the library is linked without one.

The compiled code as functions that take addresses, or the reason why there is none.
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
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
COMPILE = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-std=gnu11",
)
PATIENCE = 120
"""Seconds that a compiler may take."""


class NotCompiledError(Exception):
    """Why there is no compiled library, in a few words."""


def load() -> ctypes.CDLL:
    """The compiled library, made now if there is none yet. Raises NotCompiledError."""
    if not sys.platform.startswith("linux"):
        raise NotCompiledError("only compiled on Linux")
    compiler = shlex.split(os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "cc"))
    if not shutil.which(compiler[0]):
        raise NotCompiledError(f"no C compiler: {compiler[0]}")
    options = [option for option in COMPILE if _is_understood(option)]
    name = f"kernels-{_library_key([*compiler, *options])}.so"
    try:
        home = _home()
        if home is None:  # a library that is loaded needs its file no more
            with tempfile.TemporaryDirectory(prefix="nextvec-") as folder:
                return _compile(compiler, options, Path(folder, name))
        if (home / name).is_file():
            with suppress(OSError):  # damaged: made anew
                return ctypes.CDLL(str(home / name))
        return _compile(compiler, options, home / name)
    except OSError as error:
        raise NotCompiledError(f"{error}") from None


def _is_understood(option: str) -> bool:
    return not option.startswith("-mprefer") or platform.machine() in ("x86_64", "AMD64")


def _compile(compiler: list[str], options: list[str], file: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        _call([*compiler, *options, "-c", str(SOURCE), "-o", str(made)])
        _call([*compiler, "-shared", str(made), "-o", str(linked), "-lm"])
        linked.replace(file)  # whole or not at all, whoever else compiles the same
    return ctypes.CDLL(str(file))


def _call(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise NotCompiledError(f"{command[0]} needed more than {PATIENCE} s") from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"exit {ended.returncode}"])[-1]
        raise NotCompiledError(f"{command[0]} failed: {last}")


def _home() -> Path | None:
    """The folder for compiled files in the user's own cache; None where that can't be written."""
    cache = os.environ.get("XDG_CACHE_HOME")
    with suppress(OSError, RuntimeError):
        folder = (Path(cache) if cache else Path.home() / ".cache") / "nextvec"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    return None


def _library_key(command: list[str]) -> str:
    """A name for the compiled code of this source by this compiler for this processor."""
    facts = [SOURCE.read_bytes(), " ".join(command).encode(), platform.machine().encode()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts += [line.encode() for line in lines if line.startswith(("flags", "model name", "Features"))][:2]
    compiler = shutil.which(command[0])
    if compiler:
        found = Path(compiler).resolve().stat()
        facts.append(f"{found.st_size} {found.st_mtime_ns}".encode())
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]


_FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_allowed = True


def allow(compiled: bool) -> None:
    """Whether the compiled code may be used; True at first."""
    global _allowed
    _allowed = compiled


def how(device: torch.device) -> str:
    """What makes the passes on a device, in a few words."""
    if device.type != "cpu" or not _allowed:
        return "torch"
    library = _library()
    return f"torch ({library})" if isinstance(library, str) else "compiled code"


class Vectors(ctypes.Structure):
    """`struct vectors` of kernels.c: where vectors of a tensor of three dimensions lie."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("format", ctypes.c_long),
        ("first", ctypes.c_long),
        ("second", ctypes.c_long),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> Vectors:
        """Those of a tensor, its last dimension in one piece."""
        return cls(tensor.data_ptr(), _FORMATS[tensor.dtype], tensor.stride(0), tensor.stride(1))


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled code, or why there is none."""
    try:
        library = load()
    except NotCompiledError as error:
        return str(error)
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, f"nextvec_{name}")
        function.argtypes, function.restype = [_TYPES[letter] for letter in arguments], None
    library.nextvec_pair_both_ways.restype = ctypes.c_double
    return library


_TYPES = {"V": ctypes.POINTER(Vectors), "a": ctypes.c_void_p, "n": ctypes.c_long, "f": ctypes.c_float}
_ARGUMENTS = {
    "score": "aVaVannnn", "combine": "VaaVannnn", "normalise": "aaVfnn", "compare": "aaaaann", "moments": "aaann",
    "measure_affine": "aaaaann", "pair_both_ways": "aaaafn", "mix": "aaaaaaaaann",
    "predict_one": "aVaann",
    "norm": "aaaann",
}  # fmt: skip
"""For each function of kernels.c its arguments: vectors, addresses, whole numbers, float32."""


def compiled(*tensors: Tensor) -> ctypes.CDLL | None:
    """The library, where these tensors lie on the processor in formats that it knows, their vectors in one piece."""
    if not _allowed or any(not tensor.is_cpu or tensor.dtype not in _FORMATS for tensor in tensors):
        return None
    if tensors and tensors[-1].ndim and tensors[-1].stride(-1) != 1:
        return None
    library = _library()
    return None if isinstance(library, str) else library
