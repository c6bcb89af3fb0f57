"""What makes a step slow, counted instead of timed: device waits, gathers, backward passes, updates."""

import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nextvec import ops
from nextvec.core.process import keep_memory
from nextvec.data import windows
from nextvec.data.windows import WindowSet
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop
from nextvec.training.run import Run
from nextvec.training.setup import start_run
from nextvec.training.step import FiniteGuard
from nextvec.training.update import clip_gradients, gradient_norm


@pytest.fixture
def run(toy_recipe: Recipe, tmp_path: Path) -> Run:
    objective = ["objective.moment=0.001", "objective.variance=0.001"]
    recipe = make_recipe(toy_recipe.model_dump(exclude_none=True), objective)
    return start_run(recipe, tmp_path / "run", quiet=True)


def count_operations(run: Run) -> Counter[str]:
    """Return how often each torch operation ran in the steps of an epoch."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        loop.train_epoch(run, Event())
    return Counter({event.key: event.count for event in profiled.key_averages()})


def counting(method: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    """Return the method, with its calls counted under a name."""

    def call(*arguments: object) -> Any:
        calls[name] += 1
        return method(*arguments)

    return call


def test_a_step_gathers_vectors_once_for_windows_and_once_for_negatives(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    monkeypatch.setattr(windows, "gather", counting(windows.gather, "windows", calls))
    monkeypatch.setattr(WindowSet, "sample_later_chunks", counting(WindowSet.sample_later_chunks, "negatives", calls))
    counts = count_operations(run)
    assert calls == {"windows": run.steps_per_epoch, "negatives": run.steps_per_epoch}
    assert counts["aten::index_select"] == 2 * run.steps_per_epoch


OPERATIONS_PER_STEP = {"model.query=false": 1030, "model.query=true": 1500}
COPIES_PER_STEP = {"model.query=false": 50, "model.query=true": 70}
"""Upper limits of torch's operations in a step of AMN with all four terms, those within others included. They are the
counts of today plus a few, so that a new operation per term or per parameter fails the test."""


@pytest.mark.parametrize("output", OPERATIONS_PER_STEP)
def test_a_step_starts_few_operations_and_copies(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """At batch 32 a step spends half its time on starting operations."""
    monkeypatch.setattr("nextvec.training.run.STEP_EVENTS_PER_EPOCH", 1)
    terms = ["objective.moment=0.001", "objective.variance=0.001"]
    recipe = make_recipe(toy_recipe.model_dump(exclude_none=True), [*terms, output, "training.ema_decay=0.99"])
    run = start_run(recipe, tmp_path / "run", quiet=True)
    if ops.backend(run.device) != "native":
        pytest.skip(f"no native ops: {ops.backend(run.device)}")
    counts = count_operations(run)
    operations = sum(count for name, count in counts.items() if name.startswith("aten::"))
    assert operations / run.steps_per_epoch <= OPERATIONS_PER_STEP[output]
    assert counts["aten::copy_"] / run.steps_per_epoch <= COPIES_PER_STEP[output]
    assert not [name for name in counts if "adamw" in name.lower() or name.startswith("Optimizer.")]


def test_native_ops_replace_torchs_products_of_small_matrices(run: Run) -> None:
    if ops.backend(run.device) != "native":
        pytest.skip(f"no native ops: {ops.backend(run.device)}")
    counts = count_operations(run)
    # Queries times keys, head by head, and their two gradients, for each output; native ops compute the rest.
    assert counts["aten::bmm"] == 6 * run.steps_per_epoch
    assert counts["aten::log_softmax"] == run.steps_per_epoch, (
        "InfoNCE of the query; native ops compute that of the prediction"
    )


def test_the_host_reads_no_values_between_logged_steps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard that waits for its device, as on a GPU, values are read only when the step is logged."""
    monkeypatch.setattr("nextvec.training.run.STEP_EVENTS_PER_EPOCH", 1)
    waits = Counter[bool]()

    def broken_step(guard: FiniteGuard, *, wait: bool) -> None:
        waits[wait] += 1

    monkeypatch.setattr(FiniteGuard, "broken_step", broken_step)
    reads: Counter[str] = Counter()
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name), name, reads))
    loop.train_epoch(run, Event())
    assert waits[False] == run.steps_per_epoch - 1
    # Only on the CPU: clipping reads the norms of both outputs' gradients, and the guard whether they are finite.
    assert reads.pop("__bool__") == run.steps_per_epoch
    assert reads.pop("__float__") == 2 * run.steps_per_epoch
    assert reads == {"tolist": 1}, "the metrics of one step event"


def test_a_step_runs_one_backward_pass_per_output(run: Run) -> None:
    with ops.native_ops(False):
        counts = count_operations(run)
    assert counts["aten::_fused_adamw_"] == len(run.optimizer.param_groups) * run.steps_per_epoch
    assert not [name for name in counts if name.startswith(("MseLossBackward", "LogSoftmaxBackward", "VarBackward"))]


def test_the_guard_skips_all_updates_after_a_non_finite_gradient() -> None:
    """Without any read by the host, weights stay as they were before the first non-finite step."""
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weights], lr=0.1, fused=True)
    guard = FiniteGuard(optimizer, torch.device("cpu"))
    after_steps = []
    for step, gradient in enumerate((1.0, float("nan"), 1.0, float("inf"))):
        weights.grad = torch.full((3,), gradient)
        guard.check([weights.grad.norm()], step)
        optimizer.step()
        after_steps.append(weights.detach().clone())
    assert not torch.equal(after_steps[0], torch.ones(3))
    assert all(torch.equal(values, after_steps[0]) for values in after_steps)
    assert guard.broken_step(wait=True) == 1


def test_only_gradients_above_the_limit_are_clipped() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    for gradient, norm, expected in (((0.3, 0.4), 0.5, (0.3, 0.4)), ((3.0, 4.0), 5.0, (0.6, 0.8))):
        weights.grad = torch.tensor(gradient)
        assert float(gradient_norm([weights])) == pytest.approx(norm)
        clip_gradients([weights], 1.0, gradient_norm([weights]))
        torch.testing.assert_close(weights.grad, torch.tensor(expected))


def test_keep_memory_reports_whether_it_succeeded() -> None:
    """glibc accepts the settings; other systems have none, and that is not an error."""
    assert keep_memory() is (sys.platform == "linux" and platform.libc_ver()[0] == "glibc")
