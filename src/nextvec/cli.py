"""The command line: parses a command, shows its result, and reports errors as one line.

    nextvec COMMAND … [--json] [--fail-on {amber,red}]

Exit codes: 0 done, 1 internal error, 2 bad input, 3 stopped by a gate or the sentinel, 4 non-finite, 5 a status that
--fail-on names, 130 interrupted. A red verdict or diagnosis is a result, so the code is 0 unless --fail-on is set. Data
that the check calls red are bad input.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

import nextvec
from nextvec.commands.original_flags import answer_original_flag
from nextvec.commands.usage import HelpFormatter, describe_usage_error
from nextvec.core.console import Console
from nextvec.core.files import append_lines
from nextvec.core.formatting import STATUSES, Status
from nextvec.core.process import is_follower, is_one_of_several, prepare_process
from nextvec.core.streams import is_stdout_closed_by_reader, protect_streams, stdout_failure
from nextvec.errors import InputError, Interrupted, NextvecError, escape_controls, one_line

COMMANDS = {
    "Get started": {"demo": "train:demo"},
    "Data": {
        "data build": "data:data_build",
        "data merge": "data:data_merge",
        "data import": "interchange:data_import",
        "data export": "interchange:data_export",
        "data check": "data:data_check",
        "data copy": "interchange:data_copy",
        "data cache": "interchange:data_cache",
        "data synth": "data:data_synth",
    },
    "Training": {
        "train": "train:train",
        "resume": "train:resume",
        "suite": "experiments:suite",
        "sweep": "experiments:sweep",
        "rehearse": "experiments:rehearse",
        "recipe list": "recipe:recipe_list",
        "recipe show": "recipe:recipe_show",
        "gates suggest": "evaluate:gates_suggest",
    },
    "Evaluation": {
        "watch": "watch:watch",
        "runs": "watch:runs",
        "eval": "evaluate:eval",
        "diagnose": "evaluate:diagnose",
        "compare": "compare:compare",
        "plot": "compare:plot",
        "leaderboard add": "compare:leaderboard_add",
        "leaderboard show": "compare:leaderboard_show",
        "benchmark run": "benchmark:benchmark_run",
        "benchmark tasks": "benchmark:benchmark_tasks",
        "benchmark add": "benchmark:benchmark_add",
        "benchmark show": "benchmark:benchmark_show",
    },
    "Use a model": {
        "index build": "index:index_build",
        "predict": "use:predict",
        "next": "use:next",
        "generate": "use:generate",
        "score": "use:score",
        "export": "share:export",
        "push": "share:push",
        "serve": "serve:serve",
    },
}
"""Heading in the help → command → module in `nextvec.commands` and function. A command is imported when it is used."""

GROUPS = {
    "data": "Build, import, export, copy, check and synthesize vector stores.",
    "recipe": "List and show recipes.",
    "index": "Build an index of a store in a vector database.",
    "gates": "Suggest gates for a recipe.",
    "leaderboard": "Add runs to the leaderboard, and show it.",
    "benchmark": "Run models and recipes on frozen tasks, and show the results side by side.",
}

DEBUG = "NEXTVEC_DEBUG"
"""Environment variable that turns the one line of an error into a traceback."""

PIPE_WIDTH = 100
"""Columns of the output if it goes to a file or a pipe."""

STORED_RESULTS = frozenset(
    (
        *(
            "data_build",
            "data_merge",
            "data_import",
            "data_export",
            "data_copy",
            "data_synth",
            "demo",
            "train",
            "resume",
            "suite",
            "sweep",
        ),
        *("rehearse", "plot", "leaderboard_add", "index_build", "benchmark_run", "benchmark_add"),
    )
)
"""Commands whose result is in files. The other commands have failed if it cannot be printed."""

SHARED_COMMANDS = frozenset(("train", "resume"))
"""Commands that several processes, started by torchrun, run together."""

STANDARD_INPUT = "/dev/stdin"
"""The source of text that is written `-` on the command line."""

STATUS_EXIT_CODE = 5
"""Exit code if the status of a result is as bad as `--fail-on` says, or worse."""

GLOBAL_OPTIONS = Group("Global options", sort_key=80)


def make_app() -> App:
    """Return the cyclopts app with every command."""
    app = App(
        name="nextvec",
        help="Train, guard and evaluate latent vector models: networks that predict the embedding of the next chunk.",
        version=lambda: nextvec.__version__,
        default_parameter=Parameter(negative=(), consume_multiple=True, allow_repeating=True),
        help_format="plaintext",
        help_formatter=HelpFormatter(),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        group_commands=Group("Help", sort_key=90),
    )
    app.register_install_completion_command(help="Install completion for your shell.")
    # cyclopts sorts headings and commands by name; sort keys keep the order of COMMANDS.
    for order, (heading, commands) in enumerate(COMMANDS.items()):
        panel = Group(heading, sort_key=order)
        for position, (name, target) in enumerate(commands.items()):
            parent, _, command = name.rpartition(" ")
            # "data build" is the command build of the app data, which is made with its first command.
            if parent and parent not in app:
                app.command(App(name=parent, help=GROUPS[parent], group=panel, sort_key=position))
            owner = app[parent] if parent else app
            owner.command(f"nextvec.commands.{target}", name=command, group=panel, sort_key=position)
    return app


def _import_summaries(app: App, argv: Sequence[str]) -> None:
    """Import the commands that a list of commands shows with their first line: in `nextvec` and `nextvec GROUP`."""
    words = [word for word in argv if not word.startswith("-")]
    if not words:
        app.resolved_commands()
    elif words[0] in GROUPS:
        app[words[0]].resolved_commands()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    prepare_process()
    protect_streams()
    # The meta app parses --json before or after the command, and passes everything else on.
    argv = list(sys.argv[1:] if argv is None else argv)
    # cyclopts takes a lone hyphen for an option, so standard input gets its other name.
    argv = [STANDARD_INPUT if word == "-" else word for word in argv]
    if answer := answer_original_flag(argv):
        return _fail(answer, InputError.exit_code)
    app = make_app()
    app.meta.suppress_keyboard_interrupt = False  # not inherited; otherwise Ctrl-C ends without a message
    _import_summaries(app, argv)

    @app.meta.default
    def run(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        as_json: Annotated[
            bool, Parameter(name="--json", help="Print the result as JSON.", group=GLOBAL_OPTIONS)
        ] = False,
        fail_on: Annotated[
            Literal["amber", "red"] | None,
            Parameter(
                name="--fail-on",
                help="Exit with 5 if the status of the result (verdict, diagnosis, data check) is this or worse.",
                group=GLOBAL_OPTIONS,
            ),
        ] = None,
    ) -> int:
        command, arguments, _ = app.parse_args(words)
        if is_one_of_several() and command.__name__ not in SHARED_COMMANDS:
            raise InputError("only train and resume run in several processes. Run the other commands without torchrun.")
        result = command(*arguments.args, **arguments.kwargs)
        if result is not None:  # --help and --version print their text themselves
            _show(result, as_json=as_json)
        code = _exit_code(result, fail_on)
        is_stored = command.__name__ in STORED_RESULTS and not as_json
        return _check_printed(result, code, is_stored=is_stored)

    try:
        code = app.meta(argv)
        return _check_printed(None, 0, is_stored=False) if code is None else code  # None: a help text
    except CycloptsError as error:
        return _fail(describe_usage_error(error), InputError.exit_code)
    except NextvecError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", Interrupted.exit_code)
    except Exception as error:
        reason = one_line(error)
        return _fail(f"internal error, please report it ({DEBUG}=1 shows where): {type(error).__name__}: {reason}", 1)


def _show(result: Any, *, as_json: bool) -> None:
    """Print a result on standard output, for people or as one JSON object."""
    if as_json:
        values = str(result) if isinstance(result, Path) else result.to_dict()
        # An encoding that lacks a character would escape it in a way that JSON does not know.
        is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        text = json.dumps(values, ensure_ascii=not is_unicode, default=os.fspath)
        # JSON allows the control characters C1 in texts, but a terminal obeys them.
        sys.stdout.write(re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
    elif isinstance(result, Path):
        sys.stdout.write(f"{result}\n")
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            width = None if os.environ.get("COLUMNS", "").isdigit() else PIPE_WIDTH  # rich reads COLUMNS itself
            console = Console(highlight=False, width=width)
        console.print(result, crop=False)  # a long path stays on one line


def _check_printed(result: Any, code: int, *, is_stored: bool) -> int:
    """Return the exit code. If the result was not printed, report that on standard error and in the result's log.

    The code is then not 0 if printing was the command's purpose, unless the reader closed the stream, as `head` does.
    """
    reason = stdout_failure()
    if reason is None:
        return code
    message = f"standard output cannot be written: {reason}. The result was not printed in full."
    if is_stored:
        message += f" It is stored in {getattr(result, 'path', 'its files')}."
    log = getattr(result, "log_file", None)
    if log is not None:
        with suppress(OSError):
            append_lines(log, (f"warning: {message}",))
    sys.stderr.write(f"nextvec: {escape_controls(message)}\n")
    return code or (0 if is_stored or is_stdout_closed_by_reader() else InputError.exit_code)


def _exit_code(result: Any, fail_on: str | None = None) -> int:
    """Return a result's exit code: its own; else STATUS_EXIT_CODE if its status is `fail_on` or worse; else 0."""
    code, status = int(getattr(result, "exit_code", 0)), getattr(result, "status", None)
    if code == 0 and fail_on and status in STATUSES and STATUSES.index(status) >= STATUSES.index(Status(fail_on)):
        return STATUS_EXIT_CODE
    return code


def _fail(message: str, code: int) -> int:
    """Report an error as one line on standard error. With NEXTVEC_DEBUG set, show the traceback instead."""
    if os.environ.get(DEBUG):
        raise
    if not is_follower():
        sys.stderr.write(f"nextvec: {escape_controls(message)}\n")
    return code
