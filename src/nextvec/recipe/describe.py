"""Recipes as tables: the recipes that come with nextvec, and one recipe with the meaning of every field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from nextvec.core.display import Displayable
from nextvec.core.formatting import ABSENT
from nextvec.core.overrides import Overrides
from nextvec.core.table import Column, Table, View, text_row
from nextvec.recipe.load import Recipe, RecipeLike, known_recipes, load_recipe


@dataclass(frozen=True)
class RecipeList(Displayable):
    """Recipes by name, with their descriptions."""

    descriptions: Mapping[str, str]

    def view(self) -> View:
        """Return one row per recipe."""
        columns = (Column("recipe", "left", "fold"), Column("description", "left", "fold"))
        return View((Table("", columns, tuple(map(text_row, self.descriptions.items()))),))

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
class RecipeDescription(Displayable):
    """A recipe with every value resolved."""

    recipe: Recipe
    fields: tuple[Field, ...]

    def view(self) -> View:
        """Return one row per field."""
        # A field's name is never divided; values and meanings may take several lines.
        columns = (Column("field", "left"), Column("value", "left", "fold"), Column("meaning", "left", "fold"))
        rows = []
        for field in self.fields:
            text = ABSENT if field.value in (None, "", ()) else str(field.value)
            rows.append(text_row((field.name, text, field.meaning)))
        return View((Table("", columns, tuple(rows)),))

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
        # Sections are walked recursively, so a field's name is its full path, such as training.lr.
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, item in enumerate(value):
                yield from _fields(item, f"{prefix}{name}.{number}.")
        else:
            yield Field(f"{prefix}{name}", value, " ".join((info.description or "").split()))
