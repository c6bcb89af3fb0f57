"""Parameter types of the commands: what the Python function accepts, and what the command line shows and parses."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

from cyclopts import Parameter

from nextvec.core.paths import expand_path
from nextvec.core.streams import surviving_hangup, surviving_streams
from nextvec.core.urls import has_one_slash, is_url, mask_url
from nextvec.errors import InputError

PATH = "path"
"""Marks a type of path: commands expand ``~`` in it and refuse an empty one."""
LOCAL = "local"
"""Marks a type of path on this machine: commands refuse a URL, which would become folders named ``s3:``."""

if TYPE_CHECKING:
    from nextvec.core.overrides import Overrides as Overrides
    from nextvec.recipe import RecipeLike as RecipeLike

    Names = str | Sequence[str]
    Trackers = str | Sequence[str]
    Paths = str | Path | Sequence[str | Path]
else:
    # The command line passes text only. A union with Recipe would also make cyclopts import pydantic.
    RecipeLike = Annotated[str, Parameter(metavar="RECIPE"), PATH]
    Overrides = Annotated[tuple[str, ...], Parameter(metavar="FIELD=VALUE...")]
    Names = Annotated[tuple[str, ...], Parameter(metavar="NAME...")]
    # Repeated, one name each time: a list would take the recipe that follows for a tracker.
    Trackers = Annotated[
        tuple[str, ...], Parameter(metavar="{tensorboard,trackio,wandb,mlflow}", consume_multiple=False)
    ]
    Paths = Annotated[tuple[str, ...], Parameter(metavar="PATH..."), PATH]

Folder = Annotated[str | Path, Parameter(metavar="FOLDER"), PATH, LOCAL]
File = Annotated[str | Path, Parameter(metavar="FILE"), PATH, LOCAL]
Run = Annotated[str | Path, Parameter(metavar="RUN"), PATH, LOCAL]
Data = Annotated[str | Path, Parameter(metavar="STORE"), PATH]
"""A store by its folder or URL, or an .npz file of windows."""
EncoderName = Annotated[str | Path, Parameter(metavar="ENCODER"), PATH]
"""A name, or the folder of a model."""
Device = Annotated[str, Parameter(metavar="{auto,cpu,cuda,mps}")]
"""Not a closed list: ``cuda:1`` is a device, too."""
Engine = Literal["local", "ray"]
"""What runs the work: processes of this machine, or a Ray cluster."""
RayAddress = Annotated[str, Parameter(metavar="ADDRESS")]
"""auto or HOST:PORT; empty for the one of RAY_ADDRESS, or a cluster on this machine."""

Function = TypeVar("Function", bound=Callable[..., Any])


def command(*, by_name: Sequence[str] = (), outlives_terminal: bool = True) -> Callable[[Function], Function]:
    """Prepare a public function for the command line and for Python.

    ``~`` is expanded in its paths, and an empty path is refused. Its display never ends it: failing writes to the
    standard streams are dropped, and with `outlives_terminal` a closed terminal (SIGHUP) is ignored. The command line
    takes the parameters `by_name` by their name only.
    """

    def decorate(function: Function) -> Function:
        # cyclopts resolves every annotation of a command. Result types are imported for type checkers only, because
        # they would load numpy or torch before a help text.
        function.__annotations__.pop("return", None)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _expand_paths(function, args, kwargs)
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


def path_parameters(function: Callable[..., Any], mark: str = PATH) -> frozenset[str]:
    """Return the names of a command's parameters that are paths, or of those that have another mark."""
    hints = get_type_hints(function, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _is_marked(hint, mark))


def _is_marked(hint: Any, mark: str) -> bool:
    """Return whether a type, or a member of a union, has a mark."""
    return mark in getattr(hint, "__metadata__", ()) or any(_is_marked(member, mark) for member in get_args(hint))


def _expand_paths(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with expanded paths. Raises InputError for an empty one, or a URL out of place."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return args, kwargs  # the call itself reports missing or unknown arguments
    for name in path_parameters(function) & bound.arguments.keys():
        bound.arguments[name] = expand_path(bound.arguments[name], name)
    for name in path_parameters(function, LOCAL) & bound.arguments.keys():
        value = bound.arguments[name]
        if isinstance(value, str | Path) and (is_url(value) or has_one_slash(str(value))):
            raise InputError(
                f"{name} {mask_url(str(value))}: is a URL. Name a folder or file of this machine; "
                "'nextvec data copy' copies a store to a URL."
            )
    return bound.args, bound.kwargs


def as_texts(values: Paths | Names) -> tuple[str, ...]:
    """Return paths or names as texts: a single one, or each of a sequence."""
    return (str(values),) if isinstance(values, str | Path) else tuple(map(str, values))
