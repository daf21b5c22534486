"""The methods that the trainer trains, by the name of their base."""

from casejax.methods.a2cl_pt import method as a2cl_pt
from casejax.methods.case import method as bases
from casejax.methods.case import recipe_case as case
from casejax.methods.case.recipe import Recipe
from casejax.run.config import Config


def recipe_of(config: Config) -> Recipe:
    """The method of a configuration."""
    return {"case": case.RECIPE, "a2cl_pt": a2cl_pt.RECIPE}.get(config.network.base, bases.RECIPE)
