"""The processes of a training run, and what they tell each other.

torchrun starts them; torch.distributed carries their messages: gloo on CPUs, NCCL between GPUs. On the CPUs of one
machine, the tensors of a training step are exchanged through shared memory instead. Process 0 is the main
one. It alone checks, decides, writes and prints; the others follow its orders. Without torchrun there is one process,
and every operation returns at once.

    processes = join_process_group()
    processes.sum_(gradient)                         # the sum over all processes, in place
    order = processes.broadcast(order)               # the main process's value, everywhere
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nextvec.core.process import is_one_of_several
from nextvec.distributed.shared_memory import SharedMemory, share_memory
from nextvec.distributed.silent_hosts import notice_silent_hosts
from nextvec.errors import NextvecError, one_line

STEP_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others within a step, before it takes them for lost. A process that ended is noticed
at once, because its connections are closed, and a machine that does not answer after SILENCE_SECONDS."""
ORDER_TIMEOUT = timedelta(days=1)
"""How long a process waits for the next order: the main process may be evaluating."""

_EXIT_CODE, _FAILURE = "exit_code", "failure"
"""Keys of the store that torchrun keeps: they are read when the connections are already closed."""


Value = TypeVar("Value")


class ProcessLostError(NextvecError):
    """Another process of the run has ended unexpectedly, or its machine is silent."""

    exit_code = 1


class MainProcessEnded(Exception):  # noqa: N818 - not an error, hence no `Error` suffix
    """The main process has ended, and with it the run."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the main process ended with exit code {exit_code}")
        self.exit_code = exit_code


class ProcessGroup:
    """The processes of a run as one of them sees them; by default it is the only one."""

    rank = 0
    """Number of this process, from 0."""
    size = 1
    """Number of processes."""
    local_rank = 0
    """Number of this process on its machine."""
    local_size = 1
    """Number of processes on this machine."""
    wants_stop = False
    """Whether this process has received a signal."""
    stops = False
    """Whether any process has: all agree on the step."""

    @property
    def is_main(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, items: Tensor) -> Tensor:
        """Return this process's part of `items` (N, …): every `size`-th one, so that all shares are alike."""
        return items[self.rank :: self.size]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, the same digits everywhere; return it."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, (size, …), in order; their shapes must be equal."""
        return tensor[None]

    def broadcast(self, value: Any = None) -> Any:
        """Return the main process's value; the others wait for it."""
        return value

    def gather_values(self, value: Value) -> list[Value]:
        """Return the values of all processes, in order."""
        return [value]

    def sum_gradients(self, parameters: Sequence[Tensor], extra: Sequence[Tensor]) -> list[Tensor]:
        """Replace the gradients of parameters by their sums over all processes; return the sums of `extra` (0-dim).

        One message carries everything. A parameter without a gradient counts as zero if another process has one.
        """
        return list(extra)

    def end(self, exit_code: int) -> None:
        """Leave the group. If this is the main process, the others learn the exit code, and end as well."""


class TorchProcessGroup(ProcessGroup):
    """The processes that torchrun started; see `join_process_group`."""

    def __init__(self) -> None:
        """Connect to the others. Raises ProcessLostError if one of them does not come."""
        # Builds of torch without torch.distributed lack these modules.
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self._memory: SharedMemory | None = None
        self._has_trained = False
        environment = os.environ
        self.local_rank = int(environment.get("LOCAL_RANK", "0"))
        self.local_size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        if has_gpu := torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
        try:
            store, self.rank, self.size = next(iter(rendezvous("env://")))
            self._store = PrefixStore("nextvec", store)
            backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=STEP_TIMEOUT)
            self._orders = dist.new_group(backend="gloo", timeout=ORDER_TIMEOUT)
            notice_silent_hosts()
        except (RuntimeError, ValueError) as error:
            raise ProcessLostError(
                f"the processes of this run can't reach each other ({one_line(error)}). Start them with torchrun, and "
                "see that MASTER_ADDR and MASTER_PORT can be reached from every machine."
            ) from error

    def sum_(self, tensor: Tensor) -> Tensor:  # noqa: D102
        with self._noticing_lost_processes():
            if (memory := self._memory_for(tensor)) is None:
                dist.all_reduce(tensor)
            else:
                # In the order of the processes, so that the digits are the same everywhere.
                first, second, *rest = memory.exchange(tensor)
                torch.add(first, second, out=tensor)
                for part in rest:
                    tensor += part
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:  # noqa: D102
        with self._noticing_lost_processes():
            if (memory := self._memory_for(tensor)) is not None:
                return torch.stack(memory.exchange(tensor))
            parts = [torch.empty_like(tensor) for _ in range(self.size)]
            dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def _memory_for(self, tensor: Tensor) -> SharedMemory | None:
        """Return the shared memory if there is any and a tensor fits in it."""
        fits = self._memory is not None and tensor.nbytes <= self._memory.capacity and tensor.is_cpu
        return self._memory if fits else None

    def broadcast(self, value: Any = None) -> Any:  # noqa: D102
        values = [value]
        with self._noticing_lost_processes():
            dist.broadcast_object_list(values, src=0, group=self._orders, device=torch.device("cpu"))
        return values[0]

    def gather_values(self, value: Value) -> list[Value]:  # noqa: D102
        values: list[Any] = [None] * self.size
        with self._noticing_lost_processes():
            dist.all_gather_object(values, value, group=self._orders)
        return values

    def sum_gradients(self, parameters: Sequence[Tensor], extra: Sequence[Tensor]) -> list[Tensor]:  # noqa: D102
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        message = torch.cat([*(gradient.flatten() for gradient in gradients), *(value.reshape(1) for value in extra)])
        if not self._has_trained and message.is_cpu and self.local_size == self.size:
            # The gradients are the largest message of a step.
            with self._noticing_lost_processes():
                self._memory = share_memory(self.rank, self.size, message.nbytes, STEP_TIMEOUT, self.gather_values)
        self._has_trained = True
        # From here on the gradients are parts of the message.
        sums = self.sum_(message).split([*(gradient.numel() for gradient in gradients), *(1 for _ in extra)])
        for parameter, total in zip(parameters, sums, strict=False):
            parameter.grad = total.view_as(parameter)
        return [total[0] for total in sums[len(gradients) :]]

    def end(self, exit_code: int) -> None:  # noqa: D102
        if not dist.is_initialized():
            return
        # The key first: whoever finds its connections closed looks for it. A store that is gone has no more readers.
        with suppress(RuntimeError):
            self._store.set(_EXIT_CODE if self.is_main else _FAILURE, f"{exit_code}")
        if self._memory is not None:
            self._memory.close()
        dist.destroy_process_group()

    @contextmanager
    def _noticing_lost_processes(self) -> Iterator[None]:
        """Raise MainProcessEnded or ProcessLostError if a message can't be exchanged."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            # A process that waits may learn that another one was lost before it learns that the main one ended.
            with suppress(RuntimeError):
                if not self.is_main and self._store.check([_EXIT_CODE]):
                    raise MainProcessEnded(int(self._store.get(_EXIT_CODE))) from error
            raise ProcessLostError(
                f"another of the {self.size} processes of this run has ended, or its machine can't be reached."
            ) from error


ALONE = ProcessGroup()
"""The group of a run in one process."""


def join_process_group() -> ProcessGroup:
    """Return the processes that torchrun started together with this one; ALONE without torchrun."""
    return TorchProcessGroup() if is_one_of_several() and dist.is_available() else ALONE


@contextmanager
def own_randomness(processes: ProcessGroup, seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers of this process and step inside; afterwards the generators are as before.

    Dropout draws as many numbers as a process has windows. Outside, the generators of all processes stay equal, so that
    what concerns the whole batch is drawn alike. A run in one process draws from the one generator.
    """
    if processes.is_alone:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(hash((seed, step, processes.rank)) % 2**63)
        yield
