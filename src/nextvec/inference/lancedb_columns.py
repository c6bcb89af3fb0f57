"""Checks of a LanceDB table that nextvec did not build: its columns, and its vectors by a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nextvec.data.space import UNKNOWN, Space
from nextvec.errors import SpaceError, StoreError, did_you_mean
from nextvec.inference.index_types import spread
from nextvec.inference.table_name import TableName

SAMPLE = 1_000
"""Vectors whose length is checked."""
MAX_NORM_ERROR = 0.01
"""Maximum difference of a vector's length from 1; float16 rounds it by 0.0005."""


def space_of_columns(table: Any, name: TableName) -> Space:
    """Return the space of a table's vectors after checking its columns: unknown unless the user stated an encoder.

    Raises StoreError for missing or unsuitable columns, SpaceError if nothing could reveal another encoder.
    """
    names = table.schema.names
    listed = f"Columns: {', '.join(names)}."
    if not name.columns:
        form = f"{name}?vector=COLUMN&text=COLUMN&document=COLUMN"
        raise StoreError(f"index {name}: nextvec did not build this table. Name its columns: '{form}'. {listed}")
    for role, column in name.columns.items():
        if column not in names:
            raise StoreError(f"index {name}: has no column '{column}' ({role}).{did_you_mean(column, names)} {listed}")
    if "position" in name.columns and not pa.types.is_integer(table.schema.field(name.columns["position"]).type):
        raise StoreError(f"index {name}: the column '{name.columns['position']}' (position) has no integers.")
    vector_type = table.schema.field(name.columns["vector"]).type
    if not (pa.types.is_fixed_size_list(vector_type) and pa.types.is_floating(vector_type.value_type)):
        raise StoreError(
            f"index {name}: the column '{name.columns['vector']}' is {vector_type}, not a fixed-size list of floats."
        )
    if "text" not in name.columns and not name.encoder:
        raise SpaceError(
            f"index {name}: the encoder of its vectors is unknown. Name the column of the texts ('text=COLUMN'), which "
            "are encoded to check it, or state the encoder ('encoder=NAME')."
        )
    _check_vectors(table, name)
    return Space(name.encoder or UNKNOWN, "", vector_type.list_size)


def _check_vectors(table: Any, name: TableName) -> None:
    """Raise StoreError if a table is empty, has null vectors, or has vectors of another length than 1."""
    column = name.columns["vector"]
    count = table.count_rows()
    if not count:
        raise StoreError(f"index {name}: the table is empty.")
    missing = table.count_rows(f"`{column}` IS NULL")
    if missing:
        raise StoreError(
            f"index {name}: {missing:,} of {count:,} vectors in the column '{column}' are null. Delete them."
        )
    sample = table.take_offsets(spread(np.arange(count), SAMPLE).tolist()).select([column]).to_arrow()[column]
    values = np.asarray(sample.combine_chunks().flatten().to_numpy(zero_copy_only=False), np.float64)
    norms = np.linalg.norm(values.reshape(len(sample), -1), axis=1)
    if not np.isfinite(norms).all():
        raise StoreError(f"index {name}: the column '{column}' has values that are not finite. Delete these rows.")
    if np.abs(norms - 1).max() > MAX_NORM_ERROR:
        raise StoreError(
            f"index {name}: the vectors in the column '{column}' have lengths of {norms.min():.3g} to "
            f"{norms.max():.3g}, but must have length 1. Divide each vector by its length."
        )
