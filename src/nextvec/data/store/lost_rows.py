"""Rows that a build or an import leaves out: counts by reason, and the share above which the input is refused.

A wrong column or a broken file loses most rows, and what is left may still train. So a loss is never only a warning:
below the limit it is reported and stored in the manifest, above it the input is refused with its reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nextvec.errors import InputError, StoreError

ALLOWED_SHARE = 0.01
"""Share of the rows that may be lost without an option. Real tables have a few broken rows; more has a cause."""


@dataclass(frozen=True)
class LostRows:
    """Rows that are left out for one reason."""

    name: str
    """Key in the manifest."""
    rows: int
    reason: str
    """What is wrong with them, to follow a number: "have a null vector"."""
    remedy: str


def require_share(allowed: float) -> None:
    """Raise InputError unless the allowed share is between 0 and 1."""
    if not 0 <= allowed <= 1:
        raise InputError(f"allow_lost_rows is {allowed:g}, but must be between 0 and 1, such as 0.05 for 5 %.")


def require_few_lost(where: str, unit: str, read: int, lost: Sequence[LostRows], allowed: float) -> None:
    """Raise StoreError if more than the share `allowed` of the `read` rows, or all of them, are lost.

    The message has the count of each reason, the remedy of the most frequent one, and the option that accepts the loss.
    """
    lost = sorted((loss for loss in lost if loss.rows), key=lambda loss: -loss.rows)
    count = sum(loss.rows for loss in lost)
    if not count or (count <= allowed * read and count < read):
        return
    reasons = ", ".join(f"{loss.rows:,} {loss.reason}" for loss in lost)
    accept = f" To continue without them, add --allow-lost-rows {_round_up(count / read):g}." if count < read else ""
    raise StoreError(
        f"{where}: {count:,} of {read:,} {unit} ({_percent(count / read)}) would be lost, but at most "
        f"{_percent(allowed)} may be: {reasons}. {lost[0].remedy}{accept}"
    )


def describe_lost(where: str, unit: str, read: int, lost: Sequence[LostRows]) -> list[str]:
    """Return a message with the count of each reason; an empty list if nothing is lost."""
    lost = [loss for loss in lost if loss.rows]
    if not lost:
        return []
    count = sum(loss.rows for loss in lost)
    reasons = ", ".join(f"{loss.rows:,} {loss.reason}" for loss in lost)
    return [f"{where}: {count:,} of {read:,} {unit} ({_percent(count / read)}) were left out: {reasons}"]


def lost_by_name(lost: Sequence[LostRows]) -> dict[str, int]:
    """Return the counts for the manifest."""
    return {loss.name: loss.rows for loss in lost if loss.rows}


def require_balance(where: str, read: int, stored: int, lost: int) -> None:
    """Raise RuntimeError, an internal error, unless every row that was read is stored or lost for a reason."""
    if read != stored + lost:
        raise RuntimeError(f"{where}: {read:,} rows were read, but {stored:,} are stored and {lost:,} left out")


def _percent(share: float) -> str:
    """Write a share with two digits, and never a loss of some rows as "0 %" or "100 %"."""
    percent = 100 * share
    if 0 < percent < 0.01 or 99.99 < percent < 100:
        return "less than 0.01 %" if percent < 1 else "more than 99.99 %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.4g} %"


def _round_up(share: float) -> float:
    """Round a share up to two digits, so that it allows the loss."""
    scale = 10.0 ** (1 - math.floor(math.log10(share)))
    return min(math.ceil(share * scale) / scale, 1.0)
