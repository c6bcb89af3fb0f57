"""Measure training on a GPU: one command of at most 8 minutes, needs CUDA and torch ≥ 2.10.

    python bench/gpu.py [--out FOLDER] [--seconds 450] [--parts correct,steady,…]

Each part runs in a separate process with a time limit, the most important part first. Each row is appended to
`gpu.jsonl` in the output folder as soon as it is measured. An error becomes a row, and the other parts still run.

    correct     losses and gradients of every network against float64 on the CPU
    steady      windows/s of the training loop with the vectors on the device, and of the plain trainer
    graph       the same step as a CUDA graph, without launch overhead on the host
    guards      host synchronizations per step, the non-finite guard, and resuming
    production  a run of 30 epochs on the full-size synthetic store, with validation and checkpoints
    compile     the same step through torch.compile

`--device cpu --quick` runs every part on the CPU with tiny sizes, to debug this script.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import traceback
import warnings
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from common import FULL, OUT, machine
from plain_trainer import PlainTrainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nextvec import ops
from nextvec.core.device import autocast
from nextvec.core.events import read_events
from nextvec.data.dataset import Dataset
from nextvec.data.order import EpochOrder
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DOCUMENTS, VECTORS, Store
from nextvec.data.synthetic.generate import PRESETS, document_table, scaled, synthesize
from nextvec.data.windows import WindowSet, index_windows
from nextvec.errors import NotFiniteError
from nextvec.losses import Objective
from nextvec.models.registry import create_model
from nextvec.ops import window
from nextvec.recipe import make_recipe
from nextvec.training import loop, resume, setup
from nextvec.training import run as training_run
from nextvec.training.optimizer import learning_rate_at
from nextvec.training.run import TrainingState
from nextvec.training.update import clip_gradients, gradient_norm

SECONDS = {"correct": 50, "steady": 100, "graph": 75, "guards": 30, "production": 150, "compile": 95}
"""The time limit of each part, in the order in which they run."""
KINDS = ("amn", "lstm", "gru", "transformer")
PRODUCTION_WINDOWS = 30 * 653_412
"""Windows that the production run trains on: 30 epochs."""
DIMENSIONS, CONTEXT = 768, 5
STORE = OUT / "gpu-store"
WITHOUT, WITH = "model.query=false", "model.query=true"


def parse():
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of gpu.jsonl")
    parser.add_argument("--seconds", type=float, default=450, help="time limit of the whole command")
    parser.add_argument("--parts", default=",".join(SECONDS), help="parts to run, in this order")
    parser.add_argument("--kinds", default=",".join(KINDS), help="networks to measure")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to debug this script")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    return parser.parse_known_args()[0]


class Bench:
    """Options, output rows, timers and data of a part."""

    def __init__(self, options):
        self.options, self.device, self.quick = options, torch.device(options.device), options.quick
        self.cuda = self.device.type == "cuda"
        self.kinds = tuple(options.kinds.split(","))
        self.batches = (512, 4096) if not self.quick else (32, 64)

    def row(self, **values):
        """Append a row to gpu.jsonl and print it."""
        values = {"part": self.options.part, **{name: _rounded(value) for name, value in values.items()}}
        self.options.out.mkdir(parents=True, exist_ok=True)
        with (self.options.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(json.dumps(values), flush=True)

    def attempt(self, measure, *arguments, **facts):
        """Run a measurement; an exception becomes a row with the error."""
        begin = time.perf_counter()
        try:
            for values in measure(*arguments):
                self.row(**facts, **values)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()
            self.row(**facts, error=f"{type(error).__name__}: {error}"[:600], trace=" | ".join(lines[-8:])[-900:])
        finally:
            if time.perf_counter() - begin > 20:
                self.row(**facts, note=f"took {time.perf_counter() - begin:.0f} s")
            if self.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

    def wait(self):
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds_of(self, work, steps, rounds=3):
        """Return median and spread of the seconds of `work(steps)`, after one warm-up round."""
        times = []
        for _ in range(rounds + 1):
            self.wait()
            begin = time.perf_counter()
            work(steps)
            self.wait()
            times.append(time.perf_counter() - begin)
        median = statistics.median(times[1:])
        return median, (max(times[1:]) - min(times[1:])) / median

    def rate_of(self, work, batch, round_seconds=0.7, max_steps=400):
        """Return time, rate and memory of `work(steps)`; a round takes about `round_seconds` seconds."""
        work(3)
        self.wait()
        begin = time.perf_counter()
        work(5)
        self.wait()
        step_seconds = (time.perf_counter() - begin) / 5
        steps = 3 if self.quick else int(min(max_steps, max(20, round_seconds / step_seconds)))
        seconds, spread = self.seconds_of(work, steps)
        rate = steps * batch / seconds
        return {
            "ms": seconds / steps * 1e3,
            "windows/s": rate,
            "spread": spread,
            "steps": steps,
            "production run, s": PRODUCTION_WINDOWS / rate,
            "memory MB": self.memory(),
        }

    def memory(self):
        """Return the peak memory of the device in MB."""
        return torch.cuda.max_memory_allocated() / 2**20 if self.cuda else 0

    @cached_property
    def data(self):
        """Windows of the production size over random unit vectors on the device, similar within a document."""
        spec = scaled(PRESETS["production"], 0.005 if self.quick else 1)
        table = document_table(spec, SplitPlan(val=spec.val, ood_sources=("synthetic-ood",)))
        generator = torch.Generator(self.device).manual_seed(0)
        rows = torch.from_numpy(table.rows).to(self.device)
        vectors = torch.randn(int(rows.sum()), DIMENSIONS, device=self.device, generator=generator)
        topics = torch.randn(len(rows), DIMENSIONS, device=self.device, generator=generator)
        vectors += topics.repeat_interleave(rows, dim=0)
        vectors = torch.nn.functional.normalize(vectors).half()
        sets = {}
        for split in SPLITS:
            index = index_windows(table, split, CONTEXT)
            if len(index):
                sets[split] = WindowSet(split, vectors, table, index.to(self.device))
        empty = Store(
            Path("random"),
            {"files": {VECTORS: "", DOCUMENTS: ""}},
            Space("random", "0", DIMENSIONS),
            np.empty((0, DIMENSIONS), np.float16),
        )
        return DeviceDataset(empty.with_documents(table)), sets

    def run(self, batch, *overrides):
        """Open a run in memory on the random vectors, without an event log."""
        data, DeviceDataset.sets = self.data
        recipe = make_recipe(
            {
                "name": "gpu",
                "objective": FULL,
                "runtime": {"device": self.device.type},
                "training": {"epochs": 30, "batch_size": batch, "checkpoint_interval_s": 1e9},
            },
            overrides,
        )
        run = setup.build_run(OUT / "gpu-run", recipe, data, None, quiet=True)
        run.event = lambda *_, **__: None
        return run

    def loop_of(self, run):
        """Return a function that trains a number of steps, with the share of logged steps of a full epoch."""
        epoch_steps = run.steps_per_epoch

        class Limited(type(run)):
            steps_per_epoch = property(lambda self: self.limit)

        run.__class__ = Limited

        def work(steps):
            if run.state.step_in_epoch + steps > epoch_steps:
                run.state = TrainingState(epoch=run.state.epoch + 1)
            run.limit = run.state.step_in_epoch + min(steps, epoch_steps)
            before, training_run.STEP_EVENTS_PER_EPOCH = (
                training_run.STEP_EVENTS_PER_EPOCH,
                max(1, round(20 * run.limit / epoch_steps)),
            )
            try:
                loop.train_epoch(run, threading.Event())
            finally:
                training_run.STEP_EVENTS_PER_EPOCH = before

        return work


class DeviceDataset(Dataset):
    """A data set whose windows exist only on the device."""

    sets: dict = {}  # noqa: RUF012

    def windows(self, context, min_context, device):
        """Return the windows of each split."""
        return dict(self.sets)


def _rounded(value):
    return float(f"{value:.5g}") if isinstance(value, float) else value


# correct: losses and gradients


def correct(bench):
    """Compare every network's loss and gradients with float64 on the CPU."""
    with ops.native_ops(False):
        for kind in bench.kinds:
            for options in ({"query": True}, {"variant": "original"}):
                for masked in (True,) if bench.quick else (True, False):
                    facts = {"model": kind, **options, "masked": masked}
                    bench.attempt(compare, bench, kind, options, masked, **facts)


def compare(bench, kind, options, masked):
    """Yield the relative errors of float32 and bfloat16."""
    reference = gradients(kind, options, masked, torch.device("cpu"), torch.float64)
    for precision in (torch.float32, torch.bfloat16):
        results = gradients(kind, options, masked, bench.device, precision)
        errors = {name: _error(results[name], reference[name]) for name in reference}
        limit = 1e-3 if precision == torch.float32 else 1e-1
        yield {
            "precision": str(precision).removeprefix("torch."),
            **errors,
            "ok": all(error < limit for error in errors.values()),
        }


def gradients(kind, options, masked, device, precision, batch=48, negatives=16):
    """Return losses and gradients of one batch, computed in `precision`, as float64 tensors on the CPU."""
    torch.manual_seed(0)
    recipe = make_recipe({"name": "gpu", "objective": FULL, "model": {"kind": kind, "dropout": 0.0, **options}})
    model = create_model(recipe.model, DIMENSIONS)
    with torch.no_grad():  # zero-initialized layers would block the gradients of the layers below them
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    topic = torch.randn(batch, 1, DIMENSIONS)
    vectors = torch.nn.functional.normalize(topic + torch.randn(batch, CONTEXT + 1 + negatives, DIMENSIONS), dim=2)
    vectors, group = vectors.half(), (torch.arange(batch) // 3).int()
    mask = torch.arange(CONTEXT) >= torch.arange(batch)[:, None] % CONTEXT if masked else None
    any_wrong = torch.arange(batch) % 7 != 0
    if precision == torch.float64:
        model, vectors = model.double(), vectors.double()
    model, vectors, group, any_wrong = model.to(device), vectors.to(device), group.to(device), any_wrong.to(device)
    mask = None if mask is None else mask.to(device)
    context, target, wrong = vectors[:, :CONTEXT], vectors[:, CONTEXT], vectors[:, CONTEXT + 1 :]
    autocast_dtype = torch.float32 if precision == torch.float64 else precision
    objective = Objective(recipe.objective, autocast_dtype)
    with autocast(device, autocast_dtype):
        prediction = model.train()(context, mask)
    metrics = objective.backward(prediction, target, group)
    results = {"gradient": [parameter.grad for parameter in model.prediction_parameters()]}
    if model.has_query:
        rows = slice(batch // 2)
        with autocast(device, autocast_dtype):
            query = model.raw_query(context[rows], None if mask is None else mask[rows])
        metrics |= objective.backward_query(query, target, wrong[rows].contiguous(), any_wrong[rows], group)
        results["query gradient"] = [parameter.grad for parameter in model.query_parameters()]
    results["loss"] = [value for name, value in metrics.items() if name.startswith("loss")]
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    return {
        name: torch.cat([t.detach().cpu().double().flatten() for t in tensors]) for name, tensors in results.items()
    }


def _error(result, reference):
    """Return ‖result − reference‖ / ‖reference‖, infinity if a value is not finite."""
    error = float((result - reference).norm() / reference.norm())
    return error if error == error else float("inf")


# steady: the training loop


def steady(bench):
    """Measure the training loop."""
    bench.attempt(ceilings, bench, what="ceilings")
    small, large = bench.batches
    amn = [(large, WITH), (large, WITHOUT), (small, WITH), (small, WITHOUT)]
    for batch, query in amn:
        bench.attempt(steady_rate, bench, batch, query, what="loop", model="amn", batch=batch, query=query == WITH)
    bench.attempt(profiled, bench, large, WITH, what="profile of the loop", model="amn", batch=large, query=True)
    for variant in ("residual", "original"):
        bench.attempt(plain_rate, bench, variant, what="plain trainer, fp32", model="amn", variant=variant, batch=32)
    original = ("model.variant=original",)
    for batch in (large, small, 32):
        bench.attempt(steady_rate, bench, batch, *original, what="loop", model="amn", variant="original", batch=batch)
    for query in (WITHOUT, WITH):
        bench.attempt(steady_rate, bench, 32, query, what="loop", model="amn", batch=32, query=query == WITH)
    for kind in bench.kinds:
        for batch, query in amn if kind != "amn" else ():
            facts = {"what": "loop", "model": kind, "batch": batch, "query": query == WITH}
            bench.attempt(steady_rate, bench, batch, query, f"model.kind={kind}", **facts)
        if kind != "amn":
            bench.attempt(plain_rate, bench, "residual", kind, what="plain trainer, fp32", model=kind, batch=32)
    bench.attempt(profiled, bench, small, WITHOUT, what="profile of the loop", model="amn", batch=small, query=False)


def ceilings(bench):
    """Yield the device's peak rates: matrix products and copies."""
    size = 512 if bench.quick else 8192
    rates = {}
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
    ):
        torch.set_float32_matmul_precision(precision)
        left, right = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
        steps = 4 if bench.quick or name == "fp32" else 20
        seconds, _ = bench.seconds_of(lambda steps, a=left, b=right: [a @ b for _ in range(steps)], steps, rounds=2)
        rates[f"{name} TFLOP/s"] = steps * 2 * size**3 / seconds / 1e12
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(2**20 if bench.quick else 2**29, device=bench.device)
    target = torch.empty_like(source)
    seconds, _ = bench.seconds_of(lambda steps: [target.copy_(source) for _ in range(steps)], 10, rounds=2)
    rates["copy TB/s"] = 10 * 2 * source.nbytes / seconds / 1e12
    yield rates


def matrix_rate(bench):
    """Return the bf16 rate in FLOP/s from the last `ceilings` row, or None."""
    file = bench.options.out / "gpu.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rates = [row["bf16 TFLOP/s"] for row in rows if "bf16 TFLOP/s" in row]
    return rates[-1] * 1e12 if rates else None


def steady_rate(bench, batch, *overrides):
    """Yield the rate of the training loop, and its share of the matrix rate."""
    run = bench.run(batch, *overrides)
    timing = bench.rate_of(bench.loop_of(run), batch)
    yield {**timing, **share_of_matrix_rate(bench, run, timing["ms"])}


def share_of_matrix_rate(bench, run, milliseconds):
    """Return the FLOPs of a step, counted by torch, and their share of the measured bf16 rate."""
    counter = FlopCounterMode(display=False)
    step = Step(run)
    with counter:
        step()
    recurrent = [module for module in run.model.modules() if isinstance(module, (torch.nn.LSTM, torch.nn.GRU))]
    if bench.cuda:  # torch does not count cuDNN's recurrent kernels: one product forward, two backward
        weights = sum(p.numel() for module in recurrent for n, p in module.named_parameters() if n.startswith("weight"))
        extra = 3 * 2 * weights * CONTEXT * run.recipe.training.batch_size
    else:
        extra = 0
    flops = counter.get_total_flops() + extra
    rate = matrix_rate(bench)
    return {
        "MFLOP/window": flops / run.recipe.training.batch_size / 1e6,
        **({"share of bf16 matrix rate": flops / (milliseconds / 1e3) / rate} if rate else {}),
    }


def plain_rate(bench, variant, kind="amn"):
    """Yield the plain trainer's rate: batch 32, fp32, items from a DataLoader."""
    data = bench.data[1]["train"]
    batch = data.batch(torch.arange(min(16_384, len(data)), device=bench.device))
    contexts, targets = batch.context_BSD.float().cpu().numpy(), batch.target_BD.float().cpu().numpy()
    trainer = PlainTrainer(contexts, targets, kind, device=bench.device, variant=variant)
    yield bench.rate_of(trainer.train, 32, max_steps=300)


def profiled(bench, batch, *overrides):
    """Yield the profile of the training loop: busy time, launches and the longest kernels."""
    run = bench.run(batch, *overrides)
    work, steps = bench.loop_of(run), 3 if bench.quick else 14
    work(steps)
    yield profile_of(bench, work, steps)


def profile_of(bench, work, steps):
    """Return the kernels of `steps` steps."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.cuda else [])
    bench.wait()
    with profile(activities=activities) as profiler:
        work(steps)
        bench.wait()
    averages = profiler.key_averages()
    kernels = [event for event in averages if str(event.device_type).endswith("CUDA")]
    kernels = kernels or [event for event in averages if event.key.startswith("aten::")]
    microseconds = {event.key: event.self_device_time_total or event.self_cpu_time_total for event in kernels}
    longest = sorted(microseconds, key=lambda key: -microseconds[key])[:14]
    waits = {
        event.key: event.count / steps
        for event in averages
        if event.key.startswith("cuda") and ("Synchronize" in event.key or "Memcpy" in event.key)
    }
    return {
        "device ms per step": sum(microseconds.values()) / steps / 1e3,
        "kernels per step": sum(event.count for event in kernels) / steps,
        "calls per step": {key: round(count, 2) for key, count in waits.items()},
        "longest, ms per step": {key[:90]: round(microseconds[key] / steps / 1e3, 4) for key in longest},
    }


# guards: guarantees of the training loop on a device


def guards(bench):
    """Count synchronizations, put a NaN into the data, resume a run."""
    large = bench.batches[1]
    for kind in bench.kinds:
        facts = {"what": "host synchronizations", "model": kind, "batch": large}
        bench.attempt(synchronizations, bench, large, f"model.kind={kind}", **facts)
    bench.attempt(poisoned, bench, what="a NaN in the vectors")
    bench.attempt(resumed, bench, what="resumed run against an uninterrupted one")


def synchronizations(bench, batch, *overrides):
    """Yield how often the host waits for the device in 13 steps."""
    run = bench.run(batch, *overrides)
    if not bench.cuda:
        yield {"skipped": "counted on CUDA only"}
        return
    work, steps = bench.loop_of(run), 13
    work(steps)
    bench.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(item.filename).name}:{item.lineno}" for item in caught if "synchroniz" in str(item.message)]
    counts = {place: places.count(place) for place in dict.fromkeys(places)}
    yield {"steps": steps, "synchronizations": len(places), "where": counts}


def poisoned(bench):
    """Yield whether a NaN in the vectors stops the run while the weights are still finite."""
    run = bench.run(bench.batches[0], WITH)
    run.diagnose = lambda *_: ()  # a diagnosis needs the data check, which the random vectors do not have
    work = bench.loop_of(run)
    work(2)
    vectors = run.train_windows.vectors
    order = EpochOrder(len(run.train_windows), run.recipe.seed, run.state.epoch)[:]
    at = int(order[3 * bench.batches[0]])
    row = int(run.train_windows.windows.targets[at])
    original = vectors[row].clone()
    vectors[row] = float("nan")
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "events.jsonl").write_text("")
    try:
        work(4)
        message = "no error"
    except NotFiniteError as error:
        message = str(error)[:200]
    finally:
        vectors[row] = original
    finite = all(bool(torch.isfinite(value).all()) for value in run.model.state_dict().values())
    yield {"error raised": message, "weights finite": finite, "ok": message != "no error" and finite}


def resumed(bench):
    """Yield the largest weight difference between a resumed and an uninterrupted run."""
    import shutil

    folder = OUT / "gpu-resume"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = scaled(PRESETS["production"], 0.004)
    synthesize(folder / "store", spec, quiet=True)
    recipe = make_recipe(
        {
            "name": "resume",
            "data": {"store": str(folder / "store")},
            "objective": FULL,
            "training": {"epochs": 2, "batch_size": 64},
            "runtime": {"device": bench.device.type},
            "evaluation": {"ridge_windows": 500},
        }
    )

    class StopAfterEpochError(Exception):
        pass

    def stop_after_first(run):
        if run.state.epoch == 1:
            raise StopAfterEpochError

    uninterrupted = setup.start_run(recipe, folder / "uninterrupted", quiet=True, force=True)
    loop.train(uninterrupted)
    resumed = setup.start_run(recipe, folder / "resumed", quiet=True, force=True)
    try:
        loop.train(resumed, stop_after_first)
    except StopAfterEpochError:
        resumed = resume.resume_run(folder / "resumed", quiet=True)
    loop.train(resumed)
    pairs = [
        (left.detach().double().cpu(), right.detach().double().cpu())
        for left, right in zip(uninterrupted.model.parameters(), resumed.model.parameters(), strict=True)
    ]
    difference = max(float((left - right).abs().max()) for left, right in pairs)
    cosine = [run.state.history[-1]["val_cosine"] for run in (uninterrupted, resumed)]
    yield {"largest weight difference": difference, "val cosine": cosine, "ok": difference < 1e-3}


# graph and compile: the same step as a CUDA graph and through torch.compile


class Step:
    """The training loop's step over preallocated tensors, as a CUDA graph needs it."""

    def __init__(self, run, forward=None, query=None, gradient=None, query_gradient=None):
        self.run, self.sums = run, {}
        size = run.recipe.training.batch_size
        self.index = torch.arange(size, device=run.device)
        self.rate = torch.tensor(run.recipe.training.lr, device=run.device)
        self.bad = torch.zeros((), device=run.device)
        for group in run.optimizer.param_groups:
            group["lr"], group["capturable"] = self.rate, run.device.type == "cuda"
        run.optimizer.found_inf = self.bad
        self.forward = run.model if forward is None else forward
        self.query = query or run.model.raw_query
        self.gradient, self.query_gradient = (
            gradient or run.objective.gradient,
            query_gradient or run.objective.query_gradient,
        )
        run.model.train()

    def clip(self, parameters):
        """Clip the gradients of one output and return their norm."""
        norm = gradient_norm(parameters)
        clip_gradients(parameters, self.run.recipe.training.grad_clip_norm, norm)
        return norm

    def __call__(self):
        """Train on the windows of `index`."""
        run, index, objective = self.run, self.index, self.run.objective
        batch = run.train_windows.batch(index)
        with autocast(run.device, run.precision):
            prediction_BD = self.forward(batch.context_BSD, batch.mask_BS)
        gradient_BD, metrics = self.gradient(prediction_BD.detach(), batch.target_BD, batch.group_B)
        prediction_BD.backward(gradient_BD.to(prediction_BD.dtype))
        norms = [self.clip(run.model.prediction_parameters())]
        if run.model.has_query:
            rows = slice(round(run.recipe.objective.query_batch_fraction * len(index)))
            with autocast(run.device, run.precision):
                query_QD = self.query(batch.context_BSD[rows], None)
            wrong_QKD, any_wrong_Q = run.train_windows.sample_document_negatives(index[rows], objective.query_negatives)
            gradient_QD, loss = self.query_gradient(
                query_QD.detach(), batch.target_BD, wrong_QKD, any_wrong_Q, batch.group_B
            )
            query_QD.backward(gradient_QD.to(query_QD.dtype))
            metrics["loss_query"] = loss
            norms.append(self.clip(run.model.query_parameters()))
        metrics["grad_norm"] = norms[0]
        losses = [value for name, value in metrics.items() if name.startswith("loss")]
        is_finite = torch.stack([*losses, *norms]).isfinite().all()
        self.bad.copy_(torch.where(is_finite, self.bad, 1.0))
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        for name, value in metrics.items():
            self.sums.setdefault(name, torch.zeros_like(value))
        torch._foreach_add_([self.sums[name] for name in metrics], list(metrics.values()))


def captured(bench, step):
    """Return a function that repeats the step: a CUDA graph's replay, or the step itself on a CPU."""
    if not bench.cuda:
        step()
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    cuda_graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(cuda_graph):
        step()
    return cuda_graph.replay


def over_epochs(run, step, repeat):
    """Return a function that trains steps with the run's order of windows and learning rates."""
    state = {"step": 0}
    size, total = run.recipe.training.batch_size, run.total_steps
    order = EpochOrder(len(run.train_windows), run.recipe.seed, 0)[:].to(run.device)

    def work(steps):
        for _ in range(steps):
            place = state["step"] % run.steps_per_epoch * size
            step.index.copy_(order[place : place + size])
            step.rate.fill_(learning_rate_at(state["step"] % total, total, run.recipe.training, []))
            repeat()
            state["step"] += 1

    return work


def multiply_by_sums(left, vectors):
    """Return the small products of a window as sums, which a compiler can fuse."""
    return (left.float()[:, :, :, None] * vectors.float()[:, None]).sum(dim=2).to(vectors.dtype)


def graph(bench):
    """Measure the step as a CUDA graph."""
    if matrix_rate(bench) is None:
        bench.attempt(ceilings, bench, what="ceilings")
    small, large = bench.batches
    middle = 2048 if not bench.quick else 48
    cases = [
        ("amn", large, WITH, "step"),
        ("amn", large, WITH, "graph"),
        ("amn", large, WITHOUT, "graph"),
        ("amn", middle, WITH, "graph"),
        ("amn", middle, WITHOUT, "graph"),
        ("amn", small, WITH, "graph"),
        ("amn", small, WITHOUT, "graph"),
        *((kind, large, query, "graph") for kind in KINDS[1:] for query in (WITH, WITHOUT)),
        ("amn", 2 * large, WITH, "graph"),
        ("amn", 32, WITH, "graph"),
        ("amn", 32, WITHOUT, "graph"),
    ]
    for kind, batch, query, variant in cases:
        if kind in bench.kinds:
            facts = {"what": variant, "model": kind, "batch": batch, "query": query == WITH}
            bench.attempt(graph_rate, bench, variant, batch, query, f"model.kind={kind}", **facts)
    for kind, query in (("amn", WITH), ("transformer", WITHOUT), ("lstm", WITHOUT)):
        if kind in bench.kinds:
            facts = {"what": "profile of a graph", "model": kind, "batch": large, "query": query == WITH}
            bench.attempt(graph_profile, bench, large, query, f"model.kind={kind}", **facts)


def graph_rate(bench, variant, *arguments):
    """Yield the rate of a step, or of its graph."""
    run = bench.run(*arguments)
    step = Step(run)
    repeat = captured(bench, step) if variant == "graph" else step
    timing = bench.rate_of(over_epochs(run, step, repeat), run.recipe.training.batch_size)
    yield {**timing, **share_of_matrix_rate(bench, run, timing["ms"]), "finite": not step.bad}


def graph_profile(bench, *arguments):
    """Yield the kernels of a graph's replay."""
    run = bench.run(*arguments)
    step = Step(run)
    work = over_epochs(run, step, captured(bench, step))
    work(3)
    yield profile_of(bench, work, 3 if bench.quick else 10)


def compile_(bench):
    """Measure the step through torch.compile, alone and as a CUDA graph."""
    small, large = bench.batches
    cases = [
        ("amn", large, WITH, True),
        ("amn", large, WITHOUT, True),
        ("transformer", large, WITHOUT, False),
        ("amn", large, WITH, False),
        ("amn", small, WITH, True),
        ("lstm", large, WITHOUT, False),
    ]
    for kind, batch, query, as_sums in cases:
        if kind in bench.kinds:
            facts = {"model": kind, "batch": batch, "query": query == WITH, "small products as sums": as_sums}
            bench.attempt(compile_rate, bench, as_sums, kind, batch, query, **facts)


def compile_rate(bench, as_sums, kind, batch, query):
    """Yield rates with the forward pass and the objective compiled."""
    options = {"dynamic": False} if bench.cuda else {"dynamic": False, "backend": "aot_eager"}
    multiply = window._bmm
    window._bmm = multiply_by_sums if as_sums else multiply
    try:
        with ops.native_ops(bench.cuda):  # torch.compile cannot trace ctypes calls
            torch._dynamo.reset()
            run = bench.run(batch, query, f"model.kind={kind}")
            begin = time.perf_counter()
            step = Step(
                run,
                forward=torch.compile(run.model, **options),
                query=torch.compile(run.model.raw_query, **options),
                gradient=torch.compile(run.objective.gradient, **options),
                query_gradient=torch.compile(run.objective.query_gradient, **options),
            )
            step()
            bench.wait()
            compiling = time.perf_counter() - begin
            timing = bench.rate_of(over_epochs(run, step, step), batch)
            yield {"what": "compiled step", **timing, "compiling, s": compiling}
            repeat = captured(bench, step)
            work = over_epochs(run, step, repeat)
            timing = bench.rate_of(work, batch)
            yield {"what": "compiled step as a graph", **timing, "finite": not step.bad}
            yield {"what": "profile of the compiled graph", **profile_of(bench, work, 3 if bench.quick else 10)}
    finally:
        window._bmm = multiply


# production: a whole run


def make_store(bench):
    """Build the full-size synthetic store, in parallel with the other parts."""
    if not STORE.exists():
        synthesize(STORE, scaled(PRESETS["production"], 0.005 if bench.quick else 1), quiet=True)


def production(bench):
    """Train the production recipe's objective on the full-size synthetic store."""
    limit = time.monotonic() + (60 if bench.quick else 120)
    while not STORE.exists() and time.monotonic() < limit:
        time.sleep(0.5)
    bench.attempt(production_run, bench)


def production_run(bench):
    """Yield the start-up time of a run, and the results of six trainings."""
    import shutil

    folder = OUT / "gpu-production"
    shutil.rmtree(folder, ignore_errors=True)
    if not STORE.exists():
        yield {"what": "store", "error": "the synthetic store was not built in time"}
        return

    def recipe(epochs, batch, rate, *overrides):
        base = {
            "name": "production",
            "data": {"store": str(STORE)},
            "objective": FULL,
            "training": {"epochs": epochs, "batch_size": batch, "lr": rate},
            "runtime": {"device": bench.device.type},
        }
        return make_recipe(base, overrides)

    epochs = 2 if bench.quick else 30
    small, large = bench.batches
    middle = 2048 if not bench.quick else 48
    begin = time.perf_counter()
    opened = setup.start_run(recipe(epochs, large, 4e-3), folder / "first", quiet=True, force=True)
    started = time.perf_counter() - begin
    opened.close()
    times = {event["kind"]: event["time"] for event in read_events(folder / "first")}
    yield {
        "what": "start of a run",
        "seconds": started,
        "of which baselines": times["baselines"] - times["checked"],
        "train windows": len(opened.train_windows),
        "memory MB": bench.memory(),
        "baselines": {split: opened.best_baseline(split) for split in opened.baseline_cosines},
    }
    cases = [
        ("graph", epochs, large, 2e-3),
        ("graph", epochs, middle, 2e-3),
        ("loop", max(2, epochs // 6), large, 2e-3),
        ("graph", epochs, large, 2e-3, WITHOUT),
        ("graph", max(2, epochs // 3), small, 1e-3),
        ("graph", epochs, middle, 1e-3),
    ]
    for number, (method, *case) in enumerate(cases):
        path = folder / f"run-{number}"
        path.mkdir()
        run = setup.build_run(path, recipe(*case), opened.data, opened.check, quiet=True)
        run.baselines, run.baseline_cosines = opened.baselines, opened.baseline_cosines
        marks = [time.perf_counter()]

        def mark(_, marks=marks):
            marks.append(time.perf_counter())

        (loop.train if method == "loop" else partial(train_captured, bench))(run, mark)
        last, walls = run.state.history[-1], np.diff(marks)
        yield {
            "what": f"run by {method}",
            "epochs": case[0],
            "batch": case[1],
            "lr": case[2],
            "overrides": case[3:],
            "seconds": marks[-1] - marks[0],
            "seconds per epoch": float(np.median(walls)),
            "of which training": statistics.median(record["seconds"] for record in run.state.history),
            "first epoch, s": float(walls[0]),
            "windows/s": last["windows_per_second"],
            "val cosine": last["val_cosine"],
            "val gain": last["val_gain"],
            "train cosine": last["train_cosine"],
            "ood cosine": last.get("ood_cosine"),
            "memory MB": bench.memory(),
            "best val cosine": max(record["val_cosine"] for record in run.state.history),
        }
        run.close()


def train_captured(bench, run, after_epoch):
    """Train with the step as a CUDA graph; the training loop does validation, logs and checkpoints."""
    step, size = Step(run), run.recipe.training.batch_size
    step.rate.zero_()  # the warm-up steps must not change the weights
    repeat = captured(bench, step)
    with torch.no_grad():
        for state in run.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def train_epoch(run, stop):
        """Train one epoch with the captured step instead of `loop.train_epoch`."""
        for group in run.optimizer.param_groups:
            group["lr"] = step.rate
        begin = time.perf_counter()
        batches = EpochOrder(len(run.train_windows), run.recipe.seed, run.state.epoch).batches(size, 0, run.device)
        torch._foreach_zero_(list(step.sums.values()))
        for index_B in itertools.islice(batches, run.steps_per_epoch):
            step.index.copy_(index_B)
            rate = learning_rate_at(run.state.step, run.total_steps, run.recipe.training, [])
            step.rate.fill_(rate)
            repeat()
            run.state.step += 1
        bench.wait()
        assert not step.bad
        run.state.epoch_seconds, run.state.step_in_epoch = time.perf_counter() - begin, run.steps_per_epoch
        run.state.metric_sums = {name: value.clone() for name, value in step.sums.items()}
        for group in run.optimizer.param_groups:
            group["lr"] = rate

    original, loop.train_epoch = loop.train_epoch, train_epoch
    try:
        loop.train(run, after_epoch)
    finally:
        loop.train_epoch = original


PARTS = {
    "correct": correct,
    "steady": steady,
    "guards": guards,
    "graph": graph,
    "production": production,
    "compile": compile_,
    "store": make_store,
}


def main():
    """Run the parts one after the other, each in a separate process."""
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py: no CUDA device is available; nothing was measured. Run it on a machine with a GPU.")
        return
    if options.part:
        PARTS[options.part](Bench(options))
        return
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        __file__,
        "--out",
        str(options.out),
        "--device",
        options.device,
        "--kinds",
        options.kinds,
    ]
    command += ["--quick"] if options.quick else []
    options.part = "machine"
    facts = copy.copy(machine())
    Bench(options).row(**facts, date=time.strftime("%Y-%m-%d"), capability=_capability())
    parts = [part for part in options.parts.split(",") if part]
    store_builder = None
    if "production" in parts:  # in parallel with the other parts, which use few cores
        slow = {**environment, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
        store_builder = subprocess.Popen([*command, "--part", "store"], env=slow)
    try:
        for part in parts:
            limit = min(SECONDS[part] * (5 if options.quick else 1), options.seconds - (time.monotonic() - begin))
            options.part = part
            if limit < 5:
                Bench(options).row(error="skipped: the time limit of the whole command was reached")
                continue
            started = time.monotonic()
            try:
                process = subprocess.run([*command, "--part", part], env=environment, timeout=limit)
                status = {"exit code": process.returncode}
            except subprocess.TimeoutExpired:
                status = {"error": f"stopped after {limit:.0f} s"}
            Bench(options).row(what="end of the part", **status, seconds=time.monotonic() - started)
    finally:
        if store_builder is not None:
            store_builder.kill()
            store_builder.wait()


def _capability():
    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""


if __name__ == "__main__":
    main()
