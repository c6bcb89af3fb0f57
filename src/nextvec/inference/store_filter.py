"""Filters of a store's documents by an SQL condition, evaluated by SQLite in memory."""

from __future__ import annotations

import re
import sqlite3

import numpy as np
from numpy.typing import NDArray

from nextvec.data.splits import SPLITS
from nextvec.data.store import Store
from nextvec.errors import InputError, one_line

FILTER_COLUMNS = ("document", "source", "split", "title")
"""Columns that a filter of a store can name; they are also columns of the LanceDB table of a store."""
MAX_FILTER_CHARS = 10_000
"""Maximum length of a filter. Parsers are recursive, and a crash of one would end the process."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_FORBIDDEN = (";", "--", "/*", "?", ":", "$", "@", "'", '"', "`")
"""What no condition needs outside of quotations; a single quotation mark is one without its end."""
_MAX_STEPS = 10_000_000
"""Virtual machine instructions of SQLite per check for a condition that takes too long."""
_MAX_CHECKS = 100
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


def matching_rows(store: Store, where: str) -> NDArray[np.bool_]:
    """Return which of the N chunks belong to documents that match a condition such as ``source = 'x'``.

    The condition can use FILTER_COLUMNS. It can only read. Raises InputError if it is not valid.
    """
    require_one_condition(where)
    documents = store.documents
    splits = [SPLITS[split] for split in documents.splits.tolist()]
    database = sqlite3.connect(":memory:")
    try:
        database.execute(f"CREATE TABLE chunks ({', '.join(f'{name} TEXT' for name in FILTER_COLUMNS)})")
        rows = zip(documents.ids, documents.sources, splits, documents.titles, strict=True)
        database.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)
        # As in other databases, LIKE distinguishes upper and lower case.
        database.execute("PRAGMA case_sensitive_like = ON")
        _forbid_writes(database)
        matches = database.execute(f"SELECT rowid - 1 FROM chunks WHERE ({where}\n)").fetchall()
    except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
        raise filter_error(where, f"store {store.name}", one_line(error), FILTER_COLUMNS) from error
    finally:
        database.close()
    is_match = np.zeros(len(documents), bool)
    is_match[[number for (number,) in matches]] = True
    return np.repeat(is_match, documents.rows)


def _forbid_writes(database: sqlite3.Connection) -> None:
    """Allow only SELECT from now on, and stop a statement that takes too long."""
    checks = 0

    def is_too_long() -> bool:
        nonlocal checks
        checks += 1
        return checks > _MAX_CHECKS

    database.set_progress_handler(is_too_long, _MAX_STEPS)
    database.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY,
    )


def require_one_condition(where: str) -> None:
    """Raise InputError if a filter is empty, too long, or more than one condition."""
    if not where.strip():
        raise InputError("where: the condition is empty. Write one such as \"source = 'x'\", or leave it out.")
    if len(where) > MAX_FILTER_CHARS:
        raise InputError(f"where: has {len(where):,} characters, but may have at most {MAX_FILTER_CHARS:,}.")
    code = _QUOTED.sub("x", where)
    # Without these, the text stays one condition wherever it is put into a statement.
    depth = lowest = 0
    for character in code:
        depth += {"(": 1, ")": -1}.get(character, 0)
        lowest = min(lowest, depth)
    if "\0" in where or lowest < 0 or any(mark in code for mark in _FORBIDDEN):
        raise InputError(
            "where: is not one condition. Leave out ';', comments and parameters ('?', ':name'), and close each "
            "parenthesis and quotation."
        )


def filter_error(where: str, index: str, reason: str, columns: tuple[str, ...]) -> InputError:
    """Return the error of a condition that an index refuses."""
    shown = where if len(where) <= 80 else f"{where[:80]}…"
    return InputError(
        f'where: "{shown}" does not work in {index} ({reason.rstrip(".")}). Columns: {", ".join(columns)}.'
    )
