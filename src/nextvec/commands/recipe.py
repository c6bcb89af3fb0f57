"""Commands on recipes: list those that come with nextvec, and show one with the meaning of every field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextvec.commands.parameters import Overrides, RecipeLike, command

if TYPE_CHECKING:
    from nextvec.recipe.describe import RecipeDescription, RecipeList


@command()
def recipe_list() -> RecipeList:
    """List the recipes that come with nextvec."""
    from nextvec.recipe.describe import list_recipes

    return list_recipes()


@command()
def recipe_show(recipe: RecipeLike, overrides: Overrides = ()) -> RecipeDescription:
    """Show a recipe: the value of every field and what the field means.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as training.epochs=3.
    """
    from nextvec.recipe.describe import describe_recipe

    return describe_recipe(recipe, overrides)
