"""Recipes as tables: the recipes that come with nextvec, and one recipe with the meaning of every field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from nextvec.recipe.load import Overrides, Recipe, RecipeLike, known_recipes, load_recipe


@dataclass(frozen=True)
class RecipeList:
    """Recipes by name, with their descriptions."""

    descriptions: Mapping[str, str]

    def __rich__(self) -> Table:
        """Return one row per recipe."""
        table = Table("recipe", "description", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name, description in self.descriptions.items():
            table.add_row(Text(name), Text(description))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"recipes": dict(self.descriptions)}


@dataclass(frozen=True)
class Field:
    """A field of a recipe: its full name, its value and the sentence that explains it."""

    name: str
    value: Any
    meaning: str


@dataclass(frozen=True)
class RecipeDescription:
    """A recipe with every value resolved."""

    recipe: Recipe
    fields: tuple[Field, ...]

    def __rich__(self) -> Table:
        """Return one row per field."""
        table = Table("field", "value", "meaning", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for field in self.fields:
            shown = "–" if field.value in (None, "", ()) else str(field.value)
            table.add_row(Text(field.name, no_wrap=True), Text(shown), Text(field.meaning))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"recipe": self.recipe.model_dump(mode="json"), "fields": [asdict(field) for field in self.fields]}


def list_recipes() -> RecipeList:
    """Return the recipes that come with nextvec, sorted by name."""
    return RecipeList({name: load_recipe(path).description for name, path in sorted(known_recipes().items())})


def describe_recipe(recipe: RecipeLike, overrides: Overrides = ()) -> RecipeDescription:
    """Return a recipe with the meaning of every field. Raises RecipeError like `load_recipe`."""
    loaded = load_recipe(recipe, overrides)
    return RecipeDescription(loaded, tuple(_fields(loaded)))


def _fields(section: BaseModel, prefix: str = "") -> Iterator[Field]:
    """Yield the fields of a section and of the sections inside it; gates are numbered from 0."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, item in enumerate(value):
                yield from _fields(item, f"{prefix}{name}.{number}.")
        else:
            yield Field(f"{prefix}{name}", value, " ".join((info.description or "").split()))
