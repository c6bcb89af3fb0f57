"""The engine of `nextvec data build --engine ray`: the encoder and the blocks of a build on a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders import Encoder
from nextvec.data.space import Space
from nextvec.data.store.build_dir import BuildDirectory
from nextvec.data.store.ray_blocks import BlockJob, encode_on_ray
from nextvec.data.store.ray_jobs import Pool
from nextvec.data.store.ray_staging import UnitJob, stage_on_ray
from nextvec.data.store.staging import StagingJob, Unit
from nextvec.distributed.ray_cluster import ray_cluster, uses_ray
from nextvec.distributed.ray_nodes import check_nodes
from nextvec.distributed.ray_results import as_result, raise_error, reason
from nextvec.errors import InputError, Interrupted, MissingExtraError, ServerError

_PURPOSE = "data build --engine ray"


@dataclass(frozen=True)
class RayOptions:
    """Where to build with Ray. Raises InputError for a number of workers below 1."""

    address: str = ""
    """Address of a cluster, as in `ray.init`; "" starts one on this machine, or takes that of RAY_ADDRESS."""
    num_workers: int | None = None
    """Maximum number of processes that encode. Default: one for each GPU, or for each CPU without GPUs."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise InputError(f"num_workers is {self.num_workers}, but must be at least 1.")


def ray_options(engine: str, address: str, num_workers: int | None) -> RayOptions | None:
    """Return the options of a command; None for the engine local.

    Raises InputError for an unknown engine, and for options of Ray without it.
    """
    given = {"--address": address, "--num-workers": num_workers}
    return RayOptions(address, num_workers) if uses_ray(engine, given) else None


@dataclass(frozen=True)
class WorkerEncoder:
    """The encoder of the workers, which the main process does not open."""

    space: Space
    settings: dict[str, Any]
    encode_there: Callable[[Sequence[str]], NDArray[np.float32]]
    unknown_texts: int = 0
    truncated_texts: int = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N texts, from a worker that opens the encoder for them."""
        return self.encode_there(texts)


class RayEngine:
    """A connection to a cluster."""

    def __init__(self, ray: Any, num_workers: int | None) -> None:
        self._ray, self._num_workers = ray, num_workers

    def check_nodes(self, folder: Path) -> None:
        """Check every node; see `distributed.ray_nodes`."""
        check_nodes(self._ray, folder)

    def device(self, device: str) -> str:
        """Return the device of the workers: Ray gives each worker one GPU if `device` allows it and there are any."""
        return "cuda" if (device == "auto" or device.startswith("cuda")) and self._count("GPU") else device

    def open_encoder(self, open_encoder: Callable[[], Encoder], device: str) -> WorkerEncoder:
        """Open an encoder on a worker and describe it. Raises the errors of `open_encoder`."""
        space, settings = self._run(_describe, device, open_encoder)
        return WorkerEncoder(
            Space.from_dict(space), settings, lambda texts: self._run(_encode, device, open_encoder, list(texts))
        )

    def stage_units(self, directory: BuildDirectory, staging: StagingJob, units: Sequence[Unit]) -> Iterator[int]:
        """Read and chunk units of sources; see `stage_on_ray`."""
        folder = staging.folder.resolve()
        job = UnitJob(*_identity(directory), folder, replace(staging, folder=folder), tuple(units), Path.cwd())
        return stage_on_ray(self._ray, job, self._pool("cpu"))

    def encode_blocks(
        self, open_encoder: Callable[[], Encoder], directory: BuildDirectory, dtype: str, device: str
    ) -> Iterator[int]:
        """Encode the missing blocks of a build; see `encode_on_ray`."""
        job = BlockJob(*_identity(directory), directory.encoded.resolve(), open_encoder, dtype)
        return encode_on_ray(self._ray, job, self._pool(device))

    def _run(self, function: Callable[..., Any], device: str, *arguments: Any) -> Any:
        """Return the result of a function that runs in a worker, or raise the error that it has there."""
        # Ray repeats only what a lost worker did; an error of the function is its result.
        options = {**self._pool(device).resources, "max_retries": 2}
        try:
            result = self._ray.get(self._ray.remote(**options)(as_result(function)).remote(*arguments))
        except self._ray.exceptions.RayError as error:
            raise ServerError(
                f"Ray cluster: no worker can open the encoder ({reason(error)}). Check its nodes with 'ray status'."
            ) from error
        raise_error(result)
        return result["value"]

    def _pool(self, device: str) -> Pool:
        """Return the maximum number of workers, and the CPUs and GPUs of each."""
        if self.device(device) == "cuda" and self._count("GPU"):
            return Pool(self._num_workers or self._count("GPU"), {"num_cpus": 1, "num_gpus": 1})
        # Nodes without CPUs, such as a head, encode nothing.
        cpus = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        workers = self._num_workers or max(sum(cpus), 1)
        # Few workers use more threads each, but none more than the smallest node has.
        smallest = min((count for count in cpus if count), default=1)
        return Pool(workers, {"num_cpus": max(1, min(sum(cpus) // workers, smallest))})

    def _count(self, resource: str) -> int:
        return int(self._ray.cluster_resources().get(resource, 0))


@contextmanager
def ray_engine(options: RayOptions) -> Iterator[RayEngine]:
    """Yield an engine that is connected to a cluster.

    SIGTERM ends the block as Ctrl-C does. Raises the errors of `ray_cluster`, and Interrupted after either.
    """
    # Ray prints what happens to its workers on standard output, which is for the result.
    with (
        Path(os.devnull).open("w", encoding="utf-8") as null,
        redirect_stdout(null),
        ray_cluster(options.address or None, _PURPOSE) as ray,
        _interruptible(),
    ):
        try:
            import ray.data  # needs further packages
        except ImportError as error:
            raise MissingExtraError("ray[data]", "ray", _PURPOSE) from error
        yield RayEngine(ray, options.num_workers)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Convert Ctrl-C and SIGTERM to `Interrupted`. Ray's handler of SIGTERM would end the process with another code."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # Only the main thread may set handlers; in another thread, those that are set stay.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. To continue the build, run the same command again.") from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _identity(directory: BuildDirectory) -> tuple[Path, str]:
    """Return the folder and the arguments of a build, by which its workers recognize it."""
    return directory.folder.resolve(), json.dumps(directory.arguments)


def _describe(open_encoder: Callable[[], Encoder]) -> tuple[dict[str, Any], dict[str, Any]]:
    encoder = open_encoder()
    return encoder.space.to_dict(), encoder.settings


def _encode(open_encoder: Callable[[], Encoder], texts: list[str]) -> NDArray[np.float32]:
    return open_encoder().encode(texts)
