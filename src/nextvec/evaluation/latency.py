"""Latency: wall time of `model.predict`, call by call, on a warm device.

Calls are timed one at a time. CUDA and MPS work asynchronously, so the clock is read only after a synchronization. The
input is random, because the time does not depend on its values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextvec.evaluation.results import BatchLatency, Latency
from nextvec.models.base import LatentModel, count_parameters, unit

WARMUP_CALLS = 20
"""Calls before the first timed one: they load kernels, fill caches and let the clock rate rise."""
MAX_SECONDS, MIN_CALLS = 0.3, 5
"""Warm-up and timing each end after that many seconds, but not before that many calls."""


def measure_latency(
    model: LatentModel, context: int, device: torch.device, *, batches: Sequence[int] = (1,), repeats: int = 200
) -> Latency:
    """Time `model.predict` on (B, S, D) inputs for each batch size B, with S = `context`.

    The model is in evaluation mode and already on `device`. Times are in milliseconds.
    """
    assert repeats > 0 and batches and min(batches) > 0, (repeats, batches)
    results = []
    for batch in batches:
        # Draw the input on the CPU with a fixed seed, so that it is the same for every device.
        generator = torch.Generator().manual_seed(0)
        context_BSD = unit(torch.randn(batch, context, model.dimensions, generator=generator)).to(device)
        times = sorted(_time_calls(model, context_BSD, device, repeats))
        results.append(BatchLatency(batch, _percentile(times, 0.50), _percentile(times, 0.95)))
    return Latency(str(device), context, count_parameters(model), repeats, tuple(results))


@torch.inference_mode()
def _time_calls(model: LatentModel, context_BSD: Tensor, device: torch.device, repeats: int) -> list[float]:
    """Return the milliseconds of each timed call."""
    _repeat(lambda: model.predict(context_BSD), WARMUP_CALLS)
    times: list[float] = []

    def timed_call() -> None:
        synchronize(device)  # work that is still queued does not belong to this call
        start = time.perf_counter_ns()
        model.predict(context_BSD)
        synchronize(device)
        times.append((time.perf_counter_ns() - start) / 1e6)

    _repeat(timed_call, repeats)
    return times


def _repeat(call: Callable[[], object], times: int) -> None:
    """Make up to `times` calls: stop after MAX_SECONDS, but make at least MIN_CALLS."""
    end = time.perf_counter_ns() + MAX_SECONDS * 1e9
    for done in range(times):
        if done >= MIN_CALLS and time.perf_counter_ns() > end:
            return
        call()


def _percentile(ascending: Sequence[float], fraction: float) -> float:
    """Return the nearest-rank percentile: the smallest time that at least `fraction` of the calls did not exceed."""
    return ascending[math.ceil(fraction * len(ascending)) - 1]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
