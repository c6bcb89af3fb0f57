"""Build a store on a Ray cluster, with an encoder that takes time and logs each block that it begins and completes.

    python ray_builder.py ADDRESS SOURCE OUT LOG

Classes of this script are sent to the workers as code. The files in LOG are named begin-BLOCK-PID-RANDOM and
end-BLOCK-PID-RANDOM. An empty ADDRESS builds without Ray and without a log.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np

from nextvec.data.space import Space
from nextvec.data.store import build, ray_blocks, tables
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.ray_engine import RayOptions
from nextvec.errors import NextvecError

SECONDS_PER_BLOCK = 0.2


class Hashing:
    """Vectors that are a hash of their text."""

    space, settings = Space("hashing", "1", 8), {"name": "hashing"}
    unknown_texts = truncated_texts = 0

    def encode(self, texts):
        time.sleep(SECONDS_PER_BLOCK)
        digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
        return np.array([np.frombuffer(digest, np.uint8) for digest in digests], np.float32) - 127.5


class Worker(ray_blocks.BlockWorker):
    """A worker with a log."""

    def make(self, block: int) -> None:
        name = f"{block}-{os.getpid()}-{os.urandom(4).hex()}"
        (log / f"begin-{name}").touch()
        super().make(block)
        (log / f"end-{name}").touch()


def open_encoder(name, *, device, precision):
    return Hashing()


address, source, out, log_folder = sys.argv[1:]
log = Path(log_folder)
tables.BLOCK_ROWS = 8
build.open_encoder = open_encoder
ray_blocks.BlockWorker = Worker
try:
    options = RayOptions(address) if address else None
    build.build_store(BuildConfig((source,), encoder="owner/hashing"), out, quiet=True, ray=options)
except NextvecError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(error.exit_code)
