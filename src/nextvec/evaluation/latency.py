"""How long one prediction takes: the wall time of `model.predict`, call by call, on a device that is warm.

Calls are timed one at a time. A graphics processor works on after a call has returned, so each clock reading waits for
it. The input is random: the time doesn't depend on what the vectors say.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextvec.evaluation.results import BatchLatency, Latency
from nextvec.models.base import LatentModel, count_parameters, unit

WARM_CALLS = 20
"""Calls before the first timed one: they load kernels, fill caches and let the clock rate rise."""
PATIENCE, LEAST = 0.3, 5
"""Seconds after which warming up, or timing, ends early, and the fewest calls of each: a slow model needs no more."""


def measure_latency(
    model: LatentModel, context: int, device: torch.device, *, batches: Sequence[int] = (1,), repeats: int = 200
) -> Latency:
    """Time `model.predict` on (B, S, D) inputs for each batch size B, with S = `context`.

    The model is in evaluation mode and already on `device`.
    """
    assert repeats > 0 and batches and min(batches) > 0, (repeats, batches)
    timed = []
    for batch in batches:
        generator = torch.Generator().manual_seed(0)
        context_BSD = unit(torch.randn(batch, context, model.dimensions, generator=generator)).to(device)
        times = sorted(_call_times(model, context_BSD, device, repeats))
        timed.append(BatchLatency(batch, _percentile(times, 0.50), _percentile(times, 0.95)))
    return Latency(str(device), context, count_parameters(model), repeats, tuple(timed))


@torch.inference_mode()
def _call_times(model: LatentModel, context_BSD: Tensor, device: torch.device, repeats: int) -> list[float]:
    """Milliseconds of each timed call."""
    _repeat(lambda: model.predict(context_BSD), WARM_CALLS)
    times: list[float] = []

    def timed() -> None:
        _wait_for(device)
        start = time.perf_counter_ns()
        model.predict(context_BSD)
        _wait_for(device)
        times.append((time.perf_counter_ns() - start) / 1e6)

    _repeat(timed, repeats)
    return times


def _repeat(call: Callable[[], object], times: int) -> None:
    """Call it that often, or until PATIENCE is over, but LEAST times at least."""
    end = time.perf_counter_ns() + PATIENCE * 1e9
    for done in range(times):
        if done >= LEAST and time.perf_counter_ns() > end:
            return
        call()


def _percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest time that at least `share` of the calls did not exceed (the nearest rank)."""
    return ascending[math.ceil(share * len(ascending)) - 1]


def _wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
