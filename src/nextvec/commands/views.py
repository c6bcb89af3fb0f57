"""How the command line shows the result of a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PIPE_WIDTH = 100
"""Columns of the output if it goes to a file or a pipe."""


def show(result: Any, *, as_json: bool) -> None:
    """Print a result on standard output, for people or as one JSON object."""
    if as_json:
        values = str(result) if isinstance(result, Path) else result.to_dict()
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    for part in _view(result):
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part, crop=False)  # a long path stays on one line


def _view(result: Any) -> Iterator[Any]:
    """Yield what rich prints for a result."""
    if hasattr(result, "__rich__"):
        yield result
        return
    match type(result).__name__:
        case "Store":
            yield from result.summary()
        case "SuiteResult" | "SweepResult":
            yield from result.lines
        case "GateSuggestion":
            yield result.toml
        case _:
            yield str(result)
