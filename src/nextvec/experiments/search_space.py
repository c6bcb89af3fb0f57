"""What a sweep may change: fields of a recipe and the values that each may take.

training.lr=1e-4..1e-2:log       numbers between two ends, evenly on a log scale
model.dropout=0..0.5             numbers between two ends
training.epochs=2..8             whole numbers, where both ends are
training.batch_size=128,256,512       one of these
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.errors import RecipeError


@dataclass(frozen=True)
class Dimension:
    """One field of a recipe and what it may be."""

    field: str
    choices: tuple[str, ...] = ()
    """The values as an override writes them; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Whether only whole numbers are meant."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Overrides that reach every end of it: if these make good recipes, so does what lies between."""
        values = self.choices or tuple(self.spell(end) for end in (self.low, self.high))
        return tuple(f"{self.field}={value}" for value in values)

    def spell(self, value: float) -> str:
        """A number of the range as an override writes it."""
        return str(int(value)) if self.whole else repr(float(value))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"choices": list(self.choices)}


def parse_space(words: Sequence[str]) -> tuple[Dimension, ...]:
    """The dimensions that `words` describe. Raises RecipeError for what is none, names no field, or one twice."""
    if not words:
        raise RecipeError("a sweep needs a space; name at least one field, such as --space training.lr=1e-4..1e-2:log")
    space = tuple(_parse(word) for word in words)
    fields = [dimension.field for dimension in space]
    if twice := next((field for field in fields if fields.count(field) > 1), None):
        raise RecipeError(f"space: {twice} is named twice; give each field once")
    return space


def _parse(word: str) -> Dimension:
    field, equals, values = word.partition("=")
    if not equals or "." not in field or not values:
        raise RecipeError(f"space '{word}': write field=low..high, field=low..high:log or field=a,b,c")
    if ".." not in values:
        choices = tuple(choice.strip() for choice in values.split(","))
        if len(set(choices)) < 2 or not all(choices):
            raise RecipeError(f"space '{word}': name at least two different values, or a range low..high")
        return Dimension(field, choices)
    bounds, _, scale = values.partition(":")
    if scale not in ("", "log"):
        raise RecipeError(f"space '{word}': '{scale}' is no scale; write :log, or leave it out")
    ends = bounds.split("..")
    try:
        low, high = (float(end) for end in ends)
    except ValueError as error:
        raise RecipeError(f"space '{word}': both ends of a range must be numbers, such as 1e-4..1e-2") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(f"space '{word}': the first end must be below the second, both finite")
    if scale and low <= 0:
        raise RecipeError(f"space '{word}': a log scale begins above zero")
    return Dimension(field, (), low, high, bool(scale), all(end.strip().lstrip("+-").isdigit() for end in ends))
