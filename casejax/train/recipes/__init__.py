"""The methods that the trainer trains, by the name of their base."""

from casejax.train.config import Config
from casejax.train.recipes import a2cl_pt, bases, case
from casejax.train.recipes.recipe import Recipe


def recipe_of(config: Config) -> Recipe:
    """The method of a configuration."""
    return {"case": case.RECIPE, "a2cl_pt": a2cl_pt.RECIPE}.get(config.network.base, bases.RECIPE)
