"""Finding a C compiler, compiling `kernels.c` for this very processor, and keeping the result for the next process.

The parallel loops are those of torch's own OpenMP runtime, which is loaded already: one pool of threads, as many as
`torch.set_num_threads` says. That is why the library is linked without one.
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
from pathlib import Path

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
    name = f"kernels-{_fingerprint([*compiler, *options])}.so"
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


def _fingerprint(command: list[str]) -> str:
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
