"""LanceDB tables: how they are opened, and what nextvec writes into the tables that it builds.

The schema's metadata contains the format version and the embedding space. The tag COMPLETE names the version of the
table at which the last build was complete; a reader opens that version and never sees a half-finished update. The
metadata of the column `vector` at that version identifies the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from nextvec.data.space import Space
from nextvec.errors import MissingExtraError, NextvecError, StoreError, one_line
from nextvec.inference.table_name import TableName

TABLE_FORMAT = 1
METADATA = b"nextvec"
"""Key of the schema's metadata."""
COMPLETE = "nextvec-complete"
STORE_HASH = "nextvec:store"
"""Key in the metadata of the column of vectors: the hash of the store at that version."""
TRAINED_ROWS = "nextvec:trained"
"""Key there: the number of rows for which the partitions of the vector index were made."""
VECTOR, DIGEST = "vector", "digest"
MAX_REASON_CHARS = 200


def connect(name: TableName, *, create: bool = False) -> Any:
    """Return the LanceDB connection of a table's database. Raises MissingExtraError without lancedb.

    Raises StoreError if the folder does not exist and is not to be created, or the database cannot be reached.
    """
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError("lancedb", "lancedb", "an index in LanceDB") from error
    folder = name.folder
    if folder is not None and not folder.is_dir() and not create:
        raise StoreError(
            f"index {name}: there is no such folder. Make it with 'nextvec index build STORE --to {name}'."
        )
    with lancedb_errors(name):
        return lancedb.connect(name.database)


def open_latest(database: Any, name: TableName) -> Any:
    """Return a table at its latest version, or None if the database does not have it."""
    with lancedb_errors(name):
        try:
            return database.open_table(name.table)
        except (ValueError, FileNotFoundError) as error:
            # A killed first build leaves a folder without a version, which is no table either.
            if "not found" in str(error).lower():
                return None
            raise


@contextmanager
def lancedb_errors(name: TableName) -> Iterator[None]:
    """Turn an exception of LanceDB in the block into a StoreError of one line."""
    try:
        yield
    except NextvecError:
        raise
    except Exception as error:  # the library raises RuntimeError, ValueError, OSError and its own types
        raise StoreError(f"index {name}: LanceDB reports: {reason_of(error)}.") from error


def reason_of(error: Exception) -> str:
    """Return the message of an exception of LanceDB on one line, without the places in its source code."""
    # "…could not convert, /root/.cargo/registry/src/…/expr.rs:19:3"
    text = one_line(error).split(", /root/.cargo")[0].split(" Valid fields are")[0].removeprefix("Invalid input, ")
    return text[:MAX_REASON_CHARS].rstrip(" .")


def is_built_by_nextvec(table: Any) -> bool:
    """Return whether a table has the metadata of `nextvec index build`."""
    return METADATA in (table.schema.metadata or {})


def space_of(table: Any, name: TableName) -> Space:
    """Return the embedding space of a table that nextvec built. Raises StoreError for another format."""
    try:
        values = json.loads(table.schema.metadata[METADATA])
        version = values["format"]
        if version == TABLE_FORMAT:
            return Space.from_dict(values["space"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"index {name}: its metadata are damaged ({one_line(error)}). Build it again.") from error
    raise StoreError(
        f"index {name}: has format {version!r:.20}, but this nextvec reads format {TABLE_FORMAT}. "
        "Drop the table and build it again, or upgrade nextvec."
    )


def make_schema(space: Space) -> pa.Schema:
    """Return the schema of a table of a store.

    Vectors are float32: LanceDB takes many times as long to index float16 on CPUs without float16 arithmetic.
    """
    metadata = {METADATA: json.dumps({"format": TABLE_FORMAT, "space": space.to_dict()})}
    texts = [(column, pa.string()) for column in ("text", "document", "title", "source", "split")]
    vector = (VECTOR, pa.list_(pa.float32(), space.dimensions))
    return pa.schema([vector, *texts, ("position", pa.int32()), (DIGEST, pa.int64())], metadata=metadata)


def complete_version(table: Any) -> int | None:
    """Return the version at which the last build was complete, or None if none was."""
    tags = table.tags.list()
    return int(tags[COMPLETE]["version"]) if COMPLETE in tags else None
