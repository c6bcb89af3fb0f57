"""Encode the missing blocks of a build on a Ray cluster.

Ray Data hands the numbers of the blocks to a pool of actors. An actor opens the encoder once; for each block it writes
the two files of `blocks.encode_block` into the build directory, which all nodes share, and returns what the second one
contains. So the work of a worker, a node or a main process that dies is repeated at most for the blocks under way, and
the result is that of a build without Ray.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nextvec.core.files import writing
from nextvec.data.encoders import Encoder
from nextvec.data.store import CHUNKS, JOURNAL, ChunkTexts
from nextvec.data.store.blocks import block_facts, encode_block, missing_blocks
from nextvec.data.store.ray_results import error_values, raise_error, reason
from nextvec.data.store.vector_source import VectorSource, encoded_vectors, require_one_encoder
from nextvec.errors import InputError, ServerError, StoreError

_MAX_TASKS = 4096
"""Maximum number of Ray tasks; with more blocks than that, a task has several."""
MAX_DEATHS = 5
"""Workers that may die while they encode one block. Ray would go on for ever, although the block may be the reason."""
_FRUITLESS_ATTEMPTS = 3
"""Attempts in a row without a single new block, after which the build ends."""


@dataclass(frozen=True)
class BlockJob:
    """What a worker needs to encode blocks of one build."""

    encoded: Path
    """The folder `encoded` of the build directory, absolute."""
    open_encoder: Callable[[], Encoder]
    dtype: str
    arguments: str
    """The arguments of the build as JSON."""
    nextvec: str = version("nextvec")
    max_deaths: int = field(default_factory=lambda: MAX_DEATHS)
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    """Distinguishes the attempts of this job from those of a killed one."""

    @property
    def is_current(self) -> bool:
        """Whether the folder still belongs to this build: another one may have started again with other arguments."""
        try:
            journal = json.loads((self.encoded.parent / JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(journal.get("arguments") == json.loads(self.arguments))


class BlockWorker:
    """An actor of the pool: opens the encoder, and encodes blocks. Its errors are values, so that Ray repeats none."""

    def __init__(self, job: BlockJob) -> None:
        self.job = job
        # Opened with the first block, because an error of a constructor would be an error of Ray.
        self._opened: tuple[ChunkTexts, VectorSource] | None = None

    def require_build(self) -> None:
        """Raise InputError if this node has another version of nextvec, or does not see the build.

        The nodes were asked when the build started, but others may join at any time.
        """
        if version("nextvec") != self.job.nextvec:
            raise InputError(f"has nextvec {version('nextvec')}, but the main process has {self.job.nextvec}.")
        if not (self.job.encoded / CHUNKS).is_file():
            raise InputError(f"does not see the folder {self.job.encoded}. Choose one on a file system that all share.")

    def open(self) -> tuple[ChunkTexts, VectorSource]:
        """Return the texts of the build, and the encoder as the source of their vectors.

        Raises StoreError if the encoder is not the one that started the build, and the errors of opening it.
        """
        if self._opened is None:
            texts = ChunkTexts(self.job.encoded / CHUNKS)
            vectors = encoded_vectors(self.job.open_encoder(), texts)
            self._opened = texts, require_one_encoder(self.job.encoded, vectors)
        return self._opened

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the blocks of a batch; return a line of JSON about each."""
        return {"result": np.array([json.dumps(self._encode(int(block))) for block in batch["item"]], object)}

    def _encode(self, block: int) -> dict[str, Any]:
        """Encode a block unless it is complete, and return its facts, or the error that prevents it."""
        try:
            self.require_build()
            facts = block_facts(self.job.encoded, block)
            # Ray repeats the tasks of a node that died, also those whose block was complete.
            if facts is None:
                with self._counted(block):
                    self.encode(block)
                facts = block_facts(self.job.encoded, block)
            return {"block": block, **(facts or {})}
        except Exception as error:
            return {"block": block, **error_values(error, self._where())}

    def encode(self, block: int) -> None:
        """Encode a block and write its files."""
        texts, source = self.open()

        def read_block(number: int) -> Any:
            vectors_BD = source.read_block(number)
            if not self.job.is_current:
                raise StoreError(f"{self.job.encoded.parent}: this build has ended, or was started again.")
            return vectors_BD

        vectors = VectorSource(source.space, source.settings, read_block, source.count_unknown)
        encode_block(self.job.encoded, texts, block, vectors, self.job.dtype)

    @contextmanager
    def _counted(self, block: int) -> Iterator[None]:
        """Count in a file who begins a block; only a worker that dies leaves it. Raises ServerError after too many."""
        file = self.job.encoded / f".{block:06d}-{self.job.token}.tmp"
        with writing(file), file.open("a+") as attempts:
            attempts.write(".")
            count = attempts.tell()
        if count > self.job.max_deaths:
            raise ServerError(
                f"block {block}: {count - 1} worker{'s' * (count > 2)} died while encoding it. Check the nodes' memory."
            )
        try:
            yield
        finally:
            with writing(file):
                file.unlink(missing_ok=True)

    def _where(self) -> str:
        """Return the name of this node if it has not opened the encoder, which other nodes may be able to do."""
        return "" if self._opened else f"Ray node {socket.gethostname()}: "


def encode_on_ray(ray: Any, job: BlockJob, workers: int, resources: dict[str, float]) -> Iterator[int]:
    """Encode the missing blocks with at most `workers` actors, and yield the number of each when it is complete.

    `resources` are those of an actor (num_cpus, num_gpus). Raises the error of the first block that cannot be encoded,
    StoreError if a block has another number of rows than its texts, ServerError if workers die again and again.
    """
    texts, fruitless = ChunkTexts(job.encoded / CHUNKS), 0
    # Blocks that were completed without an answer, because their node died, are in the folder, too.
    reported: set[int] = set(range(len(texts.blocks))) - set(missing_blocks(job.encoded, texts))
    while pending := set(range(len(texts.blocks))) - reported:
        before = len(missing_blocks(job.encoded, texts))
        try:
            for block in _results(ray, job, sorted(pending), workers, resources, texts):
                reported.add(block)
                yield block
        except ray.exceptions.RayError as error:
            fruitless = 0 if len(missing_blocks(job.encoded, texts)) < before else fruitless + 1
            if fruitless == _FRUITLESS_ATTEMPTS:
                raise ServerError(
                    f"Ray cluster: its workers died {fruitless} times without completing a block ({reason(error)}). "
                    "Check the nodes' memory and Ray's logs."
                ) from error
        else:
            if lost := pending - reported:
                raise StoreError(f"Ray cluster: returned no result for block {min(lost)} and {len(lost) - 1:,} others.")


def _results(
    ray: Any, job: BlockJob, blocks: list[int], workers: int, resources: dict[str, float], texts: ChunkTexts
) -> Iterator[int]:
    """Run one Ray Data job over blocks, and yield those that are complete. Raises the error of the lowest block."""
    pending, errors = set(blocks), dict[int, dict[str, Any]]()
    size = min(workers, len(blocks))
    with _quiet_data(ray):
        dataset = ray.data.from_items(blocks, override_num_blocks=min(len(blocks), _MAX_TASKS)).map_batches(
            BlockWorker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=2
            ),
            **resources,
        )
        for row in dataset.iter_rows():
            result = json.loads(row["result"])
            block = result["block"]
            pending.discard(block)
            if "error" in result:
                errors[block] = result
            else:
                _require_rows(job, texts, result)
                yield block
            # As without Ray, the error of the lowest block is the one that is reported.
            if errors and not any(block < min(errors) for block in pending):
                raise_error(errors[min(errors)])


def _require_rows(job: BlockJob, texts: ChunkTexts, result: dict[str, Any]) -> None:
    """Raise StoreError unless a block has a row for each of its texts."""
    block = result["block"]
    start, stop = texts.blocks[block]
    if result.get("rows") != stop - start:
        raise StoreError(
            f"{job.encoded}: block {block} has {result.get('rows')} rows for {stop - start:,} texts. "
            "Run the same command again."
        )


@contextmanager
def _quiet_data(ray: Any) -> Iterator[None]:
    """Use Ray Data without its progress bars and messages; its log files remain."""
    import ray.data  # of the extra, and slow to import

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    # All handlers that write to a stream and not to a file.
    handlers = [h for h in logging.getLogger("ray.data").handlers if h.__class__.__name__ == "PlainRayHandler"]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
