"""The configuration of a build."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from nextvec.data.chunking import Chunker
from nextvec.data.documents import Columns
from nextvec.data.encoders import LSA, PRECISIONS, full_name
from nextvec.data.encoders.remote_names import without_url
from nextvec.data.splits import SplitPlan
from nextvec.data.store.build_dir import stamp_files
from nextvec.data.store.lost_rows import ALLOWED_SHARE, require_share
from nextvec.data.store.precomputed import open_precomputed
from nextvec.data.store.vectors import ALIGNMENT, SHARD_BYTES
from nextvec.errors import InputError, did_you_mean

_DTYPES = ("float16", "float32")
_MAX_PARAGRAPH_CHARS = 2**31 - 1


@dataclass(frozen=True)
class BuildConfig:
    """The configuration of a build. Raises InputError for values that cannot be used."""

    sources: tuple[str, ...]
    """Sources of text; see `readers.SOURCES`."""
    encoder: str = LSA
    """A name in `encoders.ENCODERS`, a model of the Hugging Face hub, a folder, or ``openai:URL#MODEL``."""
    split: SplitPlan = SplitPlan()
    """How documents are divided into train, val and ood."""
    chunker: Chunker = Chunker()
    """How documents become chunks. With `vectors`, chunks are whole paragraphs of any length."""
    columns: Columns = Columns()
    """Names of the fields of .jsonl, .parquet and hub sources."""
    dimensions: int = 768
    """D of the lsa encoder, which is fitted on the training documents alone."""
    vectors: tuple[str, ...] = ()
    """.npy files of precomputed embeddings: one file per source, one row per paragraph."""
    dtype: str = "float16"
    """Number format of the stored vectors."""
    min_chunks: int = 1
    """Minimum number of chunks of a document; shorter documents are dropped and counted."""
    allow_lost_rows: float = ALLOWED_SHARE
    """Largest share of the documents that may have no usable text. It decides no byte of the store."""
    drop_near_duplicates: bool = False
    """Whether rows of val and ood are dropped if train has a near duplicate (cosine above `NEAR_COSINE`)."""
    limit: int | None = None
    """Maximum number of documents of each source."""
    device: str = "auto"
    """Device of a neural encoder."""
    precision: str = "auto"
    """Precision of its matrix products."""
    shard_bytes: int = SHARD_BYTES
    """Maximum size of a file of vectors; a larger store gets several."""

    def __post_init__(self) -> None:
        # Accept a single name as well as a sequence, and store canonical values: they identify the build.
        for name in ("sources", "vectors"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "encoder", full_name(self.encoder))
        require_share(self.allow_lost_rows)
        if not self.sources:
            raise InputError("no source of text. Name at least one; 'nextvec data build --help' lists the kinds.")
        for name, value, known in (("dtype", self.dtype, _DTYPES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise InputError(f"{name} '{value}' is unknown.{did_you_mean(value, known)}")
        for name in ("dimensions", "min_chunks", "limit"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} is {number}, but must be at least 1.")
        if self.shard_bytes < ALIGNMENT:
            raise InputError(f"shard_bytes is {self.shard_bytes:,}, but must be at least {ALIGNMENT:,}.")
        if self.vectors:
            self._require_aligned_vectors()
            whole = Chunker("paragraph", 0, _MAX_PARAGRAPH_CHARS, language=self.chunker.language)
            object.__setattr__(self, "chunker", whole)

    def _require_aligned_vectors(self) -> None:
        if self.encoder == LSA:
            raise InputError("vectors: the encoder lsa does not make them. Name the encoder that did with --encoder.")
        if self.columns.group_by:
            raise InputError("vectors: --group-by may move rows, so that vectors no longer match. Leave one out.")
        if self.chunker.unit != "paragraph" or self.chunker.paragraphs != "blank-lines":
            raise InputError("vectors: one row is one paragraph. Leave out --unit and --paragraphs.")
        if len(self.vectors) != len(self.sources):
            raise InputError(
                f"vectors: {len(self.vectors)} files for {len(self.sources)} sources. "
                "Name one file per source, in order."
            )
        open_precomputed(self.vectors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that decide every byte of the store, including the state of the source files."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["allow_lost_rows"]  # it decides whether there is a store, not its bytes
        return values | {
            "encoder": without_url(self.encoder),  # a server may move; its model is compared by the fingerprint
            "split": self.split.to_dict(),
            "val ids": _hash_ids(self.split.val_ids),
            "ood ids": _hash_ids(self.split.ood_ids),
            "chunker": self.chunker.to_dict(),
            "columns": dataclasses.asdict(self.columns),
            "files": stamp_files([*self.sources, *self.vectors]),
            "stages": 7,  # version of the build directory
            "nextvec": version("nextvec"),
            "sentencex": version("sentencex"),  # another version may split the remaining text differently
        }


def _hash_ids(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()
