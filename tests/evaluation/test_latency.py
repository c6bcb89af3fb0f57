"""Latency: percentiles are exact, warm-up calls do not count, and the clock waits for the device."""

import time
from dataclasses import asdict

import pytest
import torch

from nextvec.evaluation import latency
from nextvec.evaluation.latency import WARMUP_CALLS, measure_latency
from nextvec.models.amn import AttentionMixture
from nextvec.models.base import LatentModel, count_parameters

CPU = torch.device("cpu")


class Clock:
    """A clock that only the test moves."""

    def __init__(self):
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    monkeypatch.setattr(latency, "MAX_SECONDS", 1e9)
    return clock


def test_a_slow_model_gets_fewer_calls(clock, monkeypatch):
    monkeypatch.setattr(latency, "MAX_SECONDS", 1.0)
    calls = []
    measure_latency(Slow(clock.pass_ms, lambda call: calls.append(call) or 300), 7, CPU, repeats=50)
    assert len(calls) == 2 * latency.MIN_CALLS, "five calls of warm-up and five timed ones"


class Slow(LatentModel):
    """Takes a given time in each call, and records its inputs."""

    name = "slow"

    def __init__(self, spend, milliseconds):
        super().__init__(4)
        self.weight = torch.nn.Parameter(torch.zeros(3, 4))
        self.frozen = torch.nn.Parameter(torch.zeros(9), requires_grad=False)
        self.spend, self.milliseconds, self.inputs = spend, milliseconds, []

    def predict(self, context_BSD, mask_BS=None):
        self.spend(self.milliseconds(len(self.inputs)))
        self.inputs.append(context_BSD)
        return context_BSD[:, -1]


@pytest.mark.parametrize(
    ("slow_calls", "p50", "p95"), [(0, 2.0, 2.0), (10, 2.0, 2.0), (11, 2.0, 30.0), (100, 2.0, 30.0), (101, 30.0, 30.0)]
)
def test_percentiles_of_known_times(clock, slow_calls, p50, p95):
    model = Slow(clock.pass_ms, lambda call: 30 if WARMUP_CALLS <= call < WARMUP_CALLS + slow_calls else 2)
    (row,) = measure_latency(model, 5, CPU, repeats=200).batches
    assert (row.batch, row.p50, row.p95) == (1, p50, p95)
    assert len(model.inputs) == WARMUP_CALLS + 200


def test_warmup_calls_do_not_count(clock):
    model = Slow(clock.pass_ms, lambda call: 500 if call < WARMUP_CALLS else 1)
    assert measure_latency(model, 5, CPU, repeats=10).batches[0].p95 == 1.0


def test_a_call_that_sleeps_takes_at_least_that_long():
    model = Slow(lambda ms: time.sleep(ms / 1000), lambda call: 0 if call < WARMUP_CALLS else 2 + 8 * (call % 2))
    (row,) = measure_latency(model, 5, CPU, repeats=20).batches
    assert row.p50 >= 2 and row.p95 >= 10 and row.p50 < row.p95


def test_inputs_have_the_given_shape_and_unit_length_and_are_reproducible(clock):
    models = [Slow(clock.pass_ms, lambda call: call) for _ in range(2)]
    results = [measure_latency(model, 3, CPU, batches=(1, 8), repeats=5) for model in models]
    assert [row.batch for row in results[0].batches] == [1, 8] and results[0] == results[1]
    first, second = models
    assert first.inputs[0].shape == (1, 3, 4) and first.inputs[-1].shape == (8, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.inputs, second.inputs, strict=True))
    assert torch.allclose(first.inputs[-1].norm(dim=2), torch.ones(8, 3)) and first.inputs[-1].unique().numel() > 90


def test_the_result_contains_what_was_measured(clock):
    result = measure_latency(Slow(clock.pass_ms, lambda call: 1), 7, CPU, repeats=5)
    assert asdict(result) == {
        "device": "cpu",
        "context": 7,
        "parameters": 12,
        "repeats": 5,
        "batches": ({"batch": 1, "p50": 1.0, "p95": 1.0},),
    }


def test_the_device_is_synchronized_around_each_call(clock, monkeypatch):
    waits = []
    monkeypatch.setattr(latency, "synchronize", lambda device: (waits.append(clock.now), clock.pass_ms(40)))
    (row,) = measure_latency(Slow(clock.pass_ms, lambda call: 1), 5, CPU, repeats=3).batches
    assert len(waits) == 6 and row.p50 == 41.0, "work queued before a call does not belong to it"


def test_each_kind_of_device_is_synchronized(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cpu", "cuda:1", "mps"):
        latency.synchronize(torch.device(name))
    assert waited == ["cuda:1", "mps"]


def test_a_real_model_needs_no_gradient():
    model = AttentionMixture(8).eval()
    result = measure_latency(model, 5, CPU, repeats=3)
    assert result.parameters == count_parameters(model) and 0 < result.batches[0].p50 <= result.batches[0].p95
    assert all(parameter.grad is None for parameter in model.parameters())
