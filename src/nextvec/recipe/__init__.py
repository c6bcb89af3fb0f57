"""The recipe: one TOML file that fully describes a run."""

from nextvec.recipe.load import (
    Overrides,
    Recipe,
    RecipeLike,
    find_recipe,
    known_recipes,
    load_recipe,
    make_recipe,
    override_lines,
    recipe_folders,
)
from nextvec.recipe.schema import (
    DataRecipe,
    EvaluationRecipe,
    GateRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    RuntimeRecipe,
    SuccessRecipe,
    TrainingRecipe,
)

__all__ = [
    "DataRecipe",
    "EvaluationRecipe",
    "GateRecipe",
    "ModelRecipe",
    "ObjectiveRecipe",
    "Overrides",
    "Recipe",
    "RecipeLike",
    "RuntimeRecipe",
    "SuccessRecipe",
    "TrainingRecipe",
    "find_recipe",
    "known_recipes",
    "load_recipe",
    "make_recipe",
    "override_lines",
    "recipe_folders",
]
