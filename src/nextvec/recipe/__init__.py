"""The recipe: one TOML file that fully describes a run."""

from nextvec.recipe.load import (
    Recipe,
    RecipeLike,
    find_recipe,
    known_recipes,
    load_recipe,
    make_recipe,
    recipe_folders,
)
from nextvec.recipe.schema import (
    INITIAL,
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
    "INITIAL",
    "DataRecipe",
    "EvaluationRecipe",
    "GateRecipe",
    "ModelRecipe",
    "ObjectiveRecipe",
    "Recipe",
    "RecipeLike",
    "RuntimeRecipe",
    "SuccessRecipe",
    "TrainingRecipe",
    "find_recipe",
    "known_recipes",
    "load_recipe",
    "make_recipe",
    "recipe_folders",
]
