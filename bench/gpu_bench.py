"""The rows, clocks and data of `gpu.py`: random vectors of the production size that exist on the device only."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from common import OUT, append_row

from nextvec.data.dataset import Dataset
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DOCUMENTS, VECTORS, Store
from nextvec.data.synthetic.generate import PRESETS, document_table, scaled
from nextvec.data.windows import WindowSet, index_windows
from nextvec.recipe import load_recipe
from nextvec.training import setup

RECIPES = {"amn": "amn-790k-production", "gru": "gru-790k", "lstm": "lstm-790k", "transformer": "transformer-790k"}
CONTEXT = 5
MAX_ROUND_SECONDS = 0.7
"""Seconds of a timed round: long enough for hundreds of steps, short enough for all rows."""


class DeviceDataset(Dataset):
    """A data set whose windows exist only on the device."""

    sets: dict[str, WindowSet] = {}  # noqa: RUF012

    def windows(self, context, min_context, device):
        """Return the windows of each split."""
        return dict(self.sets)


class Bench:
    """The device, the sizes, and what every part needs: rows, timers and data.

    On the CPU all sizes are tiny: that shows that the code runs, and measures nothing.
    """

    def __init__(self, part, device, seconds):
        self.part, self.device, self.seconds = part, torch.device(device), seconds
        self.is_cuda = self.device.type == "cuda"
        self.large, self.dimensions = (4096, 768) if self.is_cuda else (16, 32)
        self.scale = 1.0 if self.is_cuda else 0.001
        self.recipe_batch = load_recipe(RECIPES["amn"]).training.batch_size if self.is_cuda else 8
        self.deadline = time.monotonic() + seconds

    def row(self, **values):
        """Append a row to gpu.jsonl and print it."""
        append_row("gpu", {"part": self.part, **values})

    def attempt(self, measure, *arguments, **facts):
        """Write the rows of a measurement, and return whether it succeeded; an exception becomes a row."""
        if time.monotonic() > self.deadline and self.is_cuda:
            self.row(**facts, error="skipped: the part's time is over")
            return False
        try:
            for values in measure(self, *arguments):
                self.row(**facts, **values)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()
            self.row(**facts, error=f"{type(error).__name__}: {error}"[:600], trace=" | ".join(lines[-6:])[-700:])
            return False
        finally:
            if self.is_cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        return True

    def wait(self):
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def timed(self, work, *arguments):
        """Return the seconds of a call, with all its work on the device."""
        self.wait()
        begin = time.perf_counter()
        work(*arguments)
        self.wait()
        return time.perf_counter() - begin

    def rate_of(self, work, batch):
        """Return time, rate, spread and memory of `work(steps)`, after a warm-up."""
        warm_up = 3 if self.is_cuda else 1
        work(warm_up)
        steps, rounds = (
            (int(min(400, max(3, MAX_ROUND_SECONDS * 3 / self.timed(work, 3)))), 3) if self.is_cuda else (1, 1)
        )
        times = [self.timed(work, steps) for _ in range(rounds)]
        median = statistics.median(times)
        return {
            "ms": median / steps * 1e3,
            "windows/s": steps * batch / median,
            "spread": (max(times) - min(times)) / median,
            "steps": steps,
            "memory MB": torch.cuda.max_memory_allocated() / 2**20 if self.is_cuda else 0.0,
        }

    @cached_property
    def data(self):
        """Windows of the production size over random unit vectors on the device, similar within a document."""
        spec = scaled(PRESETS["production"], self.scale)
        table = document_table(spec, SplitPlan(val=spec.val, ood_sources=("synthetic-ood",)))
        generator = torch.Generator(self.device).manual_seed(0)
        rows = torch.from_numpy(table.rows).to(self.device)
        vectors = torch.randn(int(rows.sum()), self.dimensions, device=self.device, generator=generator)
        topics = torch.randn(len(rows), self.dimensions, device=self.device, generator=generator)
        vectors += topics.repeat_interleave(rows, dim=0)
        vectors = torch.nn.functional.normalize(vectors).half()
        for split in SPLITS:
            index = index_windows(table, split, CONTEXT)
            if len(index):
                DeviceDataset.sets[split] = WindowSet(split, vectors, table, index.to(self.device))
        space = Space("random", "0", self.dimensions)
        files = {"files": {VECTORS: "", DOCUMENTS: ""}}
        store = Store(Path("random"), files, space, np.empty((0, self.dimensions), np.float16))
        return DeviceDataset(store.with_documents(table))

    def run(self, kind, batch, *overrides, path=OUT / "gpu-run"):
        """Open a run of a production recipe in memory, without data check, baselines and events."""
        fixed = ["data.store=random", "data.ood=", "gates=[]", f"runtime.device={self.device.type}"]
        fixed += [f"training.batch_size={batch}", "training.checkpoint_interval_s=1e9"]
        recipe = load_recipe(RECIPES[kind], [*fixed, *overrides])
        run = setup.build_run(path, recipe, self.data, None, quiet=True)
        run.event = lambda *_, **__: None
        return run


def rows_of(part):
    """Return the rows that a part has written so far, in the order in which they were measured."""
    file = OUT / "gpu.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row.get("part") == part]
