"""A process group of threads, for tests of what the processes of a run compute together."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nextvec.distributed.process_group import ProcessGroup


class ThreadGroup(ProcessGroup):
    """One of `size` threads that exchange tensors through a list."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._slots = barrier, slots

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.gather_values(tensor.clone()))

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.gather(tensor).sum(dim=0))

    def gather_values(self, value: Any) -> list[Any]:
        self._barrier.wait(timeout=20)
        self._slots[self.rank] = value
        self._barrier.wait(timeout=20)
        return list(self._slots)


def run_together(size: int, work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """Call `work` in `size` threads, each with its own process group, and return the results in order."""
    barrier, slots, results = threading.Barrier(size), [None] * size, [None] * size

    def call(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(rank, size, barrier, slots))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken, "a thread has failed; see its traceback"
    return results
