"""Divide documents into train, val and ood: always by document, never by window.

A fraction is drawn by a hash of the document's id, so adding documents does not move others. Rules apply in this order:
lists of ids, ranges of ids, sources, fractions. Two rules of one kind may not claim a document for different splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nextvec.errors import StoreError

SPLITS = ("train", "val", "ood")
MIN_GROUPS = 20
"""Number of independent groups of documents in a split below which a bootstrap interval is unreliable."""


def count_groups(groups: int) -> str:
    """Return the number of independent groups of documents as text. Documents of one book are not independent."""
    return f"{groups:,} independent group{'' if groups == 1 else 's'} (documents of one book or with equal vectors)"


@dataclass(frozen=True)
class SplitPlan:
    """How documents are divided; documents that no rule claims are `train`. Raises StoreError if rules contradict.

    If a document has a group (a chapter's book), the group's name takes the place of its id, so that a group is never
    divided.
    """

    val: float = 0.1
    """Fraction, for val, of the documents that no other rule claims."""
    ood: float = 0.0
    """The same for ood."""
    val_sources: tuple[str, ...] = ()
    ood_sources: tuple[str, ...] = ()
    val_ids: frozenset[str] = frozenset()
    ood_ids: frozenset[str] = frozenset()
    val_range: tuple[str, str] | None = None
    """First and last id, both included. Numbers are compared by value and come before other ids."""
    ood_range: tuple[str, str] | None = None
    allow_unknown_ids: bool = False
    """Whether `val_ids` and `ood_ids` may contain ids of no document; see `id_lists.require_known_ids`."""

    def __post_init__(self) -> None:
        if not (0 <= self.val < 1 and 0 <= self.ood < 1 and self.val + self.ood < 1):
            raise StoreError(
                f"split fractions: val={self.val:g} and ood={self.ood:g} must be at least 0 and sum to less than 1."
            )
        for name, val_rules, ood_rules in (
            ("documents", self.val_ids, self.ood_ids),
            ("sources", self.val_sources, self.ood_sources),
        ):
            if "" in (*val_rules, *ood_rules):
                raise StoreError(f"splits: one of the {name} has an empty name. Name it, or leave it out.")
            if both := sorted(set(val_rules) & set(ood_rules)):
                more = f", … ({len(both):,} in all)" if len(both) > 3 else ""
                raise StoreError(
                    f"splits: {name} {', '.join(both[:3])}{more} are in both val and ood. Keep each in one."
                )
        for bounds in (self.val_range, self.ood_range):
            if bounds is not None and "" in bounds:
                raise StoreError("split range: an id is empty. Write the first and the last id.")
            if bounds is not None and _key(bounds[0]) > _key(bounds[1]):
                raise StoreError(f"split range {bounds[0]}..{bounds[1]}: is empty. Write the smaller id first.")
        # Two ranges overlap if one of them contains the first id of the other.
        val, ood = self.val_range, self.ood_range
        if val and ood and (_inside(val[0], ood) or _inside(ood[0], val)):
            raise StoreError("splits: the id ranges of val and ood overlap. Separate them.")

    def split_of(self, key: str, source: str) -> str:
        """Return the split of the document (or group) with the id `key`."""
        # From the most specific rule to the most general.
        if key in self.val_ids:
            return "val"
        if key in self.ood_ids:
            return "ood"
        if self.val_range and _inside(key, self.val_range):
            return "val"
        if self.ood_range and _inside(key, self.ood_range):
            return "ood"
        if source in self.val_sources:
            return "val"
        if source in self.ood_sources:
            return "ood"
        # val takes the low end of [0, 1), ood what follows: raising `val` never moves a document out of val.
        share = hash_share(key)
        return "val" if share < self.val else "ood" if share < self.val + self.ood else "train"

    def to_dict(self) -> dict[str, object]:
        """Return plain values for the manifest; lists of ids become their length."""
        return {
            "val": self.val,
            "ood": self.ood,
            "val_sources": list(self.val_sources),
            "ood_sources": list(self.ood_sources),
            "val_ids": len(self.val_ids),
            "ood_ids": len(self.ood_ids),
            "val_range": list(self.val_range) if self.val_range else None,
            "ood_range": list(self.ood_range) if self.ood_range else None,
            "allow_unknown_ids": self.allow_unknown_ids,
        }


def assign_splits(keys: Sequence[str], sources: Sequence[str], plan: SplitPlan) -> list[str]:
    """Return the split of each document, in order. A key is the document's group if it has one, else its id.

    Raises StoreError if the documents of a group would be in different splits, because they have different sources.
    """
    splits = [plan.split_of(key, source) for key, source in zip(keys, sources, strict=True)]
    # All documents of a group have its key, but rules by source may still separate them.
    split_by_key: dict[str, str] = {}
    for key, split in zip(keys, splits, strict=True):
        if split_by_key.setdefault(key, split) != split:
            raise StoreError(
                f"group '{key}': would be in {split_by_key[key]} and {split}. Keep its documents in one source."
            )
    return splits


def hash_share(document_id: str) -> float:
    """Return a number in [0, 1) that depends on the id alone."""
    digest = hashlib.blake2b(document_id.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _key(text: str) -> tuple[int, int, str]:
    """Return the sort key of an id: numbers by value and before other ids."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _inside(document_id: str, bounds: tuple[str, str]) -> bool:
    return _key(bounds[0]) <= _key(document_id) <= _key(bounds[1])
