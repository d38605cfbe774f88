"""The built-in recipes: one file for each homeserver implementation."""

from trafficlight.cache import CacheFolder
from trafficlight.config import DENDRITE_MODULE, DENDRITE_VERSION, SYNAPSE_VERSION
from trafficlight.homeservers.recipes.dendrite import DendriteRecipe
from trafficlight.homeservers.recipes.recipe import Recipe
from trafficlight.homeservers.recipes.synapse import SynapseRecipe
from trafficlight.homeservers.recipes.synapse_workers import PostgresSynapseRecipe, WorkersSynapseRecipe
from trafficlight.processes import Progress

__all__ = ["default_recipes"]


def default_recipes(
    cache: CacheFolder,
    progress: Progress,
    *,
    synapse_version: str = SYNAPSE_VERSION,
    dendrite_version: str = DENDRITE_VERSION,
    dendrite_module: str = DENDRITE_MODULE,
) -> list[Recipe]:
    """Return the built-in recipes.

    :param cache: where they keep their installations.
    :param progress: called with a line for every slow step.
    :param synapse_version: the version that ``stable`` stands for.
    :param dendrite_version: the version that ``stable`` and ``latest`` stand for.
    :param dendrite_module: the Go module that Dendrite is built from.
    """
    return [
        DendriteRecipe(cache, progress, dendrite_version, dendrite_module),
        SynapseRecipe(cache, progress, synapse_version),
        PostgresSynapseRecipe(cache, progress, synapse_version),
        WorkersSynapseRecipe(cache, progress, synapse_version),
    ]
