"""Recipes: a TOML file and overrides become one validated, frozen configuration.

Nothing here imports keras, so a mistake is reported before any heavy import.
"""

from spade_keras.recipe.imaging import ReconstructionRecipe
from spade_keras.recipe.loading import load_recipe, shipped_recipes, validate_recipe
from spade_keras.recipe.schemas import SCHEMAS
from spade_keras.recipe.sections import ClassificationRecipe, Recipe, SearchRecipe
from spade_keras.recipe.transfer import TransferRecipe

__all__ = [
    "SCHEMAS",
    "ClassificationRecipe",
    "Recipe",
    "ReconstructionRecipe",
    "SearchRecipe",
    "TransferRecipe",
    "load_recipe",
    "shipped_recipes",
    "validate_recipe",
]
