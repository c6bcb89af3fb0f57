"""Run all benchmarks one after the other; tables go to the terminal, JSON files to artifacts/bench.

python bench/all.py [--store STORE] [--rounds N]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "startup",
    "limit",
    "throughput",
    "production",
    "quality",
    "inference",
    "use_model",
    "serving",
    "export",
    "encode",
    "scaling",
    "memory",
    "distributed",
    "gpu",
)


def main():
    """Run every script and list those that failed."""
    failed = []
    for name in SCRIPTS:
        process = subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py"), *sys.argv[1:]])
        if process.returncode:
            failed.append(name)
    if failed:
        print("failed:", ", ".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
