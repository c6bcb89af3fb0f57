"""Lists of document ids, one per line, by which documents are assigned to val and ood."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from nextvec.data.readers.streams import read_text
from nextvec.data.splits import SplitPlan
from nextvec.errors import InputError, StoreError

_NAMED_IDS = 3
"""Number of ids that a message names."""


def read_id_list(path: str | Path) -> frozenset[str]:
    r"""Return the ids of a text file, one per line; none for an empty path. Blank lines are skipped.

    A byte of a file name that is not UTF-8 is written as in the document's id, ``caf\xe9.txt``. Raises CorpusError if
    the file cannot be read or is not UTF-8 (nor UTF-16 with a byte order mark), InputError for an empty list or an id
    that is listed twice.
    """
    if not str(path):
        return frozenset()
    line_of_id: dict[str, int] = {}
    # Not splitlines, which also divides at characters that a file name may contain.
    lines = read_text(Path(path)).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        document_id = line.strip()
        if document_id and (first := line_of_id.setdefault(document_id, number)) != number:
            raise InputError(
                f"list {path}: lists '{document_id}' twice, in lines {first} and {number}. Remove one of them."
            )
    if not line_of_id:
        raise InputError(f"list {path}: has no ids. Write one document id per line, or leave the option out.")
    return frozenset(line_of_id)


def require_known_ids(plan: SplitPlan, documents: Iterable[tuple[str, str]]) -> None:
    """Raise StoreError if the plan lists an id that is neither an id nor a group of `documents`, (id, group) each.

    Also raises for an id whose document has a group, because only the group's name counts. Does nothing if the plan
    allows unknown ids.
    """
    listed = plan.val_ids | plan.ood_ids
    if not listed or plan.allow_unknown_ids:
        return
    keys: set[str] = set()
    grouped: dict[str, str] = {}
    for document_id, group in documents:
        keys.add(group or document_id)
        if group and document_id in listed:
            grouped[document_id] = group
    unknown = sorted(listed - keys)
    for document_id in unknown:
        if document_id in grouped:
            raise StoreError(
                f"list of ids: '{document_id}' belongs to the group '{grouped[document_id]}', which stays in one "
                "split. List the name of the group."
            )
    if unknown:
        examples = ", ".join(f"'{key}'" for key in islice(sorted(keys), _NAMED_IDS))
        raise StoreError(
            f"list of ids: {_enumerate(unknown)} {'is' if len(unknown) == 1 else 'are'} not in the sources, whose ids "
            f"are such as {examples}. Correct the list, or allow unknown ids with --allow-unknown-ids."
        )


def _enumerate(ids: list[str]) -> str:
    """Return the first ids and how many there are: "'a', 'b', 'c' and 7 more (10 ids)"."""
    named = ", ".join(f"'{document_id}'" for document_id in ids[:_NAMED_IDS])
    more = len(ids) - _NAMED_IDS
    return f"{named} and {more:,} more ({len(ids):,} ids)" if more > 0 else named
