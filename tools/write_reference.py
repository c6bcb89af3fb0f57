"""Write docs/reference/commands.md and docs/reference/recipe.md from the code.

python tools/write_reference.py
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts import App
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nextvec.cli import COMMANDS, make_app
from nextvec.commands.original_flags import UNSUPPORTED_FLAGS
from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.recipe import GateRecipe, Recipe, load_recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"


def commands() -> str:
    """docs/reference/commands.md: every verb with its arguments."""
    lines = [
        "# Commands",
        "",
        "**For:** anyone who types a command or calls its Python function.\\",
        "**Answers:** which options a command has, with their defaults.",
        "",
        "Every command is also a function with the same name and arguments: `nextvec data build` is "
        "`nextvec.data_build` (see [Python API](python.md)). Every command takes `--json`, which prints its result as "
        "JSON, and `--fail-on`.",
        "",
        "| exit code | meaning |",
        "| ---: | --- |",
        "| 0 | done, whatever the status of the result is: a red verdict or diagnosis is a result |",
        "| 1 | internal error |",
        "| 2 | bad input. This includes data that `data check` calls red, for `data check` as for `train` |",
        "| 3 | stopped by a gate or the sentinel |",
        "| 4 | non-finite |",
        "| 5 | `--fail-on red` and the status is red, or `--fail-on amber` and it is amber or red |",
        "| 130 | interrupted |",
        "",
        "The status is that of the verdict (`demo`, `train`, `resume`, `eval`), the worst diagnosis (`diagnose`) or "
        "the worst finding (`data check`). A run without an epoch has nothing to diagnose and is amber. For CI: "
        "`nextvec eval RUN --fail-on red`.",
        "",
        "`tools/write_reference.py` generates this page from the code.",
    ]
    app = make_app()
    for name in (name for commands in COMMANDS.values() for name in commands):
        lines += ["", f"## nextvec {name}", "", *_command(app, name)]
    lines += [
        "",
        "## Flags of the original trainer that nextvec does not take",
        "",
        "`nextvec train` refuses each of them with one line that contains the answer.",
        "",
        "| flag | in nextvec |",
        "| --- | --- |",
        *(f"| `{flag}` | {answer} |" for flag, answer in UNSUPPORTED_FLAGS.items()),
    ]
    return "\n".join(lines) + "\n"


def _command(app: App, name: str) -> Iterator[str]:
    """Yield a command's description and the table of its arguments."""
    command = app
    for word in name.split():
        command = command[word]
    yield " ".join(inspect.cleandoc(command.help).partition("\nArgs:")[0].split())
    arguments = [argument for argument in command.assemble_argument_collection(parse_docstring=True) if argument.show]
    if not arguments:
        return
    yield ""
    yield "| argument | default | meaning |"
    yield "| --- | --- | --- |"
    for argument in arguments:
        names = (
            argument.name.lstrip("-").upper()
            if argument.index is not None
            else "`, `".join(name for name in argument.names if name not in argument.negatives)
        )
        default = "required" if argument.required else _default(argument.field_info.default)
        choices = argument.get_choices()
        choices = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        yield f"| `{names}` | {default} | {' '.join((argument.parameter.help or '').split())}{choices} |"


def recipes() -> str:
    """Return docs/reference/recipe.md: every field of a recipe, every gate metric and every bundled recipe."""
    lines = [
        "# Recipe",
        "",
        "**For:** anyone who writes a recipe or overrides one.\\",
        "**Answers:** which fields a recipe has, with their types, defaults and meanings.",
        "",
        "A recipe is a TOML file that fully describes a run. `nextvec train RECIPE section.field=value …` takes a "
        "file, or the name of a recipe that comes with nextvec, and overrides any field. An unknown field is an error, "
        'with a suggestion. A file may start with `extends = "another-recipe"` and then contains only the differences.',
        "",
        "`tools/write_reference.py` generates this page from the code.",
        "",
        "## Top level",
        "",
        *_fields(Recipe),
    ]
    for name, field in Recipe.model_fields.items():
        if _is_section(field.annotation):
            section = typing.cast(type[BaseModel], field.annotation)
            lines += ["", f"## [{name}]", "", (section.__doc__ or "").strip(), "", *_fields(section)]
    lines += ["", "## [[gates]]", "", (GateRecipe.__doc__ or "").strip(), "", *_fields(GateRecipe), ""]
    lines += ["Metrics of gates:", "", "| metric | better | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{name}` | {'lower' if metric.lower_is_better else 'higher'} | {metric.meaning} |"
        for name, metric in GATE_METRICS.items()
    ]
    lines += ["", "## Bundled recipes", "", "| name | description |", "| --- | --- |"]
    for file in sorted((DOCS.parent / "recipes").glob("*.toml")):
        lines.append(f"| [{file.stem}](../../recipes/{file.name}) | {load_recipe(str(file)).description} |")
    return "\n".join(lines) + "\n"


def _fields(section: type[BaseModel]) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in section.model_fields.items():
        if not _is_section(field.annotation):
            meaning = " ".join((field.description or "").split())  # one line: a line break would end the table's row
            yield f"| `{name}` | {_type(field.annotation)} | {_default(field.default)} | {meaning} |"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is tuple:
        part = typing.get_args(annotation)[0]
        return "list of gates" if part is GateRecipe else f"{_type(part)} or list of them"
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(typing.get_args(annotation))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return _type(next(part for part in typing.get_args(annotation) if part is not types.NoneType))
    return {"int": "integer", "float": "number", "str": "text", "bool": "true or false"}[annotation.__name__]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ("", ()):
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


PAGES = {"reference/commands.md": commands, "reference/recipe.md": recipes}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
