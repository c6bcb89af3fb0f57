"""Read, extend and override recipes.

    recipe = load_recipe("wiki-minilm", ["training.epochs=3", "objective.tau=0.05"])

Invalid recipes are refused with one line that names the field. Recipes are frozen, so the recipe in a run folder is
the one that was trained. This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from nextvec.core.overrides import Overrides, override_lines
from nextvec.core.paths import expand_home
from nextvec.errors import RecipeError, did_you_mean
from nextvec.recipe.schema import (
    DataRecipe,
    EvaluationRecipe,
    GateRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    RuntimeRecipe,
    Section,
    SuccessRecipe,
    TrainingRecipe,
)


def _require_name(name: str) -> str:
    if not name.strip():
        raise ValueError("the name is empty; name the run, or leave it out")
    return name


class Recipe(Section):
    """Everything that determines a run."""

    name: Annotated[str, AfterValidator(_require_name)] = "unnamed"
    """Name of the run in its folder's name, in tables and in logs."""
    description: str = ""
    """One sentence about the recipe."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the initial weights, the order of windows and every sample. The same seed gives the same run."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    training: TrainingRecipe = TrainingRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    runtime: RuntimeRecipe = RuntimeRecipe()
    gates: Annotated[
        tuple[GateRecipe, ...], BeforeValidator(lambda gates: tuple(gates) if isinstance(gates, list) else gates)
    ] = ()
    """Gates at epochs: a list of [[gates]]."""
    success: SuccessRecipe = SuccessRecipe()

    def to_toml(self) -> str:
        """Return the recipe as TOML without empty fields. `load_recipe` reads it back as an equal recipe."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def info_nce_windows(self) -> int:
        """The windows that InfoNCE compares with each other: a block of the batch, or the whole batch."""
        return min(self.objective.info_nce_block or self.training.batch_size, self.training.batch_size)

    @property
    def recipe_hash(self) -> str:
        """16 hexadecimal digits that identify the training. Name, description and runtime are not included."""
        content = self.model_dump(exclude={"name", "description", "runtime"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


RecipeLike: TypeAlias = Recipe | Mapping[str, Any] | str | Path
"""A recipe, its values as a dict, the path of a TOML file, or the name of a recipe that comes with nextvec."""


def recipe_folders() -> tuple[Path, ...]:
    """Return the folders in which recipes are found by name."""
    # A wheel contains the recipes inside the package; a checkout has them at its root.
    package = Path(__file__).resolve().parents[1]
    return package / "recipes", package.parents[1] / "recipes"


def known_recipes() -> dict[str, Path]:
    """Return the recipes that come with nextvec: name → file."""
    return {file.stem: file for folder in recipe_folders() for file in sorted(folder.glob("*.toml"))}


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe, by its path or by its name if it comes with nextvec.

    Raises RecipeError if there is no such file or name.
    """
    path = Path(expand_home(str(name)))
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"recipe {path}: no such file; give the path of a TOML file or the name of a recipe")
        return path
    known = known_recipes()
    if str(name) not in known:
        raise RecipeError(f"recipe '{name}' is unknown.{did_you_mean(str(name), known)}")
    return known[str(name)]


def load_recipe(recipe: RecipeLike, overrides: Overrides = ()) -> Recipe:
    """Read a recipe and apply overrides such as ``training.epochs=3``.

    `recipe` is a path, a name, a dict of values, or a `Recipe`. A file may begin with ``extends = "another-recipe"``
    and then contains only the differences.

    Raises RecipeError: one line that names the file, the field and what is wrong with it.
    """
    # Values in Python are not files: they cannot extend another recipe.
    changes = override_lines(overrides)
    if isinstance(recipe, Recipe):
        return make_recipe(recipe.model_dump(exclude_none=True, exclude_unset=True), changes) if changes else recipe
    if isinstance(recipe, Mapping):
        return make_recipe(dict(recipe), changes)
    # A file without a name gets the name of the file.
    path = find_recipe(recipe)
    values = _read(path, ())
    values.setdefault("name", path.stem)
    return make_recipe(values, changes, where=f"recipe {path}")


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a recipe file, merged into those of the recipe that it extends.

    `extended_by` are the files that led here, to detect a cycle.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: not valid UTF-8 (byte {error.start:,}). Save the file as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}") from error
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read: {error.strerror}") from error
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"recipe {path}: extends: give the name or the path of another recipe, got {base!r:.80}")
    # A file name is relative to the extending file; any other base is found like a recipe on the command line.
    neighbor = path.parent / base
    base_path = neighbor if neighbor.suffix == ".toml" and neighbor.is_file() else find_recipe(base)
    if base_path.resolve() in (path.resolve(), *extended_by):
        raise RecipeError(f"recipe {path}: extends {base}, which extends it in turn; remove one of the two")
    inherited = _read(base_path, (path.resolve(), *extended_by))
    for field in ("name", "description"):  # these describe one file and are not inherited
        inherited.pop(field, None)
    return _merge(inherited, values)


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the fields of `values`. Sections are merged, lists are replaced."""
    merged = dict(base)
    for name, value in values.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if is_section else value
    return merged


def make_recipe(values: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Return a recipe from nested values and overrides. Raises RecipeError with a text that starts with `where`."""
    values = deepcopy(values)
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one ``section.field=value`` in `values`. The value is TOML; anything else is text."""
    # The value is parsed as TOML, so that 3 is a number, true a boolean and [1, 2] a list.
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override '{override}': write it as section.field=value, such as training.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    # Walk down to the section of the field; sections that the recipe does not contain are made.
    *sections, field = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override '{override}': '{section}' is a value, not a section of the recipe")
    values[field] = value


def _explain(error: ValidationError) -> str:
    """Return the first validation error as one line, with a suggestion for an unknown field."""
    # One line for one error: the next run reports the next one.
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    where = ".".join(location) or "the recipe"
    if first["type"] == "extra_forbidden":
        return f"unknown recipe field '{where}'.{did_you_mean(location[-1], _fields_of(location[:-1]))}"
    # Our own validators write the whole message; pydantic's messages lack the value.
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] in ("value_error", "missing"):
        return f"{where}: {message}"
    return f"{where}: {message}, got {first['input']!r:.80}"


def _fields_of(sections: Sequence[str]) -> list[str]:
    """Return the field names of the section at a path such as ``["gates", "0"]``; empty if it is a plain field."""
    model: type[BaseModel] = Recipe
    for section in sections:
        if section.isdecimal():  # an index into a list of sections
            continue
        annotation = GateRecipe if section == "gates" else model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
