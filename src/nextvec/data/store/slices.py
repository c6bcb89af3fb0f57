"""Slices of a build: the blocks that one of several independent processes encodes, for example in a Slurm array.

    build_slice(config, "wiki", Slice.parse("3/16"))       in 16 processes, on machines that share a file system
    merge_slices("wiki")                                   after all of them

All slices work in the same build directory. The first process reads and chunks the text, once for all; the others wait.
Then each encodes its share of the blocks, without talking to any other. A slice is only a choice of blocks: it may be
repeated, and the number of slices may change from one start to the next. The store has the bytes of a local build.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.core.console import show
from nextvec.core.display import Displayable
from nextvec.core.files import lock, make_folder, writing
from nextvec.core.formatting import Status
from nextvec.core.table import Line, View
from nextvec.data.encoders.remote import ANSWERS
from nextvec.data.store import CHUNKS, ChunkTexts, Store, open_store
from nextvec.data.store.blocks import missing_blocks, row_count
from nextvec.data.store.build import (
    encode_blocks,
    finish_build,
    open_build_encoder,
    open_vectors,
    prepare_blocks,
    refusing_input,
)
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.build_dir import (
    BuildDirectory,
    open_build_directory,
    open_prepared_directory,
    share_build_directory,
)
from nextvec.data.store.vector_source import read_encoder_record
from nextvec.errors import InputError, ServerError, StoreError

_NAMED_SLICES = 20
"""Number of missing slices that a message names."""


@dataclass(frozen=True)
class Slice:
    """One of several slices of a build; number 0 only prepares it for the others."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Read ``3/16``. Raises InputError for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        if match is None or not 0 <= int(match[1]) <= int(match[2]) or not int(match[2]):
            raise InputError(f"shard '{text}': write it as SLICE/SLICES, such as 3/16, or 0/16 to prepare them all.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def blocks(self, total: int) -> range:
        """Return the slice's share of the blocks, which are consecutive."""
        # Rounding the two ends alike gives every block to exactly one slice, and slices of nearly equal size.
        return (
            range(total * (self.number - 1) // self.count, total * self.number // self.count)
            if self.number
            else range(0)
        )


@dataclass(frozen=True)
class SliceResult(Displayable):
    """What one process did for a store that several build."""

    store: Path
    part: Slice
    chunks: int
    """Chunks that this process encoded."""
    missing_blocks: int
    """Blocks of all slices that are not complete."""
    blocks: int
    """Blocks of all slices."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "store": str(self.store),
            "slice": str(self.part),
            "chunks": self.chunks,
            "blocks": self.blocks,
            "missing_blocks": self.missing_blocks,
        }

    def view(self) -> View:
        """Return one line about the slice, and one about all."""
        done = "the text is read" if not self.part.number else f"encoded {self.chunks:,} chunks"
        rest = f"The store still lacks {self.missing_blocks:,} of {self.blocks:,} blocks."
        if not self.missing_blocks:
            rest = f"The store has {self.blocks:,} of {self.blocks:,} blocks. Run 'nextvec data merge {self.store}'."
        return View((Line(f"slice {self.part} of store {self.store}: {done}", Status.GREEN), Line(rest, style="path")))


def build_slice(
    config: BuildConfig, out: str | Path, part: Slice, *, restart: bool = False, quiet: bool = False
) -> SliceResult:
    """Encode one slice of the store `out`; `merge_slices` makes the store when all slices are complete.

    The first process reads the text, while the others wait. Slice 0 does only that. Raises the errors of `build_store`;
    OutputError if another process encodes the same slice.
    """
    path = Path(out)
    if config.vectors:
        raise InputError("vectors: nothing is encoded, so slices would save no time. Leave out --shard.")
    if restart and part.number:
        raise InputError("restart: would discard the work of other slices. Start again with --shard 0/N --restart.")
    # Slice 0 needs the build for itself alone, because it may discard it.
    if not part.number:
        with open_build_directory(path, config.to_dict(), restart=restart) as directory:
            with refusing_input(config, directory):
                prepare_blocks(config, directory, quiet)
            directory.record(prepared=True)
            return _result(directory, path, part, 0)
    # Opened before any text is read, so that a missing encoder is reported at once.
    encoder = open_build_encoder(config)

    def prepare(directory: BuildDirectory) -> None:
        with refusing_input(config, directory):
            prepare_blocks(config, directory, quiet)

    def report_wait() -> None:
        show([f"store {path}: waiting for another process that reads the text, or builds there"], quiet=quiet)

    with (
        share_build_directory(path, config.to_dict(), prepare, report_wait) as directory,
        _locked_slice(directory, part),
    ):
        texts = ChunkTexts(directory.encoded / CHUNKS)
        vectors = open_vectors(config, directory, texts, encoder)
        # Blocks of an earlier try, or of another number of slices, are there already.
        share = part.blocks(len(texts.blocks))
        blocks = [block for block in missing_blocks(directory.encoded, texts) if block in share]
        # Each slice keeps the answers of a server in a log of its own.
        answers = f"{part.number}-of-{part.count}-{ANSWERS}"
        try:
            encode_blocks(directory, texts, vectors, blocks, config.dtype, quiet, answers)
        except ServerError as error:
            raise ServerError(f"{error} To continue the slice, run the same command again.") from error
        return _result(directory, path, part, row_count(texts, blocks))


def merge_slices(out: str | Path, *, quiet: bool = False) -> Store:
    """Join the encoded slices of the store `out` and return it. It needs neither the sources nor the encoder.

    Every block is compared with its SHA-256 and with the number of its texts. A merge that was killed continues. Raises
    StoreError that names the missing slices, or those with a damaged block; OutputError if a slice is being encoded.
    """
    path = Path(out)
    with open_prepared_directory(path) as directory:
        if not directory.is_finished:
            texts = ChunkTexts(directory.encoded / CHUNKS)
            total, count = len(texts.blocks), _slice_count(directory)
            missing = missing_blocks(directory.encoded, texts)
            if missing:
                raise StoreError(
                    f"{directory.folder}: lacks {len(missing):,} of {total:,} blocks. "
                    f"{_run_again(missing, total, count)}, then merge again."
                )
            # The encoder left its description with the blocks.
            space, settings = read_encoder_record(directory.encoded)

            def remedy(blocks: list[int]) -> str:
                again = _run_again(blocks, total, count)
                return f"{again[0].lower()}{again[1:]}, then merge again"

            finish_build(directory, path, space, settings, quiet, remedy)
        directory.remove()
    return open_store(path)


def _result(directory: BuildDirectory, path: Path, part: Slice, chunks: int) -> SliceResult:
    texts = ChunkTexts(directory.encoded / CHUNKS)
    missing = len(missing_blocks(directory.encoded, texts))
    return SliceResult(path, part, chunks, missing, len(texts.blocks))


@contextlib.contextmanager
def _locked_slice(directory: BuildDirectory, part: Slice) -> Iterator[None]:
    """Lock a slice. Raises OutputError if another process encodes it, which would do the same work twice."""
    make_folder(directory.slices)
    file = directory.slices / f"{part.number}-of-{part.count}"
    with writing(file):
        file.touch()  # the last number of slices is the one that `merge_slices` names
        opened = file.open("a")
    with opened:
        lock(opened.fileno(), f"{directory.folder}: slice {part} is being encoded by another process.")
        yield


def _slice_count(directory: BuildDirectory) -> int:
    """Return the number of slices of the process that started last; 1 if none did."""
    files = sorted(directory.slices.glob("*-of-*"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return int(files[-1].name.rpartition("-")[2]) if files else 1


def _run_again(blocks: Sequence[int], total: int, count: int) -> str:
    """Return the instruction to run the slices with these blocks."""
    # The first slice that ends behind the block: the smallest i with total · i // count > block.
    numbers = sorted({-(-(block + 1) * count // total) for block in blocks})
    names = [str(Slice(number, count)) for number in numbers]
    listed = ", ".join(names[:_NAMED_SLICES]) + (" …" if len(names) > _NAMED_SLICES else "")
    return f"Run slice{'s' * (len(names) > 1)} {listed} again"
