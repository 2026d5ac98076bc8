"""The settings of a recipe, for scripts: `DataConfig` and its like, as `bd3cli.recipes` and `bd3cli.data` take them."""

from bd3cli.recipes.settings import DataConfig, EvalConfig, ModelConfig, ObjectiveConfig, Recipe, TrainConfig

__all__ = ["DataConfig", "EvalConfig", "ModelConfig", "ObjectiveConfig", "Recipe", "TrainConfig"]
