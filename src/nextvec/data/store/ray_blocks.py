"""Encode the missing blocks of a build on a Ray cluster; see `ray_jobs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from nextvec.data.encoders import Encoder
from nextvec.data.store import CHUNKS, ChunkTexts
from nextvec.data.store.blocks import block_facts, encode_block, missing_blocks
from nextvec.data.store.ray_jobs import Pool, RayJob, RayWorker, make_pieces
from nextvec.data.store.vector_source import VectorSource, encoded_vectors, require_one_encoder
from nextvec.errors import StoreError


@dataclass(frozen=True)
class BlockJob(RayJob):
    """What a worker needs to encode blocks; `pieces` is the folder of the blocks and of their texts."""

    open_encoder: Callable[[], Encoder]
    dtype: str


class BlockWorker(RayWorker[BlockJob]):
    """An actor that opens the encoder once, and encodes blocks."""

    _opened: tuple[ChunkTexts, VectorSource] | None = None

    def facts(self, piece: int) -> dict[str, Any] | None:
        """Return the rows, the SHA-256 and the counts of texts of a complete block; None if it is missing."""
        return block_facts(self.job.pieces, piece)

    def make(self, piece: int) -> None:
        """Encode a block and write its files."""
        texts, source = self._open()

        def read_block(block: int) -> NDArray[Any]:
            vectors_BD = source.read_block(block)
            # Encoding takes long enough for another build to start.
            self.job.require_current()
            return vectors_BD

        encode_block(self.job.pieces, texts, piece, replace(source, read_block=read_block), self.job.dtype)

    def _open(self) -> tuple[ChunkTexts, VectorSource]:
        """Return the texts of the build, and the encoder as the source of their vectors.

        Raises StoreError if the encoder is not the one that started the build, and the errors of opening it.
        """
        if self._opened is None:
            # Once for all blocks of this worker: loading an encoder takes seconds.
            texts = ChunkTexts(self.job.pieces / CHUNKS)
            vectors = encoded_vectors(self.job.open_encoder(), texts)
            self._opened = texts, require_one_encoder(self.job.pieces, vectors)
            # From here on, an error is one of the texts, not of this node.
            self.is_able = True
        return self._opened


def encode_on_ray(ray: Any, job: BlockJob, pool: Pool) -> Iterator[int]:
    """Encode the missing blocks, and yield the number of each when it is complete.

    Raises the errors of `make_pieces`, and StoreError if a block has another number of rows than its texts.
    """
    texts = ChunkTexts(job.pieces / CHUNKS)
    for facts in make_pieces(ray, BlockWorker, job, partial(missing_blocks, job.pieces, texts), pool):
        block, rows = facts["piece"], facts.get("rows")
        # What a worker reports is compared with the input: no row may be lost on the way.
        start, stop = texts.blocks[block]
        if rows != stop - start:
            raise StoreError(
                f"{job.pieces}: block {block} has {rows} rows for {stop - start:,} texts. Run the same command again."
            )
        yield block
