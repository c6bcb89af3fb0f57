"""Splits: which documents are train, val and ood. Always by document, never by window.

A fraction is taken by a hash of the document's id, so that adding documents moves nobody. Rules are tried in this
order: lists of ids, ranges of ids, sources, fractions; a document that two rules of the same kind claim for different
splits is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nextvec.errors import StoreError

SPLITS = ("train", "val", "ood")


@dataclass(frozen=True)
class SplitPlan:
    """How documents are divided; whatever no rule claims is `train`.

    `val_ids` and `ood_ids` list document ids; `val_range` and `ood_range` are first and last id, both included,
    numbers compared by value and before texts; `val_sources` and `ood_sources` name sources; `val` and `ood` are
    fractions of the documents that no other rule claims. Where a document has a group (a chapter's book), the group's
    name takes the place of its id, so that a group is never divided.
    """

    val: float = 0.1
    ood: float = 0.0
    val_sources: tuple[str, ...] = ()
    ood_sources: tuple[str, ...] = ()
    val_ids: frozenset[str] = frozenset()
    ood_ids: frozenset[str] = frozenset()
    val_range: tuple[str, str] | None = None
    ood_range: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.val < 1 and 0 <= self.ood < 1 and self.val + self.ood < 1):
            raise StoreError(f"split fractions val={self.val:g} and ood={self.ood:g}: each from 0 up, together below 1")
        for name, one, other in (
            ("documents", self.val_ids, self.ood_ids),
            ("sources", self.val_sources, self.ood_sources),
        ):
            both = sorted(set(one) & set(other))
            if both:
                raise StoreError(
                    f"splits overlap: {name} {', '.join(both[:3])} are in both val and ood; keep each in one"
                )
        for bounds in (self.val_range, self.ood_range):
            if bounds is not None and _key(bounds[0]) > _key(bounds[1]):
                raise StoreError(f"split range {bounds[0]}..{bounds[1]} is empty; write the smaller id first")
        if self.val_range and self.ood_range and _overlap(self.val_range, self.ood_range):
            raise StoreError("splits overlap: the id ranges of val and ood share ids; keep them apart")

    def split_of(self, key: str, source: str) -> str:
        """The split of the document (or group) of that id."""
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
        share = hash_share(key)
        return "val" if share < self.val else "ood" if share < self.val + self.ood else "train"

    def to_dict(self) -> dict[str, object]:
        """Plain values for the manifest; long id lists become their count."""
        return {
            "val": self.val,
            "ood": self.ood,
            "val_sources": list(self.val_sources),
            "ood_sources": list(self.ood_sources),
            "val_ids": len(self.val_ids),
            "ood_ids": len(self.ood_ids),
            "val_range": list(self.val_range) if self.val_range else None,
            "ood_range": list(self.ood_range) if self.ood_range else None,
        }


def assign_splits(keys: Sequence[str], sources: Sequence[str], plan: SplitPlan) -> list[str]:
    """The split of each document, in order. A key is the document's group where it has one, else its id.

    Raises StoreError if a group's documents would fall into different splits (a group over several sources).
    """
    splits = [plan.split_of(key, source) for key, source in zip(keys, sources, strict=True)]
    split_by_key: dict[str, str] = {}
    for key, split in zip(keys, splits, strict=True):
        if split_by_key.setdefault(key, split) != split:
            raise StoreError(f"'{key}' would be in {split_by_key[key]} and {split}; keep its documents in one source")
    return splits


def hash_share(document_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    digest = hashlib.blake2b(document_id.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _key(text: str) -> tuple[int, int, str]:
    """Sort key of an id: numbers by value and before texts."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _inside(document_id: str, bounds: tuple[str, str]) -> bool:
    return _key(bounds[0]) <= _key(document_id) <= _key(bounds[1])


def _overlap(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return _key(one[0]) <= _key(other[1]) and _key(other[0]) <= _key(one[1])
