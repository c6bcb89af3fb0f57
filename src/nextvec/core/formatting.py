"""The stoplight status of every check and verdict, and how it is shown.

A status always differs in shape as well as in color, for readers who cannot distinguish red from green.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Status(StrEnum):
    """Stoplight status, from the best to the worst. Equal to its name in JSON: `Status.RED == "red"`."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


STATUSES = tuple(Status)

SYMBOLS: dict[Status, str] = {Status.GREEN: "●", Status.AMBER: "▲", Status.RED: "■"}

COLORS: dict[Status, str] = {Status.GREEN: "green", Status.AMBER: "yellow", Status.RED: "red"}
"""Their colors in a terminal."""


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst status; green if there is none."""
    return max(statuses, key=STATUSES.index, default=Status.GREEN)
