"""The command line: parses words into a verb's arguments, shows its result, and turns errors into one line.

    nextvec VERB … [--json]

Exit codes: 0 done, 1 a fault of nextvec itself, 2 bad input, 3 stopped by a gate, 4 not finite, 130 interrupted.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import sys
import typing
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nextvec.core.device import prepare_process
from nextvec.core.formatting import Status
from nextvec.errors import InputError, Interrupted, NextvecError, did_you_mean


class Verbs(UserDict[str, Any]):
    """Name → function. A verb's file is loaded when the verb is looked up, so that watching starts at once."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The function; ``{"data build": "data:data_build"}`` is where it stands."""
        if isinstance(self.data[name], str):
            module, _, function = self.data[name].partition(":")
            self.data[name] = getattr(import_module(f"nextvec.commands.{module}"), function)
        verb: Callable[..., Any] = self.data[name]
        return verb


VERBS = Verbs(
    {
        "demo": "train:demo",
        "data build": "data:data_build",
        "data import": "data:data_import",
        "data export": "data:data_export",
        "data check": "data:data_check",
        "data synth": "data:data_synth",
        "train": "train:train",
        "resume": "train:resume",
        "eval": "evaluate:eval",
        "diagnose": "evaluate:diagnose",
        "compare": "compare:compare",
        "leaderboard add": "compare:leaderboard_add",
        "leaderboard show": "compare:leaderboard_show",
        "plot": "compare:plot",
        "suite": "experiments:suite",
        "sweep": "experiments:sweep",
        "rehearse": "experiments:rehearse",
        "watch": "watch:watch",
        "gates suggest": "evaluate:gates_suggest",
    }
)

DESCRIPTION = (
    "Train, guard and judge latent vector models: networks that predict the embedding of a document's next chunk. "
    "Any verb takes --json to print its result for machines."
)

DEBUG = "NEXTVEC_DEBUG"
OVERRIDE = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")

WIDTH = 100
"""Columns of a table that goes to a file or a pipe."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    prepare_process()
    arguments = list(sys.argv[1:] if words is None else words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that is no UTF-8 must not end a message half said
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in arguments
    arguments = [word for word in arguments if word != "--json"]
    try:
        result = _dispatch(arguments)
        _show(result, as_json=as_json)
        return _exit_code(result)
    except NextvecError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", Interrupted.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone: nothing left to say
        return 0
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        reason = " ".join(str(error).split())[:300]
        return _fail(
            f"this is a fault of nextvec, please report it: {type(error).__name__}: {reason} (set {DEBUG}=1 for more)",
            1,
        )


def _exit_code(result: Any) -> int:
    """A verb's own exit code, such as that of a suite in which a run was stopped.

    A data check that ends in red is an answer, but not one to go on from: `check && train` must stop there.
    """
    red = getattr(result, "status", None) == Status.RED
    return int(getattr(result, "exit_code", InputError.exit_code if red else 0))


def _dispatch(arguments: list[str]) -> Any:
    """Call the verb that the words name, and return its result. Wrong words end the process with code 2."""
    named = next((name for name in VERBS if arguments[: len(name.split())] == name.split()), None)
    if named is not None:
        verb, words = VERBS[named], arguments[len(named.split()) :]
        plain = _read_plainly(verb, words)
        if plain is not None:
            return verb(*plain[0], **plain[1])
        import tyro

        return tyro.cli(_without_result_hint(verb), prog=f"nextvec {named}", args=_overrides_first(verb, words))
    import tyro

    group = f"{arguments[0]} " if arguments else ""
    in_reach = [name for name in VERBS if group and name.startswith(group)]
    if in_reach:
        told = bool(arguments[1:2]) and not arguments[1].startswith("-")
        arguments = [" ".join(arguments[:2]), *arguments[2:]] if told else arguments[1:]
    in_reach = in_reach or list(VERBS)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in in_reach:
        raise InputError(f"'{arguments[0]}' is no verb.{did_you_mean(arguments[0], in_reach)}")
    verbs_in_reach = {name: _without_result_hint(VERBS[name]) for name in in_reach}
    return tyro.extras.subcommand_cli_from_dict(verbs_in_reach, prog="nextvec", description=DESCRIPTION, args=arguments)


def _read_plainly(verb: Callable[..., Any], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a verb that takes paths, flags, numbers and words only; None where tyro has to read them.

    tyro takes longer to load than a log to read. What this doesn't understand (help, wrong words) is left to tyro.
    """
    parameters = inspect.signature(verb).parameters.values()
    paths = [item for item in parameters if item.kind is not item.KEYWORD_ONLY]
    options = {f"--{item.name.replace('_', '-')}": item for item in parameters if item.kind is item.KEYWORD_ONLY}
    known = all(type(item.default) in (bool, int, float, str) for item in options.values())
    if [item.default for item in paths] != [()] or not known:
        return None
    given: list[str] = []
    chosen: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        option = options.get(word)
        if option is None:
            if word.startswith("-"):
                return None
            given.append(word)
        elif isinstance(option.default, bool):
            chosen[option.name] = True
        else:
            try:
                chosen[option.name] = type(option.default)(next(rest))
            except (ValueError, StopIteration):
                return None
    return [tuple(given)], chosen


def _overrides_first(verb: Callable[..., Any], words: list[str]) -> list[str]:
    """The words with overrides such as `training.epochs=3` before the options, where tyro takes them.

    An override that follows an option with a value is that value. Where an option takes several, nothing is moved.
    """
    parameters = inspect.signature(verb).parameters
    options = [item for item in parameters.values() if item.kind is item.KEYWORD_ONLY]
    several = any(isinstance(item.default, tuple) for item in options)
    if "overrides" not in parameters or several or not words or words[0].startswith("-"):
        return words
    flags = {f"--{item.name.replace('_', '-')}" for item in options if isinstance(item.default, bool)}
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    moved: list[str] = []
    rest: list[str] = []
    for before, word in zip(words[first - 1 :], words[first:], strict=False):
        is_value = before.startswith("--") and "=" not in before and before not in flags
        (moved if OVERRIDE.match(word) and not is_value else rest).append(word)
    return [*words[:first], *moved, *rest]


def _without_result_hint(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb without the type of its result, which tyro would look up: that would load torch to print a help text."""

    def call(*words: Any, **options: Any) -> Any:
        return verb(*words, **options)

    call.__doc__ = verb.__doc__
    call.__name__ = verb.__name__
    call.__annotations__ = {name: hint for name, hint in verb.__annotations__.items() if name != "return"}
    from tyro.conf import Positional

    known = {**verb.__globals__, "Positional": Positional}  # a verb that must start at once doesn't load tyro
    call.__annotations__ = typing.get_type_hints(call, known, include_extras=True)
    signature = inspect.signature(verb)
    parameters = [item.replace(annotation=call.__annotations__[name]) for name, item in signature.parameters.items()]
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=signature.empty
    )
    return call


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"nextvec: {message}\n")
    return code


def _show(result: Any, *, as_json: bool) -> None:
    """Print a verb's result on standard output: for people, or as one JSON object."""
    from rich.console import Console

    if as_json:
        sys.stdout.write(json.dumps(_plain(result), ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for part in _views(result):
        console.print(part, markup=False, soft_wrap=True) if isinstance(part, str) else console.print(part)


def _plain(result: Any) -> Any:
    """A verb's result as plain values."""
    return str(result) if isinstance(result, Path) else result.to_dict()


def _views(result: Any) -> Iterator[Any]:
    """A verb's result as things that rich prints."""
    if type(result).__name__ == "WatchedRuns":
        yield result.view()
        return
    from nextvec.reports import tables as table  # loads the judgement's types

    match type(result).__name__:
        case "TrainedRun":
            from nextvec.experiments.single_run import REPORT_FILE

            yield table.evaluation_view(result.evaluation)
            yield table.diagnoses_view(result.diagnoses)
            yield from result.success.lines(result.evaluation.verdict.status)
            yield f"run: {result.path}"
            yield f"report: {result.path / REPORT_FILE}"
        case "Evaluation":
            yield table.evaluation_view(result)
        case "CheckReport":
            yield table.check_view(result)
        case "Store":
            from nextvec.data.store import store_lines  # loads numpy

            yield from store_lines(result)
        case "Diagnoses":
            yield table.diagnoses_view(result)
        case "Comparison":
            from nextvec.reports.comparison import comparison_view

            yield comparison_view(result)
        case "Leaderboard":
            yield result
        case "SuiteResult" | "SweepResult":
            yield from result.lines
        case "GateSuggestion":
            yield result.toml
        case _:
            yield str(result)
