"""The exception tree and the exit codes.

An error's text is one line: what is wrong, where, and what to do. The command line prints that line and exits with the
error's code. Users never see a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class NextvecError(Exception):
    """Base class of all user-facing errors. `exit_code` is the exit code of the command line."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the text on one line. Names from a file may contain line breaks or terminal control characters."""
        return escape_controls(super().__str__())


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters (C0, DEL, C1), Unicode's line and paragraph separators, and marks that change the direction."""


def escape_controls(text: str, keep: str = "") -> str:
    """Return text with control characters as visible escapes, except those in `keep`.

    A terminal would obey them: names and messages from files could move its cursor or change its colors.
    """
    return _CONTROL.sub(
        lambda match: match[0] if match[0] in keep else match[0].encode("unicode_escape").decode(), text
    )


class InputError(NextvecError, ValueError):
    """An argument or a file cannot be used."""


class RecipeError(InputError):
    """A recipe has an unknown field, a wrong type or an impossible combination."""


class CorpusError(InputError):
    """Text cannot be read: a missing or truncated file, a malformed line, wrong columns, or no text."""


class StoreError(InputError):
    """A vector store or .npz file is missing, damaged, empty, or unsuitable for the request."""


class SpaceError(InputError):
    """Vectors of two embedding spaces are combined: another encoder, revision or dimension."""


class CheckpointError(InputError):
    """A checkpoint cannot be read, lacks its configuration, or does not fit the model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is missing or corrupted (SHA-256 mismatch). A previous one may replace it."""


class OutputError(NextvecError, OSError):
    """A result cannot be written: the folder exists or is read-only, or the disk is full."""


class ServerError(NextvecError, OSError):
    """A server can't be reached, refuses a request, or sends an answer that can't be used."""

    status: int | None = None
    """HTTP status of the answer; None if there was none or it was not the problem."""


class MissingExtraError(InputError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'nextvec[{extra}]'")


class StoppedError(NextvecError):
    """A gate or the sentinel stopped the run after saving everything."""

    exit_code = 3


class NotFiniteError(NextvecError):
    """A loss, gradient or prediction is NaN or infinite. Training stops before the update."""

    exit_code = 4


class Interrupted(NextvecError):  # noqa: N818 - not an error, hence no `Error` suffix
    """The user or the system ended the run (Ctrl-C or a signal). Everything is saved."""

    exit_code = 130


def one_line(error: BaseException) -> str:
    """Return the message of another package's error in one line of at most 300 characters, without its period."""
    text = escape_controls(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence with the closest known word, ``" Did you mean 'lstm'?"``, or with all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(choices)}."
