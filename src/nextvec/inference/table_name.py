"""Names of LanceDB tables: ``lancedb:DIR#TABLE``, and for tables of others the names of their columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from nextvec.core.paths import expand_home
from nextvec.errors import InputError, did_you_mean

LANCEDB_PREFIX = "lancedb:"
DEFAULT_TABLE = "chunks"
_SUFFIX = ".lance"
"""LanceDB stores the table NAME of a folder in the subfolder NAME.lance."""

COLUMN_ROLES = ("vector", "text", "document", "title", "position")
_OPTIONS = (*COLUMN_ROLES, "encoder")
_FORM = "Write lancedb:DIR#TABLE?vector=COLUMN&text=COLUMN&document=COLUMN&position=COLUMN."


@dataclass(frozen=True)
class TableName:
    """A LanceDB table by its database and name."""

    database: str
    """Folder or URI."""
    table: str
    columns: dict[str, str] = field(default_factory=dict)
    """Role in COLUMN_ROLES → column of a table that nextvec did not build; empty for its own tables."""
    encoder: str = ""
    """Encoder of the vectors, as the user stated it."""

    def __str__(self) -> str:
        return f"{LANCEDB_PREFIX}{self.database}#{self.table}"

    @property
    def folder(self) -> Path | None:
        """The folder of the database; None for a URI of a service."""
        return None if "://" in self.database else Path(self.database)


def is_table_name(name: str) -> bool:
    """Return whether a text names a LanceDB table."""
    return name.startswith(LANCEDB_PREFIX)


def parse_table_name(name: str) -> TableName:
    """Parse ``lancedb:DIR#TABLE?vector=emb&text=body``; the prefix may be missing, and the default table is ``chunks``.

    ``DIR/NAME.lance``, where LanceDB stores the table NAME, names that table. Raises InputError for an empty name or an
    unknown option.
    """
    address, has_table, fragment = name.removeprefix(LANCEDB_PREFIX).rpartition("#")
    if not has_table:
        # Without a table there are no columns to name, and a question mark belongs to the path.
        address, fragment = fragment, ""
    table, has_options, query = fragment.partition("?")
    address = address.rstrip("/") or address
    if not table and address.endswith(_SUFFIX) and "/" in address:
        address, _, table = address.removesuffix(_SUFFIX).rpartition("/")
    if not address.strip() or "\0" in name:
        raise InputError(f"index '{name}': names no folder. Write lancedb:DIR#TABLE.")
    columns, encoder = _parse_options(name, query) if has_options else ({}, "")
    database = address if "://" in address else expand_home(address)
    return TableName(database, table or DEFAULT_TABLE, columns, encoder)


def _parse_options(name: str, query: str) -> tuple[dict[str, str], str]:
    """Return the columns by role, and the encoder."""
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=20))
    except ValueError as error:
        raise InputError(f"index '{name}': the columns can't be read. {_FORM}") from error
    for option, value in options.items():
        if option not in _OPTIONS:
            raise InputError(f"index '{name}': '{option}' is unknown.{did_you_mean(option, _OPTIONS)} {_FORM}")
        if not value:
            raise InputError(f"index '{name}': '{option}' is empty. {_FORM}")
    encoder = options.pop("encoder", "")
    if "vector" not in options:
        raise InputError(f"index '{name}': the column of the vectors is missing. {_FORM}")
    return options, encoder
