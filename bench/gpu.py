"""Measure training on a GPU: one command of less than 8 minutes. It needs CUDA and torch ≥ 2.10.

    python bench/gpu.py [--seconds 450] [--parts production,amn,…]
    python bench/gpu.py --device cpu --seconds 5        # runs every part with tiny sizes, to test this script

Each part runs in a process of its own with a time limit, the most important one first. Each row is printed and appended
to `gpu.jsonl` as soon as it is measured. A measurement that fails becomes a row with the reason: if a CUDA graph cannot
be captured, or torch.compile fails, the rows of the loop are there already.

    production    a run of 30 epochs with validation and checkpoints, by a CUDA graph or, if that fails, by the loop;
                  and the recipe as it is
    amn, gru, lstm, transformer
                  windows/s of the loop, as a CUDA graph and compiled, their share of the matrix rate, synchronizations
                  of the host per step, and the plain trainer
    correct       losses and gradients of every network against float64 on the CPU
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial

import gpu_parts
import torch
from common import machine
from gpu_bench import RECIPES, Bench

PARTS = {
    "production": gpu_parts.production,
    **{kind: partial(gpu_parts.steady, kind=kind) for kind in RECIPES},
    "correct": gpu_parts.correct,
}
SECONDS = {"production": 140, "amn": 90, "transformer": 70, "lstm": 50, "gru": 50, "correct": 40}
"""The time limit of each part on a GPU, in the order in which they run."""


def parse():
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=450, help="time limit of the whole command")
    parser.add_argument("--parts", default=",".join(SECONDS), help="parts to run, in this order")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    return parser.parse_known_args()[0]


def run_in_processes(parts, seconds):
    """Run each part in a process of its own, as an error of CUDA makes a process useless."""
    deadline = time.monotonic() + seconds
    for part in parts:
        bench = Bench(part, "cpu", 0)
        limit = min(SECONDS[part], deadline - time.monotonic())
        if limit < 10:
            bench.row(error="skipped: the time limit of the whole command is reached")
            continue
        command = [sys.executable, __file__, "--part", part, "--seconds", str(limit - 5)]
        started = time.monotonic()
        try:
            code = subprocess.run(command, timeout=limit).returncode
            bench.row(what="end of the part", seconds=time.monotonic() - started, **{"exit code": code})
        except subprocess.TimeoutExpired:
            bench.row(error=f"stopped after {limit:.0f} s; the rows above are complete")


def main():
    """Run the parts."""
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py: no CUDA device is available; nothing was measured. Run it on a machine with a GPU.")
        return
    if options.part:
        PARTS[options.part](Bench(options.part, options.device, options.seconds))
        return
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""
    facts = {**machine(), "date": time.strftime("%Y-%m-%d"), "capability": capability, "device": options.device}
    Bench("machine", "cpu", 0).row(**facts)
    parts = [part for part in options.parts.split(",") if part]
    if options.device == "cuda":
        run_in_processes(parts, options.seconds)
    for part in parts if options.device == "cpu" else ():
        PARTS[part](Bench(part, "cpu", options.seconds))


if __name__ == "__main__":
    main()
