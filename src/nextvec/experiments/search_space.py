"""Search spaces of sweeps: recipe fields and the values to try.

training.lr=1e-4..1e-2:log        log-uniform between two bounds
model.dropout=0..0.5              uniform between two bounds
training.epochs=2..8              integers, if both bounds are integers
training.batch_size=128,256,512   one of these values
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.errors import RecipeError


@dataclass(frozen=True)
class Dimension:
    """A recipe field and its range or choices."""

    field: str
    choices: tuple[str, ...] = ()
    """Values in override syntax; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    """Whether only integers are sampled."""

    @property
    def bounds(self) -> tuple[str, ...]:
        """Overrides for both bounds or all choices; if the recipe accepts them, it accepts every value between."""
        values = self.choices or (self.low, self.high)
        return tuple(f"{self.field}={self.to_text(value)}" for value in values)

    def to_text(self, value: str | float) -> str:
        """Return a value in override syntax."""
        if isinstance(value, str):
            return value
        return str(int(value)) if self.integer else repr(float(value))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self) | {"choices": list(self.choices)}


def parse_space(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """Return the dimensions of a search space. Raises RecipeError if a text is malformed or a field is repeated."""
    if not texts:
        raise RecipeError("--space: missing. Name at least one field, such as --space training.lr=1e-4..1e-2:log.")
    space = tuple(_parse(text) for text in texts)
    fields = [dimension.field for dimension in space]
    if repeated := next((field for field in fields if fields.count(field) > 1), None):
        raise RecipeError(f"--space: {repeated} is repeated. Name each field once.")
    return space


def _parse(text: str) -> Dimension:
    """Return the dimension of one text."""
    field, equals, values = text.partition("=")
    # A recipe field has a section, hence the dot.
    if not equals or "." not in field or not values:
        raise RecipeError(f"--space '{text}': write field=low..high, field=low..high:log or field=a,b,c")

    # Choices: field=a,b,c. A single value would not be a search.
    if ".." not in values:
        choices = tuple(choice.strip() for choice in values.split(","))
        if len(set(choices)) < 2 or not all(choices):
            raise RecipeError(f"--space '{text}': name at least two different values, or a range low..high")
        return Dimension(field, choices)

    # Range: field=low..high, optionally followed by :log.
    bounds, _, scale = values.partition(":")
    if scale not in ("", "log"):
        raise RecipeError(f"--space '{text}': unknown scale '{scale}'. Write :log, or omit it.")
    limits = bounds.split("..")
    try:
        low, high = (float(limit) for limit in limits)
    except ValueError as error:
        raise RecipeError(f"--space '{text}': both bounds must be numbers, such as 1e-4..1e-2") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(f"--space '{text}': the bounds must be finite, and the first one below the second")
    if scale and low <= 0:
        raise RecipeError(f"--space '{text}': the bounds of a log scale must be above zero")
    # 2..8 samples integers, 2.0..8 does not.
    integer = all(limit.strip().lstrip("+-").isdigit() for limit in limits)
    return Dimension(field, (), low, high, bool(scale), integer)
