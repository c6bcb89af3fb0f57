"""Parameter types of the commands: what the Python function accepts, and what the command line shows and parses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

if TYPE_CHECKING:
    from nextvec.core.overrides import Overrides as Overrides
    from nextvec.recipe import RecipeLike as RecipeLike

    Names = Sequence[str]
    Paths = Sequence[str | Path]
else:
    # The command line passes text only. A union with Recipe would also make cyclopts import pydantic.
    RecipeLike = Annotated[str, Parameter(metavar="RECIPE")]
    Overrides = Annotated[tuple[str, ...], Parameter(metavar="FIELD=VALUE...")]
    Names = Annotated[tuple[str, ...], Parameter(metavar="NAME...")]
    Paths = Annotated[tuple[str, ...], Parameter(metavar="PATH...")]

Folder = Annotated[str | Path, Parameter(metavar="FOLDER")]
File = Annotated[str | Path, Parameter(metavar="FILE")]
Run = Annotated[str | Path, Parameter(metavar="RUN")]
Data = Annotated[str | Path, Parameter(metavar="STORE")]
"""A store, or an .npz file of windows."""
Device = Annotated[str, Parameter(metavar="{auto,cpu,cuda,mps}")]
"""Not a closed list: ``cuda:1`` is a device, too."""

Function = TypeVar("Function", bound=Callable[..., Any])


def command(function: Function) -> Function:
    """Prepare a public function for the command line: drop the type of its result.

    cyclopts resolves every annotation of a command. Result types are imported for type checkers only, because they
    would load numpy or torch before a help text.
    """
    function.__annotations__.pop("return", None)
    return function
