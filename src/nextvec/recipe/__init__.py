"""The recipe: one TOML file that fully describes a run. `sections` are its fields, `loading` reads it."""

from nextvec.recipe.load import Recipe, find_recipe, load_recipe, make_recipe, recipe_folders
from nextvec.recipe.schema import (
    METRICS,
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
    "METRICS",
    "DataRecipe",
    "EvaluationRecipe",
    "GateRecipe",
    "ModelRecipe",
    "ObjectiveRecipe",
    "Recipe",
    "RuntimeRecipe",
    "SuccessRecipe",
    "TrainingRecipe",
    "find_recipe",
    "load_recipe",
    "make_recipe",
    "recipe_folders",
]
