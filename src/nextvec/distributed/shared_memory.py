"""Memory that the processes of one machine share, to exchange the tensors of a training step.

A message through a network connection is copied four times and wakes two more threads in each process. Here each
process writes its message where the others read it, and sends one byte when it is there.

The memory has no name, so that nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

CONNECT_SECONDS = 60
"""How long the processes of a machine wait for each other's connections, before they use the network instead."""

_READY = b"r"

GatherValues = Callable[[Any], list[Any]]
"""Returns the values of all processes, in order."""


class SharedMemory:
    """The messages of all processes of one machine; all call `exchange` with tensors of the same size."""

    def __init__(self, rank: int, connections: dict[int, socket.socket], capacity: int, timeout: timedelta) -> None:
        """Share memory for messages of at most `capacity` bytes with the processes behind the connections.

        Raises OSError if the system has no such memory, or a process does not answer.
        """
        self.capacity, self._rank, self._others, self._turn = capacity, rank, list(connections.values()), 0
        own = os.memfd_create("nextvec")
        # Each message is written to the other half than the one before, which a slower process may still be reading.
        os.truncate(own, 2 * capacity)
        for other in self._others:
            socket.send_fds(other, [_READY], [own])
        memories = {rank: own, **{number: _receive_memory(other) for number, other in connections.items()}}
        self._halves: list[tuple[Tensor, ...]] = []
        for _, memory in sorted(memories.items()):
            self._halves.append(torch.frombuffer(mmap.mmap(memory, 2 * capacity), dtype=torch.uint8).split(capacity))
            os.close(memory)
        for other in self._others:
            other.settimeout(timeout.total_seconds())

    def exchange(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes; they are valid until the next call but one.

        Raises OSError if another process ends, or is not there within the time-out.
        """
        size = tensor.numel() * tensor.element_size()
        assert size <= self.capacity, (size, self.capacity)
        parts = [halves[self._turn][:size].view(tensor.dtype).view(tensor.shape) for halves in self._halves]
        self._turn = 1 - self._turn
        parts[self._rank].copy_(tensor)
        for other in self._others:
            other.sendall(_READY)
        for other in self._others:
            if other.recv(1) != _READY:
                raise ConnectionError("another process has ended")
        return parts

    def close(self) -> None:
        """Close the connections; the system frees the memory when no process uses it."""
        for other in self._others:
            other.close()


def share_memory(
    rank: int, size: int, capacity: int, timeout: timedelta, gather_values: GatherValues
) -> SharedMemory | None:
    """Return memory shared by `size` processes of one machine, which call this together; None if it is impossible.

    Only Linux has memory without a name. `timeout` limits each exchange.
    """
    capacity = -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
    # Connections need names for a moment, in a folder of this user.
    folder = gather_values(_make_folder() if rank == 0 else "")[0]
    memory = None
    with suppress(OSError, AttributeError, ValueError):  # the system has none, or there are more than 255 processes
        memory = SharedMemory(rank, _connect(rank, size, folder, gather_values), capacity, timeout)
    succeeded = all(gather_values(memory is not None))
    if rank == 0 and folder:
        shutil.rmtree(folder, ignore_errors=True)
    if memory is not None and not succeeded:
        memory.close()
    return memory if succeeded else None


def _make_folder() -> str:
    """Return the path of a new folder; empty if there can be none."""
    try:
        return tempfile.mkdtemp(prefix="nextvec-")
    except OSError:
        return ""


def _connect(rank: int, size: int, folder: str, gather_values: GatherValues) -> dict[int, socket.socket]:
    """Return a connection to each other process, by its number."""
    connections: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        with suppress(OSError):
            if folder:
                server.bind(f"{folder}/{rank}")
                server.listen(size)
        gather_values(None)  # all listen
        # Each process calls those before it, and is called by those after it.
        for number in range(rank):
            connections[number] = socket.socket(socket.AF_UNIX)
            connections[number].settimeout(CONNECT_SECONDS)
            connections[number].connect(f"{folder}/{number}")
            connections[number].sendall(bytes([rank]))
        server.settimeout(CONNECT_SECONDS)
        while len(connections) < size - 1:
            caller, _ = server.accept()
            caller.settimeout(CONNECT_SECONDS)
            connections[int.from_bytes(caller.recv(1))] = caller
    return connections


def _receive_memory(connection: socket.socket) -> int:
    """Return the file descriptor that another process has sent."""
    message, descriptors, _, _ = socket.recv_fds(connection, len(_READY), 1)
    if message != _READY or len(descriptors) != 1:
        raise ConnectionError("another process has ended")
    return descriptors[0]
