"""Help texts and usage errors of the command line, in the style of nextvec."""

from __future__ import annotations

import difflib
import re
from typing import Any

from attrs import evolve
from cyclopts import CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError
from cyclopts.help import DefaultFormatter, HelpPanel

from nextvec.errors import did_you_mean


class HelpFormatter(DefaultFormatter):
    """Show an option's choices as its value, ``--dtype {float16,float32}``, and no empty defaults."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print one panel of a help text."""
        for number, entry in enumerate(panel.entries):
            if entry.choices and entry.metavar:
                entry = evolve(entry, metavar=f"{{{','.join(entry.choices)}}}", choices=None)
            if entry.positional_label:  # cyclopts also accepts --recipe RECIPE; one way to write it is enough
                entry = evolve(entry, positive_names=())
            if entry.default in ("()", '""', "False"):
                entry = evolve(entry, default=None)
            _join_lines(entry.description)
            panel.entries[number] = entry
        super().__call__(console, options, panel)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print the description of a command."""
        _join_lines(description)
        super().render_description(console, options, description)


def _join_lines(description: Any) -> None:
    """Replace single line breaks of a docstring by spaces, because the terminal wraps the text again."""
    text = getattr(description, "primary_renderable", None)
    if text is not None:
        text.plain = re.sub(r"(?<!\n)\n(?!\n)", " ", text.plain)


def describe_usage_error(error: CycloptsError) -> str:
    """Return one line for a command line that cannot be parsed."""
    command = " ".join(error.command_chain or ())
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        word = error.unused_tokens[0]
        is_option = word.startswith("-")
        known = [name for name in error.app or () if name.startswith("-") == is_option]
        kind = "option" if is_option else "command"
        return f"unknown {kind} '{f'{command} {word}'.strip()}'.{did_you_mean(word, known)}"
    help_hint = f"See 'nextvec {command} --help'."
    # An option that was passed without its value has a keyword; cyclopts describes that case well.
    if isinstance(error, MissingArgumentError) and error.argument and error.keyword is None:
        name = error.argument.name
        # A misspelt option is the cause, and the missing one its consequence.
        options = [word for word in error.unused_tokens or () if word.startswith("-")]
        if misspelt := difflib.get_close_matches(name, options, n=1):
            return f"{command}: unknown option: {misspelt[0]}. Did you mean {name}?"
        return (
            f"{command}: {name if error.argument.index is None else name.lstrip('-').upper()} is missing. {help_hint}"
        )
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        unexpected = ", ".join(f"'{word}'" for word in error.unused_tokens)
        return f"{command}: unexpected argument {unexpected}. {help_hint}"
    text = str(error).replace('"', "'").removeprefix(f"Command '{command}' parameter ")
    return f"{command}: {text[:1].lower()}{text[1:]}"
