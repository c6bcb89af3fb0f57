"""The parts of `gpu.py`, each a function of a `Bench`. A row is written as soon as it is measured."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from common import FULL, OUT
from gpu_bench import CONTEXT, RECIPES, rows_of
from gpu_steps import CompilerFriendlyOps, RepeatedStep, captured, compile_parts, loop_of, over_epochs
from plain_trainer import PlainTrainer
from torch.utils.flop_counter import FlopCounterMode

from nextvec import ops
from nextvec.core.device import autocast
from nextvec.data.order import EpochOrder
from nextvec.losses import Objective
from nextvec.models.registry import create_model
from nextvec.recipe import make_recipe
from nextvec.training import loop
from nextvec.training.optimizer import learning_rate_at
from nextvec.training.selection import measure_start

EPOCHS = 30
WITHOUT = "model.query=false"


# production: the run of 30 epochs


def production(bench):
    """Train the production recipe with validation, selection and checkpoints; then at a larger batch size."""
    epochs = EPOCHS if bench.is_cuda else 2
    rate = f"training.lr={5e-4 * (bench.large / 32) ** 0.5:.3g}"
    for method in ("graph", "loop"):
        facts = {"what": "production run", "method": method, "batch size": bench.large}
        if bench.attempt(production_run, method, bench.large, epochs, (rate,), **facts):
            break  # the loop is the fallback of the graph
    # The recipe as it is: one epoch by the loop, and if the time suffices all by the graph.
    facts = {"what": "production run", "batch size": bench.recipe_batch}
    bench.attempt(production_run, "loop", bench.recipe_batch, 1, (), method="loop", **facts)
    bench.attempt(production_run, "graph", bench.recipe_batch, epochs, (), method="graph", **facts)


def production_run(bench, method, batch, epochs, overrides):
    """Yield the seconds of a run, after a warm-up that is reported as well, and its scores."""
    folder = OUT / "gpu-production"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = bench.run("amn", batch, f"training.epochs={epochs}", *overrides, path=folder)
    # Without data check and baselines, which are not part of what is measured here.
    run.baseline_cosines, run.baseline_mrr = {split: {"none": 0.0} for split in run.sets}, {"none": 0.0}
    measure_start(run)
    begin = time.perf_counter()
    train_epoch = graph_epoch(run) if method == "graph" else None
    bench.wait()
    marks = [time.perf_counter()]
    original = loop.train_epoch
    loop.train_epoch = train_epoch or original
    try:
        loop.train(run, lambda _: marks.append(time.perf_counter()))
    finally:
        loop.train_epoch = original
        run.close()
    walls = [end - start for start, end in itertools.pairwise(marks)]
    last = run.state.history[-1]
    yield {
        "epochs": epochs,
        "warm-up, s": marks[0] - begin,
        "seconds": marks[-1] - marks[0],
        "30 epochs, s": EPOCHS * statistics.median(walls),
        "seconds per epoch": statistics.median(walls),
        "of which training": statistics.median(metrics["seconds"] for metrics in run.state.history),
        "first epoch, s": walls[0],
        "val cosine": last["val_cosine"],
        "train cosine": last["train_cosine"],
        "memory MB": torch.cuda.max_memory_allocated() / 2**20 if bench.is_cuda else 0.0,
    }


def graph_epoch(run):
    """Return a function that trains an epoch by a CUDA graph, to replace `loop.train_epoch`."""
    step = RepeatedStep(run)
    repeat = captured(step)
    size = run.recipe.training.batch_size

    def train_epoch(run, _):
        begin = time.perf_counter()
        order = EpochOrder(len(run.train_windows), run.recipe.seed, run.state.epoch)
        torch._foreach_zero_(list(step.sums.values()))
        for group in run.optimizer.param_groups if run.device.type == "cuda" else ():
            group["lr"] = step.rate
        for index_B in itertools.islice(order.batches(size, 0, run.device), run.steps_per_epoch):
            step.index.copy_(index_B)
            rate = learning_rate_at(run.state.step, run.total_steps, run.recipe.training, run.scores)
            step.rate.fill_(rate)
            repeat()
            run.state.step += 1
        if not step.is_finite:
            raise FloatingPointError("a loss or gradient of the graph is not finite")
        run.state.step_in_epoch, run.state.epoch_seconds = run.steps_per_epoch, time.perf_counter() - begin
        run.state.metric_sums = {name: value.clone() for name, value in step.sums.items()}
        for group in run.optimizer.param_groups:
            group["lr"] = rate  # a number again: it is logged and saved

    return train_epoch


# steady: windows per second, the share of the matrix rate, and waits of the host


def steady(bench, kind):
    """Measure a network's step by the loop, then as a graph and compiled, from the safest to the riskiest way."""
    bench.attempt(matrix_rate, what="matrix products")
    facts = {"network": kind, "batch size": bench.large}
    for query in ((), (WITHOUT,)):
        for method in ("loop", "graph"):
            bench.attempt(rate, kind, method, bench.large, query, what=method, query=not query, **facts)
    bench.attempt(synchronizations, kind, what="host synchronizations", **facts)
    for query in ((WITHOUT,), ()) if bench.is_cuda or kind == "amn" else ():
        bench.attempt(rate, kind, "compiled graph", bench.large, query, what="compiled graph", query=not query, **facts)
    facts = {"network": kind, "batch size": bench.recipe_batch}
    for method in ("loop", "graph"):
        bench.attempt(rate, kind, method, bench.recipe_batch, (), what=method, query=True, **facts)
    facts = {"what": "plain trainer, fp32", "network": kind, "batch size": 32}
    bench.attempt(plain_rate, kind, **facts)


def matrix_rate(bench):
    """Yield the device's rate of large bf16 products."""
    size, steps = (8192, 20) if bench.is_cuda else (64, 1)
    left, right = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))

    def multiply():
        for _ in range(steps):
            torch.mm(left, right)

    multiply()
    seconds = statistics.median(bench.timed(multiply) for _ in range(3))
    yield {"bf16 TFLOP/s": steps * 2 * size**3 / seconds / 1e12}


def rate(bench, kind, method, batch, overrides):
    """Yield the rate of a way to repeat the step, and its share of the matrix rate."""
    run = bench.run(kind, batch, *overrides)
    if method == "loop":
        timing = bench.rate_of(loop_of(run), batch)
        yield {**timing, **share_of_matrix_rate(bench, run, timing["ms"])}
    elif method == "graph":
        step = RepeatedStep(run)
        timing = bench.rate_of(over_epochs(step, captured(step)), batch)
        yield {**timing, "finite": step.is_finite, **share_of_matrix_rate(bench, run, timing["ms"])}
    else:
        with CompilerFriendlyOps():
            yield from compiled_rate(bench, run, batch)


def compiled_rate(bench, run, batch):
    """Yield the rate of the compiled step, and of its graph."""
    flops = flops_per_step(bench, run)
    compile_parts(run)
    step = RepeatedStep(run)
    compiling = bench.timed(step)
    timing = bench.rate_of(over_epochs(step, step), batch)
    yield {"graph": False, "compiling, s": compiling, **timing, "finite": step.is_finite}
    step = RepeatedStep(run)
    timing = bench.rate_of(over_epochs(step, captured(step)), batch)
    share = flops / (timing["ms"] / 1e3) / matrix_flops(bench)
    yield {"graph": True, **timing, "finite": step.is_finite, "share of bf16 matrix rate": share}


def matrix_flops(bench):
    """Return the last measured rate of bf16 products in FLOP/s. Raises IndexError if there is none."""
    rates = [row["bf16 TFLOP/s"] for row in rows_of(bench.part) if "bf16 TFLOP/s" in row]
    return rates[-1] * 1e12


def flops_per_step(bench, run):
    """Return the FLOPs of a step, as counted by torch, plus those of cuDNN's recurrent kernels, which it leaves out."""
    counter = FlopCounterMode(display=False)
    step = RepeatedStep(run)
    with counter:
        step()
    recurrent = [module for module in run.model.modules() if isinstance(module, (torch.nn.LSTM, torch.nn.GRU))]
    named = itertools.chain.from_iterable(module.named_parameters() for module in recurrent if bench.is_cuda)
    weights = sum(parameter.numel() for name, parameter in named if name.startswith("weight"))
    # One product forward and two backward for each weight, vector and window.
    return counter.get_total_flops() + 3 * 2 * weights * CONTEXT * run.recipe.training.batch_size


def share_of_matrix_rate(bench, run, milliseconds):
    """Return the FLOPs of a window and the share of the measured bf16 rate."""
    flops = flops_per_step(bench, run)
    share = flops / (milliseconds / 1e3) / matrix_flops(bench)
    return {"MFLOP/window": flops / run.recipe.training.batch_size / 1e6, "share of bf16 matrix rate": share}


def synchronizations(bench, kind):
    """Yield how often the host waits for the device, per step, and where; with 20 logged steps per epoch."""
    work, steps = loop_of(bench.run(kind, bench.large)), 80 if bench.is_cuda else 1
    work(steps)
    bench.wait()
    set_mode = torch.cuda.set_sync_debug_mode if bench.is_cuda else lambda _: None  # the CPU never waits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_mode("warn")
        try:
            work(steps)
        finally:
            set_mode("default")
    places = [f"{Path(item.filename).name}:{item.lineno}" for item in caught if "synchroniz" in str(item.message)]
    counts = {place: places.count(place) for place in dict.fromkeys(places)}
    yield {"steps": steps, "synchronizations per step": len(places) / steps, "where": counts}


def plain_rate(bench, kind):
    """Yield the plain trainer's rate with the published network: batch size 32, fp32, items from a DataLoader."""
    data = bench.run(kind, 32).train_windows
    batch = data.batch(torch.arange(min(8_192, len(data)), device=bench.device))
    contexts, targets = batch.context_BSD.float().cpu().numpy(), batch.target_BD.float().cpu().numpy()
    trainer = PlainTrainer(contexts, targets, kind, device=bench.device, variant="original")
    yield bench.rate_of(trainer.train, 32)


# correct: losses and gradients


def correct(bench):
    """Compare the losses and gradients of every network with float64 on the CPU."""
    with ops.native_ops(False):
        for kind in RECIPES:
            for options in ({"query": True}, {"variant": "original"}):
                bench.attempt(errors, kind, options, network=kind, **options)


def errors(bench, kind, options):
    """Yield the relative errors of float32 and bfloat16."""
    reference = gradients(bench, kind, options, torch.device("cpu"), torch.float64)
    for precision, limit in ((torch.float32, 1e-3), (torch.bfloat16, 1e-1)):
        results = gradients(bench, kind, options, bench.device, precision)
        relative = {name: float((results[name] - value).norm() / value.norm()) for name, value in reference.items()}
        name = str(precision).removeprefix("torch.")
        yield {"precision": name, **relative, "ok": all(error < limit for error in relative.values())}


def gradients(bench, kind, options, device, precision, batch=48, negatives=16):
    """Return losses and gradients of one batch, computed in `precision`, as float64 tensors on the CPU."""
    torch.manual_seed(0)
    recipe = make_recipe({"name": "gpu", "objective": FULL, "model": {"kind": kind, "dropout": 0.0, **options}})
    model = create_model(recipe.model, bench.dimensions)
    with torch.no_grad():  # layers of zeros would block the gradients of those below them
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    topic = torch.randn(batch, 1, bench.dimensions)
    vectors = topic + torch.randn(batch, CONTEXT + 1 + negatives, bench.dimensions)
    vectors, group = torch.nn.functional.normalize(vectors, dim=2).half(), (torch.arange(batch) // 3).int()
    mask = torch.arange(CONTEXT) >= torch.arange(batch)[:, None] % CONTEXT
    has_negatives = torch.arange(batch) % 7 != 0
    if precision == torch.float64:
        model, vectors = model.double(), vectors.double()
    model, vectors = model.to(device).train(), vectors.to(device)
    group, mask, has_negatives = group.to(device), mask.to(device), has_negatives.to(device)
    context, target, negative = vectors[:, :CONTEXT], vectors[:, CONTEXT], vectors[:, CONTEXT + 1 :]
    cast = partial(autocast, device, torch.float32 if precision == torch.float64 else precision)
    objective = Objective(recipe.objective, torch.float32 if precision == torch.float64 else precision)
    with cast():
        prediction = model(context, mask)
    metrics = objective.backward(prediction, target, group)
    results = {"gradient": [parameter.grad for parameter in model.prediction_parameters()]}
    if model.has_query:
        rows = slice(batch // 2)
        with cast():
            query = model.raw_query(context[rows], mask[rows])
        metrics |= objective.backward_query(query, target, negative[rows].contiguous(), has_negatives[rows], group)
        results["query gradient"] = [parameter.grad for parameter in model.query_parameters()]
    results["loss"] = [value for name, value in metrics.items() if name.startswith("loss")]
    return {
        name: torch.cat([value.detach().cpu().double().flatten() for value in values])
        for name, values in results.items()
    }
