"""What to run: one file for each homeserver implementation."""

from collections.abc import Mapping

from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.homeservers.recipes.dendrite import DENDRITE_STABLE, DendriteRecipe
from trafficlight.homeservers.recipes.recipe import Recipe
from trafficlight.homeservers.recipes.synapse import SYNAPSE_STABLE, SynapseRecipe
from trafficlight.homeservers.tools import Progress

__all__ = ["default_recipes"]


def default_recipes(cache: CacheFolder, progress: Progress, stable: Mapping[str, str]) -> list[Recipe]:
    """Return the recipes that are shipped.

    :param cache: where they keep what they install.
    :param progress: gets a line for every slow step.
    :param stable: the exact version that ``stable`` stands for, by recipe.
    """
    return [
        DendriteRecipe(cache, progress, stable.get("dendrite", DENDRITE_STABLE)),
        SynapseRecipe(cache, progress, stable.get("synapse", SYNAPSE_STABLE)),
    ]
