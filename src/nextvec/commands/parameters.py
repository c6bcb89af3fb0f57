"""Parameter types of the commands: what the Python function accepts, and what the command line shows and parses."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from cyclopts import Parameter

from nextvec.core.streams import surviving_hangup, surviving_streams

if TYPE_CHECKING:
    from nextvec.core.overrides import Overrides as Overrides
    from nextvec.recipe import RecipeLike as RecipeLike

    Names = str | Sequence[str]
    Paths = str | Path | Sequence[str | Path]
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


def command(*, by_name: Sequence[str] = (), outlives_terminal: bool = True) -> Callable[[Function], Function]:
    """Prepare a public function for the command line and for Python.

    Its display never ends it: failing writes to the standard streams are dropped, and with `outlives_terminal` a closed
    terminal (SIGHUP) is ignored. The command line takes the parameters `by_name` by their name only.
    """

    def decorate(function: Function) -> Function:
        # cyclopts resolves every annotation of a command. Result types are imported for type checkers only, because
        # they would load numpy or torch before a help text.
        function.__annotations__.pop("return", None)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with surviving_streams(), surviving_hangup() if outlives_terminal else nullcontext():
                return function(*args, **kwargs)

        if by_name:
            signature = inspect.signature(function)
            parameters = [
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) if parameter.name in by_name else parameter
                for parameter in signature.parameters.values()
            ]
            run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(Function, run)

    return decorate


def as_texts(values: Paths | Names) -> tuple[str, ...]:
    """Return paths or names as texts: a single one, or each of a sequence."""
    return (str(values),) if isinstance(values, str | Path) else tuple(map(str, values))
