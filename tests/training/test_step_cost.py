"""What makes a step slow, counted instead of timed: waits for the device, gathers, walks of the graph, updates."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nextvec import ops
from nextvec.core.device import keep_memory
from nextvec.data import windows
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop
from nextvec.training.run import Run
from nextvec.training.setup import start_run
from nextvec.training.step import FiniteGuard


@pytest.fixture
def run(toy_recipe: Recipe, tmp_path: Path) -> Run:
    objective = ["objective.moment=0.001", "objective.variance=0.001"]
    recipe = make_recipe(toy_recipe.model_dump(exclude_none=True), objective)
    return start_run(recipe, tmp_path / "run", quiet=True)


def counted(run: Run) -> Counter[str]:
    """How often each operation of torch ran in an epoch of training, without its end."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        loop._train_epoch(run, Event())
    return Counter({event.key: event.count for event in profiled.key_averages()})


def counting(method: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    """The method, counted under its name."""

    def call(*given: object) -> Any:
        calls[name] += 1
        return method(*given)

    return call


def test_a_step_gathers_once_for_the_windows_and_once_for_the_wrong_answers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    gather, own = windows.gather, windows.WindowSet.sample_document_negatives
    monkeypatch.setattr(windows, "gather", lambda *given: (calls.update(["gather"]), gather(*given))[1])
    monkeypatch.setattr(
        windows.WindowSet, "sample_document_negatives", lambda *given: (calls.update(["own"]), own(*given))[1]
    )
    counts = counted(run)
    assert calls == {"gather": run.steps_per_epoch, "own": run.steps_per_epoch}
    assert counts["aten::index_select"] == 2 * run.steps_per_epoch


def test_native_ops_replace_torchs_products_of_small_matrices(run: Run) -> None:
    if ops.backend(run.device) != "native":
        pytest.skip(f"no native ops: {ops.backend(run.device)}")
    counts = counted(run)
    # Queries times keys, head by head, and their two gradients, for each output; native ops compute the rest.
    assert counts["aten::bmm"] == 6 * run.steps_per_epoch
    assert counts["aten::log_softmax"] == run.steps_per_epoch, (
        "InfoNCE of the query; native ops compute that of the prediction"
    )


def test_a_step_asks_for_a_value_only_where_nothing_waits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device: between two logged steps nothing is read back."""
    monkeypatch.setattr(loop, "STEP_EVENTS_PER_EPOCH", 1)
    asked = Counter[bool]()

    def broken_at(guard: FiniteGuard, *, logged: bool) -> None:
        asked[logged] += 1

    monkeypatch.setattr(FiniteGuard, "broken_at", broken_at)
    read: Counter[str] = Counter()
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name), name, read))
    loop._train_epoch(run, Event())
    assert asked[False] == run.steps_per_epoch - 1
    # The clippings of the two outputs look at their norm, which only a processor does.
    assert read.pop("__bool__") == 2 * run.steps_per_epoch
    assert read == {"tolist": 1}, "the figures of one event"


def test_a_step_walks_the_graph_once_for_each_output(run: Run) -> None:
    counts = counted(run)
    assert counts["aten::_fused_adamw_"] == len(run.optimizer.param_groups) * run.steps_per_epoch
    assert not [name for name in counts if name.startswith(("MseLossBackward", "LogSoftmaxBackward", "VarBackward"))]


def test_an_update_with_nan_is_never_made_even_if_nobody_looks() -> None:
    """What a device does between two looks: weights stay as they were before the first broken step."""
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weights], lr=0.1, fused=True)
    guard = FiniteGuard(optimizer, torch.device("cpu"))
    seen = []
    for step, gradient in enumerate((1.0, float("nan"), 1.0, float("inf"))):
        weights.grad = torch.full((3,), gradient)
        guard.look([weights.grad.norm()], step)
        optimizer.step()
        seen.append(weights.detach().clone())
    assert not torch.equal(seen[0], torch.ones(3))
    assert all(torch.equal(now, seen[0]) for now in seen)
    assert guard.broken_at(logged=True) == 1


def test_short_gradients_are_not_multiplied_and_long_ones_are_clipped() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    for gradient, expected in (((0.3, 0.4), (0.3, 0.4)), ((3.0, 4.0), (0.6, 0.8))):
        weights.grad = torch.tensor(gradient)
        norm = loop._clip([weights], 1.0)
        assert float(norm) == pytest.approx(10 * 0.05 if gradient[0] < 1 else 5.0)
        torch.testing.assert_close(weights.grad, torch.tensor(expected))


def test_memory_is_kept_or_nothing_is_said() -> None:
    assert keep_memory() in (True, False)
