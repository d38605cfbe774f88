"""What may fill a server role: a server type names the homeservers that a provider deploys."""

from dataclasses import dataclass

__all__ = [
    "Dendrite",
    "HomeServerSpec",
    "ServerType",
    "Synapse",
    "SynapseDevelop",
    "SynapseStable",
    "TwoSynapseFederation",
]


@dataclass(frozen=True, slots=True)
class HomeServerSpec:
    """What to deploy as one homeserver.

    :param type_name: the server type that asks for it.
    :param recipe: the implementation, e.g. ``synapse``; empty if only an image is named.
    :param version: an exact version, or ``stable`` or ``latest``, which the configuration and recipe resolve.
    :param image: the Docker image in Complement's conventions, for the providers that use one.
    """

    type_name: str
    recipe: str
    version: str
    image: str


class ServerType:
    """Selects the homeservers for a server role. A custom type needs `complement_types` or `homeservers`.

    :cvar recipe: the implementation, e.g. ``synapse``; empty if only an image is named.
    :cvar version: an exact version, ``stable`` or ``latest``.
    :cvar image: the Docker image in Complement's conventions.
    """

    recipe: str = ""
    version: str = "stable"
    image: str = ""

    def name(self) -> str:
        """Return the name in case ids."""
        return type(self).__name__

    def complement_types(self) -> list[str]:
        """Return the Docker images, one for each homeserver that this type stands for."""
        return [self.image]

    def homeservers(self) -> list[HomeServerSpec]:
        """Return the homeservers of this type: one entry for each server name that it fills."""
        name, images = self.name(), self.complement_types()
        return [HomeServerSpec(name, self.recipe, self.version, image) for image in images]

    def __repr__(self) -> str:
        return self.name()


class Synapse(ServerType):
    """Synapse of one version: ``Synapse("1.98.0")``."""

    recipe = "synapse"

    def __init__(self, version: str = "stable") -> None:
        self.version = version
        self.image = f"complement-synapse:{version}"

    def name(self) -> str:
        """Return the name in case ids; an exact version is part of it."""
        return "SynapseStable" if self.version == "stable" else f"Synapse-{self.version}"


class SynapseStable(ServerType):
    """The Synapse release that the lab is configured with."""

    recipe = "synapse"
    version = "stable"
    image = "complement-synapse:stable"


class SynapseDevelop(ServerType):
    """The newest Synapse, including pre-releases."""

    recipe = "synapse"
    version = "latest"
    image = "complement-synapse:latest"


class Dendrite(ServerType):
    """The Dendrite that the lab is configured with."""

    recipe = "dendrite"
    version = "stable"
    image = "complement-dendrite:stable"


class TwoSynapseFederation(ServerType):
    """Two federated Synapses; fills two server names."""

    recipe = "synapse"
    version = "stable"
    image = "complement-synapse:stable"

    def complement_types(self) -> list[str]:
        """Return the Docker images, one for each homeserver that this type stands for."""
        return [self.image, self.image]
