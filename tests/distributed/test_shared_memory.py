"""Processes of one machine exchange tensors through memory; here they are threads."""

import pkgutil
from datetime import timedelta
from typing import Any

import pytest
import torch

from distributed.thread_group import run_together
from nextvec.distributed.process_group import ProcessGroup
from nextvec.distributed.shared_memory import SharedMemory, share_memory

SOON = timedelta(seconds=20)


def shared(processes: ProcessGroup, capacity: int = 4096) -> SharedMemory:
    memory = share_memory(processes.rank, processes.size, capacity, SOON, processes.gather_values)
    assert memory is not None
    return memory


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everyone_gets_all_tensors_in_order(size: int) -> None:
    def work(processes: ProcessGroup) -> list[list[float]]:
        memory = shared(processes)
        # More exchanges than halves, of several sizes and types; a result lasts until the next exchange but one.
        results = []
        for number in range(6):
            tensor = torch.full(
                (number, 3), processes.rank + 10.0 * number, dtype=(torch.float32, torch.float64)[number % 2]
            )
            parts = memory.exchange(tensor)
            assert all(part.shape == tensor.shape and part.dtype == tensor.dtype for part in parts)
            results.append([float(part.sum()) for part in parts])
        results.append([float(part) for part in memory.exchange(torch.tensor(processes.rank + 0.5))])
        memory.close()
        return results

    expected = [[3.0 * number * (rank + 10 * number) for rank in range(size)] for number in range(6)]
    expected.append([rank + 0.5 for rank in range(size)])
    assert run_together(size, work) == [expected] * size


def test_a_slow_reader_still_has_the_message_before() -> None:
    def work(processes: ProcessGroup) -> bool:
        memory = shared(processes)
        first = memory.exchange(torch.full((9,), 1.0 + processes.rank))
        memory.exchange(torch.full((9,), 5.0))
        return [float(part[0]) for part in first] == [1.0, 2.0]

    assert run_together(2, work) == [True, True]


def test_the_end_of_a_process_is_noticed_at_once() -> None:
    def work(processes: ProcessGroup) -> str:
        memory = shared(processes)
        if processes.rank == 1:
            memory.close()
            return "ended"
        with pytest.raises(OSError, match=r".") as error:
            memory.exchange(torch.zeros(1))
            memory.exchange(torch.zeros(1))
        assert not isinstance(error.value, TimeoutError)
        return "noticed"

    assert run_together(2, work) == ["noticed", "ended"]


@pytest.mark.parametrize("function", ["tempfile.mkdtemp", "os.memfd_create"])
def test_all_do_without_if_it_is_impossible_for_one(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, is_first = pkgutil.resolve_name(function.replace(".", ":")), iter([True])

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if next(is_first, False):
            raise OSError("there is none")
        return original(*arguments, **options)

    monkeypatch.setattr(function, fail_once)
    results = run_together(3, lambda p: share_memory(p.rank, p.size, 64, SOON, p.gather_values))
    assert results == [None] * 3
