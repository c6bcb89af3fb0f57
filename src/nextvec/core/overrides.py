"""Overrides of a recipe, as Python and the command line write them.

They are here and not in `nextvec.recipe`, which imports pydantic: a help text must not load it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w

Overrides: TypeAlias = Mapping[str, Any] | Sequence[str]
"""Changes to a recipe: ``{"training.epochs": 3}`` or ``["training.epochs=3"]``."""


def override_lines(overrides: Overrides) -> tuple[str, ...]:
    """Return overrides as lines ``section.field=value``.

    A dict may be flat, ``{"training.epochs": 3}``, or nested, ``{"training": {"epochs": 3}}``.
    """
    if isinstance(overrides, str):
        return (overrides,)
    if not isinstance(overrides, Mapping):
        return tuple(overrides)
    lines: list[str] = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            # A section: its fields get the section's name in front.
            lines += override_lines({f"{name}.{field}": inner for field, inner in value.items()})
        else:
            # Values are written as TOML, so that the text "7" is not read back as a number.
            text = tomli_w.dumps({"value": str(value) if isinstance(value, Path) else value})
            lines.append(f"{name}={text.partition('=')[2].strip()}")
    return tuple(lines)
