"""Latency: percentiles mean what they say, warm calls don't count, and the clock waits for the device."""

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
    """A clock that stands still unless somebody moves it."""

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


def test_a_slow_model_is_called_less_often(clock, monkeypatch):
    monkeypatch.setattr(latency, "MAX_SECONDS", 1.0)
    calls = []
    measure_latency(Slow(clock.pass_ms, lambda call: calls.append(call) or 300), 7, CPU, repeats=50)
    assert len(calls) == 2 * latency.MIN_CALLS, "warming up and timing, five calls each"


class Slow(LatentModel):
    """Takes as long as it is told, call by call, and remembers its inputs."""

    name = "slow"

    def __init__(self, spend, milliseconds):
        super().__init__(4)
        self.weight = torch.nn.Parameter(torch.zeros(3, 4))
        self.frozen = torch.nn.Parameter(torch.zeros(9), requires_grad=False)
        self.spend, self.milliseconds, self.seen = spend, milliseconds, []

    def predict(self, context_BSD, mask_BS=None):
        self.spend(self.milliseconds(len(self.seen)))
        self.seen.append(context_BSD)
        return context_BSD[:, -1]


@pytest.mark.parametrize(
    ("slow_calls", "p50", "p95"), [(0, 2.0, 2.0), (10, 2.0, 2.0), (11, 2.0, 30.0), (100, 2.0, 30.0), (101, 30.0, 30.0)]
)
def test_percentiles_of_known_times(clock, slow_calls, p50, p95):
    model = Slow(clock.pass_ms, lambda call: 30 if WARMUP_CALLS <= call < WARMUP_CALLS + slow_calls else 2)
    (timed,) = measure_latency(model, 5, CPU, repeats=200).batches
    assert (timed.batch, timed.p50, timed.p95) == (1, p50, p95)
    assert len(model.seen) == WARMUP_CALLS + 200


def test_the_first_calls_only_warm(clock):
    model = Slow(clock.pass_ms, lambda call: 500 if call < WARMUP_CALLS else 1)
    assert measure_latency(model, 5, CPU, repeats=10).batches[0].p95 == 1.0


def test_a_call_that_sleeps_takes_at_least_that_long():
    model = Slow(lambda ms: time.sleep(ms / 1000), lambda call: 0 if call < WARMUP_CALLS else 2 + 8 * (call % 2))
    (timed,) = measure_latency(model, 5, CPU, repeats=20).batches
    assert timed.p50 >= 2 and timed.p95 >= 10 and timed.p50 < timed.p95


def test_inputs_are_unit_length_of_the_shape_asked_for_and_always_the_same(clock):
    models = [Slow(clock.pass_ms, lambda call: call) for _ in range(2)]
    results = [measure_latency(model, 3, CPU, batches=(1, 8), repeats=5) for model in models]
    assert [timed.batch for timed in results[0].batches] == [1, 8] and results[0] == results[1]
    one, other = models
    assert one.seen[0].shape == (1, 3, 4) and one.seen[-1].shape == (8, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))
    assert torch.allclose(one.seen[-1].norm(dim=2), torch.ones(8, 3)) and one.seen[-1].unique().numel() > 90


def test_the_result_says_what_was_measured(clock):
    found = measure_latency(Slow(clock.pass_ms, lambda call: 1), 7, CPU, repeats=5)
    assert asdict(found) == {
        "device": "cpu", "context": 7, "parameters": 12, "repeats": 5,
        "batches": ({"batch": 1, "p50": 1.0, "p95": 1.0},),
    }  # fmt: skip


def test_the_device_is_waited_for_around_each_call(clock, monkeypatch):
    waits = []
    monkeypatch.setattr(latency, "synchronize", lambda device: (waits.append(clock.now), clock.pass_ms(40)))
    (timed,) = measure_latency(Slow(clock.pass_ms, lambda call: 1), 5, CPU, repeats=3).batches
    assert len(waits) == 6 and timed.p50 == 41.0, "what the device still had to do before a call is not the call's"


def test_each_kind_of_device_has_its_own_wait(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cpu", "cuda:1", "mps"):
        latency.synchronize(torch.device(name))
    assert waited == ["cuda:1", "mps"]


def test_a_real_model_needs_no_gradient():
    model = AttentionMixture(8).eval()
    found = measure_latency(model, 5, CPU, repeats=3)
    assert found.parameters == count_parameters(model) and 0 < found.batches[0].p50 <= found.batches[0].p95
    assert all(parameter.grad is None for parameter in model.parameters())
