"""The tree of errors, and the exit code that each one gives a command.

An error's text is one line that says what is wrong, where, and what to do. The command line prints that line and
exits with the error's code; a traceback never reaches a user.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class NextvecError(Exception):
    """Anything that nextvec tells a user. `exit_code` is what the command line returns."""

    exit_code = 2

    def __str__(self) -> str:
        """The text in one line: names from a file may hold line breaks, or what moves a terminal's cursor."""
        return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), super().__str__())


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class InputError(NextvecError, ValueError):
    """What the user gave can't be used: a missing file, a broken line, an impossible combination."""


class RecipeError(InputError):
    """A recipe has an unknown field, a bad type or an impossible combination."""


class CorpusError(InputError):
    """Text can't be read: a missing or truncated file, a broken line, wrong columns, no text."""


class StoreError(InputError):
    """A vector store (or npz file) is missing, damaged, empty, or does not fit what is asked of it."""


class SpaceError(InputError):
    """Vectors of two different embedding spaces meet: another encoder, revision or dimension."""


class CheckpointError(InputError):
    """A checkpoint can't be read, lacks its configuration, or does not fit the model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's bytes are not those that were saved, or it is gone; an equal or earlier one may stand in."""


class OutputError(NextvecError, OSError):
    """A result can't be written: the folder exists, is read-only, or the disk is full."""


class MissingExtraError(InputError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'nextvec[{extra}]'")


class StoppedError(NextvecError):
    """A gate or the sentinel ended the run; everything was saved before."""

    exit_code = 3


class NotFiniteError(NextvecError):
    """A loss, gradient or prediction is NaN or infinite; training stopped before the update."""

    exit_code = 4


class Interrupted(NextvecError):  # noqa: N818 - an interruption is no error of anybody's
    """The user (or the system) asked the run to end; everything was saved before."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, or all of them: ``" Did you mean 'lstm'?"``."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(choices)}."
