"""Recognize which members of an .npz file hold what: names of contexts, targets, vectors and labels.

    context_sequences, target_vectors           windows (also contexts and targets, and with --columns any names)
    train_context_sequences, val_… , ood_…      windows of several splits in one file
    vectors, article_ids, chunk_index           a table: one row per chunk, with its document and its place in it

A label is the document of a window or row: article_index, article_ids and similar names, or entries of `metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nextvec.data.npz.format import ARTICLES, CONTEXTS, TARGETS, Member
from nextvec.data.splits import SPLITS
from nextvec.errors import StoreError, did_you_mean

Roles = dict[str, str]
"""Name of the member of each role."""

NAMES: dict[str, tuple[str, ...]] = {
    "context": (CONTEXTS, "contexts", "context", "context_vectors"),
    "target": (TARGETS, "targets", "target", "target_sequences"),
    "document": (
        ARTICLES,
        "article_ids",
        "article_id",
        "article_indices",
        "document_ids",
        "document_index",
        "document",
        "documents",
        "doc_ids",
    ),
    "vectors": ("vectors", "embeddings"),
    "chunk": ("chunk_index", "chunk_indices", "chunk_ids", "chunk_id", "chunk"),
    "metadata": ("metadata",),
}
"""Names of each role, the most specific first. `--columns` replaces them."""

PREFIXES = {"train": ("train_",), "val": ("val_", "validation_"), "ood": ("ood_",)}
"""Prefixes of members that belong to a split."""

_EXPLICIT_ROLES = ("context", "target", "document", "vectors", "chunk")
_WINDOWS, _TABLE = ("context", "target"), ("vectors", "document")


def parse_columns(assignments: Sequence[str]) -> Roles:
    """Return the roles that `--columns` assigns.

    Windows have context=NAME target=NAME document=NAME, a table vectors=NAME document=NAME chunk=NAME. Raises
    StoreError for an assignment that is malformed or names an unknown role.
    """
    roles: Roles = {}
    for assignment in assignments:
        role, equals, name = assignment.partition("=")
        if not equals or not name:
            raise StoreError(f"column '{assignment}': has no name. Write it as role=NAME, such as context=contexts.")
        if role not in _EXPLICIT_ROLES:
            raise StoreError(
                f"column '{assignment}': role '{role}' is unknown.{did_you_mean(role, _EXPLICIT_ROLES)} "
                f"The roles are {', '.join(_EXPLICIT_ROLES)}."
            )
        if role in roles:
            raise StoreError(f"column '{assignment}': {role} already is {roles[role]}. Name one member per role.")
        roles[role] = name
    return roles


def find_roles(path: Path, members: Mapping[str, Member], columns: Roles, split: str) -> dict[str, Roles]:
    """Return the roles of a file's members for each of its splits.

    A file without split prefixes is all of `split`. Of a file with prefixes, `train` takes all splits, and val and ood
    take their own, or the only one. Raises StoreError with the members and the --columns to use if there are no
    windows and no table.
    """
    for role, name in columns.items():
        if name not in members:
            raise StoreError(
                f"{path}: has no member {name} (--columns {role}={name}). Its members are {_list_forms(members)}."
            )
    plain = _find(members, "") | columns
    if _is_complete(plain):
        return {split: plain}
    # Members of several splits in one file.
    prefixed = {
        name: roles
        for name, prefixes in PREFIXES.items()
        for prefix in prefixes
        if _is_complete(roles := _find(members, prefix) | columns)
    }
    if split in prefixed and split != "train":
        return {split: prefixed[split]}
    if split == "train" and "train" in prefixed:
        return {name: prefixed[name] for name in SPLITS if name in prefixed}
    if len(prefixed) == 1:
        return {split: next(iter(prefixed.values()))}
    if prefixed:
        raise StoreError(f"{path}: has windows of {', '.join(prefixed)}, but none of {split}. Name a file of {split}.")
    raise StoreError(_describe_unknown(path, members, plain))


def _find(members: Mapping[str, Member], prefix: str) -> Roles:
    """Return the member of each role among the members with a prefix."""
    roles = {}
    for role, names in NAMES.items():
        name = next((f"{prefix}{name}" for name in names if f"{prefix}{name}" in members), None)
        if name is not None:
            roles[role] = name
    return roles


def _is_complete(roles: Roles) -> bool:
    return set(_WINDOWS) <= set(roles) or set(_TABLE) <= set(roles)


def _describe_unknown(path: Path, members: Mapping[str, Member], roles: Roles) -> str:
    """Return the message for a file without windows: its members, and a --columns that would fit their shapes."""
    if not members:
        return f"{path}: has no member {CONTEXTS} and {TARGETS} (members: none). Name a file of windows."
    if "vectors" in roles and "context" not in roles and "target" not in roles:
        return (
            f"{path}: {roles['vectors']} has no documents: there is no member article_ids (members: "
            f"{_list_forms(members)}). Add the document of each row, or name its member with --columns document=NAME."
        )
    missing = [name for role, name in (("context", CONTEXTS), ("target", TARGETS)) if role not in roles]
    columns = _suggest(members, roles)
    return (
        f"{path}: has no member {' and '.join(missing)} (members: {_list_forms(members)}). "
        f"Name them: nextvec data import {path.name} --out STORE --columns {columns}"
    )


def _suggest(members: Mapping[str, Member], roles: Roles) -> str:
    """Return the --columns for members whose shapes fit windows; NAME for a role that no member fits."""
    numbers = {name: member.shape for name, member in members.items() if member.dtype.kind == "f"}
    context = roles.get("context") or next((name for name, shape in numbers.items() if len(shape) == 3), None)
    # The target has one row per window, and the fewest axes.
    rows = members[context].shape[:1] if context else None
    others = [name for name, shape in numbers.items() if name != context and len(shape) >= 2]
    fitting = sorted(
        (name for name in others if rows in (None, numbers[name][:1])), key=lambda name: len(numbers[name])
    )
    target = roles.get("target") or next(iter(fitting), None)
    return f"context={context or 'NAME'} target={target or 'NAME'}"


def _list_forms(members: Mapping[str, Member]) -> str:
    """Return every member with its shape and dtype, at most 12 of them."""
    forms = [member.form for _, member in sorted(members.items())]
    rest = f", and {len(forms) - 12} more" if len(forms) > 12 else ""
    return "; ".join(forms[:12]) + rest
