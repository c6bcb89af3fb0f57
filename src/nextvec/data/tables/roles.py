"""Recognize which columns of a table hold what: vectors, documents, their order, texts, sources and splits.

    vector               one vector per row: a list of numbers of one length, or float32 values as bytes
    document, position   the document of each row, and its place in it
    text, title, source, split, group           optional

Other names are assigned with --columns; the roles of vectors and places have the names that an .npz table has.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from nextvec.data.npz.layout import NAMES
from nextvec.data.npz.layout import Roles as Roles
from nextvec.errors import StoreError, did_you_mean

DOCUMENT, TITLE, SOURCE, SPLIT, GROUP = "document", "title", "source", "split", "group"
POSITION, TEXT, VECTOR = "position", "text", "vector"

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "vectors": (VECTOR, *NAMES["vectors"], "embedding"),
    "document": (DOCUMENT, "document_id", "doc_id", *NAMES["document"]),
    "chunk": (POSITION, *NAMES["chunk"]),
    "text": (TEXT,),
    "title": (TITLE,),
    "source": (SOURCE,),
    "split": (SPLIT,),
    "group": (GROUP,),
}
"""Role → names of its column, the most specific first. `--columns` replaces them."""

REQUIRED = ("vectors", "document")
MAX_LISTED = 20
"""Number of columns that a message lists."""


def parse_roles(assignments: Sequence[str]) -> Roles:
    """Return the roles that ``role=NAME`` assignments describe. Raises StoreError for a malformed or unknown one."""
    roles: Roles = {}
    for assignment in assignments:
        role, equals, name = assignment.partition("=")
        if not equals or not name:
            raise StoreError(f"column '{assignment}': has no name. Write it as role=NAME, such as vectors=embedding.")
        if role not in COLUMN_NAMES:
            raise StoreError(
                f"column '{assignment}': role '{role}' is unknown for a table.{did_you_mean(role, COLUMN_NAMES)} "
                f"The roles are {', '.join(COLUMN_NAMES)}."
            )
        if roles.setdefault(role, name) != name:
            raise StoreError(f"column '{assignment}': {role} already is {roles[role]}. Name one column per role.")
    return roles


def find_columns(where: str, schema: pa.Schema, columns: Roles) -> Roles:
    """Return the name of the column of each role that the table has.

    Raises StoreError with the columns of the table if a named or a required one is missing, or has a name twice.
    """
    names = schema.names
    for role, name in columns.items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise StoreError(
                f"{where}: has no column '{name}' (--columns {role}={name}).{hint if hint.startswith(' Did') else ''} "
                f"Its columns are {_list_columns(schema)}."
            )
    found = {role: [name for name in known if name in names] for role, known in COLUMN_NAMES.items()}
    roles = {role: known[0] for role, known in found.items() if known} | columns
    if missing := [role for role in REQUIRED if role not in roles]:
        suggested = " ".join(f"{role}={_suggest(role, schema)}" for role in missing)
        raise StoreError(
            f"{where}: has no column of {' and '.join(f'the {role}' for role in missing)}. Its columns are "
            f"{_list_columns(schema)}. Name {'it' if len(missing) == 1 else 'them'} with --columns {suggested}."
        )
    for role, name in roles.items():
        if names.count(name) > 1:
            raise StoreError(f"{where}: has {names.count(name)} columns '{name}' ({role}). Rename all but one.")
    return roles


def _suggest(role: str, schema: pa.Schema) -> str:
    """Return the only column whose type fits a role; NAME if there are none or several."""
    fits = is_vector_type if role == "vectors" else _is_label_type
    fitting = [field.name for field in schema if fits(field.type)]
    return fitting[0] if len(fitting) == 1 else "NAME"


def is_vector_type(kind: pa.DataType) -> bool:
    """Return whether a column type holds lists of floating-point numbers."""
    kind = storage_type(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _is_label_type(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def storage_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which the values of an extension type are stored, such as that of a tensor."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _list_columns(schema: pa.Schema) -> str:
    """Return the columns with their types, at most MAX_LISTED of them."""
    listed = [f"{field.name} ({field.type!s:.40})" for field in list(schema)[:MAX_LISTED]]
    rest = f" and {len(schema) - MAX_LISTED} more" if len(schema) > MAX_LISTED else ""
    return (", ".join(listed) or "none") + rest
