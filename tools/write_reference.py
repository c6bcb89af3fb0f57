"""Write docs/reference/commands.md and docs/reference/recipe.md from the code.

python tools/write_reference.py
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docstring_parser import parse, parse_from_object
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nextvec.cli import VERBS
from nextvec.commands.train import NO_FLAGS, OriginalFlags
from nextvec.recipe import METRICS, GateRecipe, Recipe, load_recipe

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
        "JSON. Exit codes: 0 done, 1 internal error, 2 bad input, 3 stopped by a gate or the sentinel, 4 non-finite, "
        "130 interrupted.",
        "",
        "`tools/write_reference.py` generates this page from the code.",
    ]
    for name, verb in VERBS.items():
        lines += ["", f"## nextvec {name}", "", *_command(verb)]
    return "\n".join(lines) + "\n"


def _command(verb: Callable[..., Any]) -> Iterator[str]:
    text = parse(verb.__doc__ or "")
    meaning = {argument.arg_name: " ".join((argument.description or "").split()) for argument in text.params}
    yield " ".join(f"{text.short_description} {text.long_description or ''}".split())
    yield ""
    yield "| argument | default | meaning |"
    yield "| --- | --- | --- |"
    hints = {name: hint for name, hint in verb.__annotations__.items() if name != "return"}
    for name, parameter in inspect.signature(verb).parameters.items():
        positional = "Positional" in str(hints[name])
        shown = name.upper() if positional else f"--{name.replace('_', '-')}"
        default = "required" if parameter.default is inspect.Parameter.empty else _default(parameter.default)
        if parameter.default is NO_FLAGS:  # a group of arguments
            for flag in parse_from_object(OriginalFlags).params:
                yield f"| `--{flag.arg_name.replace('_', '-')}` | – | the same as {flag.description} |"
        else:
            yield f"| `{shown}` | {default} | {meaning[name]} |"


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
    lines += [f"| `{metric}` | {better} | {meaning} |" for metric, (better, meaning) in METRICS.items()]
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
