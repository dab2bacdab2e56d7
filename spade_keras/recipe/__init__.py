"""Recipes: a TOML file and overrides become one validated, frozen configuration.

Nothing here imports keras, so a mistake is reported before any heavy import.
"""

from spade_keras.recipe.loading import (
    SCHEMAS,
    ClassificationRecipe,
    Recipe,
    ReconstructionRecipe,
    SearchRecipe,
    TransferRecipe,
    load_recipe,
    shipped_recipes,
    validate_recipe,
)

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
