"""Ways to repeat the training loop's own step on a device: as it is, as a CUDA graph, and compiled."""

from __future__ import annotations

import threading

import torch

from nextvec import ops
from nextvec.data.order import EpochOrder
from nextvec.ops import window
from nextvec.training import loop
from nextvec.training import run as training_run
from nextvec.training import step as training_step
from nextvec.training.optimizer import learning_rate_at
from nextvec.training.run import TrainingState


def loop_of(run):
    """Return a function that trains a number of steps with the loop, and logs as often as a full epoch would."""
    epoch_steps = run.steps_per_epoch

    class Limited(type(run)):
        steps_per_epoch = property(lambda self: self.limit)

    run.__class__ = Limited

    def work(steps):
        if run.state.step_in_epoch + steps > epoch_steps:
            run.state = TrainingState(epoch=run.state.epoch + 1)
        run.limit = run.state.step_in_epoch + min(steps, epoch_steps)
        events, training_run.STEP_EVENTS_PER_EPOCH = training_run.STEP_EVENTS_PER_EPOCH, 1
        training_run.STEP_EVENTS_PER_EPOCH = max(1, round(events * run.limit / epoch_steps))
        try:
            loop.train_epoch(run, threading.Event())
        finally:
            training_run.STEP_EVENTS_PER_EPOCH = events

    return work


class RepeatedStep:
    """`train_step` on the windows of `index`, at the rate of `rate`; both are tensors, so that a graph reads them.

    The host's part of a step is left out: the rate of the schedule, logging, and the wait for the non-finite guard,
    whose answer `is_finite` reads. The average of the weights has its final decay from the first step on.
    """

    def __init__(self, run):
        self.run = run
        self.index = torch.arange(run.recipe.training.batch_size, device=run.device)
        self.rate = torch.zeros((), device=run.device)
        self.sums = {}
        if run.device.type == "cuda":
            for group in run.optimizer.param_groups:
                group["lr"], group["capturable"] = self.rate, True
        run.model.train()

    def __call__(self):
        """Train on the windows of `index`."""
        run = self.run
        if run.device.type == "cpu":  # the native update reads a number
            training_step.set_learning_rate(run.optimizer, float(self.rate))
        set_rate, training_step.set_learning_rate = training_step.set_learning_rate, lambda *_: None
        require, training_step.require_finite_step = training_step.require_finite_step, lambda *_, **__: None
        state, run.state = run.state, TrainingState(step=10**6, history=run.state.history)
        try:
            metrics = training_step.train_step(run, self.index)
        finally:
            training_step.set_learning_rate, training_step.require_finite_step = set_rate, require
            run.state = state
        for name, value in metrics.items():
            self.sums.setdefault(name, torch.zeros_like(value))
        torch._foreach_add_([self.sums[name] for name in metrics], list(metrics.values()))

    @property
    def is_finite(self):
        """Whether no loss or gradient was NaN or infinite so far."""
        return self.run.guard.broken_step(wait=True) is None


def captured(step):
    """Return a function that repeats a step as a CUDA graph; on the CPU, which has no graphs, the step itself.

    Raises RuntimeError if the step cannot be captured.
    """
    # The rate is 0, so that the weights stay as they are.
    if step.run.device.type == "cuda":
        repeat = _capture(step)
    else:
        repeat = step
        step()
    # Forget the moments and sums of the warm-up.
    for values in step.run.optimizer.state.values():
        for value in values.values():
            value.zero_()
    torch._foreach_zero_(list(step.sums.values()))
    return repeat


def _capture(step):
    """Return the replay of a step, captured after a warm-up on a side stream, as torch's notes on graphs ask for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def compile_parts(run):
    """Let torch.compile replace the forward passes and the objective's gradients of a run."""
    options = {"dynamic": False, **({} if run.device.type == "cuda" else {"backend": "aot_eager"})}
    for part, names in ((run.model, ("forward", "raw_query")), (run.objective, ("gradient", "query_gradient"))):
        for name in names:
            setattr(part, name, torch.compile(getattr(part, name), **options))


class CompilerFriendlyOps:
    """A context without C code, which torch.compile cannot trace, and with a window's small products as sums.

    cuBLAS multiplies matrices with a side of 5 by slow kernels; a compiler fuses the sums.
    """

    def __enter__(self):
        self._native, self._multiply = ops.native_ops(False), window._bmm
        self._native.__enter__()
        window._bmm = lambda left, vectors: (
            (left.float()[:, :, :, None] * vectors.float()[:, None]).sum(dim=2).to(vectors.dtype)
        )

    def __exit__(self, *error):
        window._bmm = self._multiply
        return self._native.__exit__(*error)


def over_epochs(step, repeat):
    """Return a function that trains steps with the run's order of windows and its learning rates."""
    run, size = step.run, step.run.recipe.training.batch_size
    order = EpochOrder(len(run.train_windows), run.recipe.seed, 0)[:].to(run.device)
    done = 0

    def work(steps):
        nonlocal done
        for _ in range(steps):
            first = done % run.steps_per_epoch * size
            step.index.copy_(order[first : first + size])
            step.rate.fill_(learning_rate_at(done % run.total_steps, run.total_steps, run.recipe.training, []))
            repeat()
            done += 1

    return work
