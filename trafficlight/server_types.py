"""What may fill a server role: a server type names the homeservers that a provider deploys."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trafficlight.text import split_outside

__all__ = [
    "AnyHomeServer",
    "Dendrite",
    "HomeServerSpec",
    "ServerType",
    "Synapse",
    "SynapseDevelop",
    "SynapsePostgres",
    "SynapseStable",
    "SynapseWorkers",
    "TwoSynapseFederation",
    "merged",
    "server_types_of",
]

_PLAIN_KEY = re.compile(r"[\w-]+")
_PLAIN_TEXT = re.compile(r"(?!(?:true|false|null)$)[A-Za-z_/][\w./:@+-]*")


@dataclass(frozen=True, slots=True)
class HomeServerSpec:
    """What to deploy as one homeserver.

    :param type_name: the server type that asks for it.
    :param recipe: the implementation, e.g. ``synapse``; empty if only an image is named.
    :param version: an exact version, or ``stable`` or ``latest``, which the configuration and recipe resolve.
    :param image: the Docker image in Complement's conventions, for the providers that use one.
    :param config: settings of the homeserver, merged into those of its recipe.
    :param behind_proxy: whether other homeservers reach it through the network proxy.
    """

    type_name: str
    recipe: str
    version: str
    image: str
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    behind_proxy: bool = False


class ServerType:
    """Selects the homeservers for a server role. A custom type needs `complement_types` or `homeservers`.

    :param config: settings of the homeserver's own configuration file, for the provider ``local``. They are
        merged deeply into the lab's and become part of the name. None removes a setting of the lab's: the
        homeserver's default applies.

    :cvar recipe: the implementation, e.g. ``synapse``; empty if only an image is named.
    :cvar version: an exact version, ``stable`` or ``latest``.
    :cvar image: the Docker image in Complement's conventions.
    :cvar config: settings that are not part of the name.
    """

    recipe: str = ""
    version: str = "stable"
    image: str = ""
    config: Mapping[str, Any] = {}

    def __init__(self, *, config: Mapping[str, Any] | None = None) -> None:
        self._given = dict(config or {})
        self.config = merged(type(self).config, self._given)

    def name(self) -> str:
        """Return the name in case ids: the class, and the settings given to it."""
        # A subclass that does not call super().__init__() has none.
        given = getattr(self, "_given", {})
        return self._base_name() + (f"({','.join(_leaves(given))})" if given else "")

    def _base_name(self) -> str:
        return type(self).__name__

    def complement_types(self) -> list[str]:
        """Return the Docker images, one for each homeserver that this type stands for."""
        return [self.image]

    def homeservers(self) -> list[HomeServerSpec]:
        """Return the homeservers of this type: one entry for each server name that it fills."""
        name, images = self.name(), self.complement_types()
        return [HomeServerSpec(name, self.recipe, self.version, image, self.config) for image in images]

    def __repr__(self) -> str:
        return self.name()


class Synapse(ServerType):
    """Synapse of one version: ``Synapse("1.98.0")``."""

    recipe = "synapse"

    def __init__(self, version: str = "stable", *, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config=config)
        self.version = version
        self.image = f"complement-synapse:{version}"

    def _base_name(self) -> str:
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


class SynapsePostgres(ServerType):
    """The same Synapse release on PostgreSQL, each homeserver with a cluster of its own."""

    recipe = "synapse-postgres"


class SynapseWorkers(ServerType):
    """The same Synapse release with workers, PostgreSQL and Redis.

    One worker reads for clients and other homeservers, one sends to other homeservers, one stores events.
    """

    recipe = "synapse-workers"


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


class AnyHomeServer(ServerType):
    """Any homeserver: those that the session names (`--servers`, `SERVERS`), one after another."""

    def __init__(self) -> None:  # settings would be those of one implementation
        super().__init__()


class NamedServer(ServerType):
    """A server type of which only the name is known, where nothing is deployed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def _base_name(self) -> str:
        return self._name


_KINDS = (SynapseStable, SynapseDevelop, SynapsePostgres, SynapseWorkers, Dendrite)
_NAMED: Mapping[str, type[ServerType]] = {
    "synapse": SynapseStable,
    "synapse-develop": SynapseDevelop,
    "synapse-postgres": SynapsePostgres,
    "synapse-workers": SynapseWorkers,
    "dendrite": Dendrite,
    **{kind.__name__.casefold(): kind for kind in _KINDS},
}
_NAME = re.compile(r"(?P<type>[\w-]+?)(?:(?:==|-)(?P<version>\d[\w.]*))?(?:\((?P<config>.*)\))?", re.DOTALL)


def server_types_of(names: Iterable[str]) -> tuple[ServerType, ...]:
    """Return the server types of names, each once.

    :param names: names as in case ids, in any case: ``SynapseStable``, ``synapse==1.98.0``,
        ``dendrite(global.presence.enable_inbound=true)``.
    :raises ValueError: a name is malformed, or no such type comes with trafficlight.
    """
    found: dict[str, ServerType] = {}
    for name in names:
        matched = _NAME.fullmatch(name)
        kind = _NAMED.get(matched["type"].casefold()) if matched is not None else None
        if matched is None or kind is None or (matched["version"] and kind is not SynapseStable):
            known = ", ".join(sorted(_NAMED))
            raise ValueError(
                f"{name!r} is no server: write one of {known}; synapse==VERSION for a version;"
                " settings in parentheses, as in synapse(presence.enabled=true)"
            )
        config = _config_in(matched["config"] or "")
        made = Synapse(matched["version"], config=config) if matched["version"] else kind(config=config)
        found.setdefault(made.name(), made)
    return tuple(found.values())


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others merged into them: mappings are merged, all else is replaced."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _leaves(config: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield ``path.to.setting=value`` for each setting; :func:`_config_in` reads it back."""
    for key, value in sorted(config.items()):
        if isinstance(value, Mapping) and value and all(map(_PLAIN_KEY.fullmatch, value)):
            yield from _leaves(value, f"{path}{key}.")
        elif isinstance(value, str) and _PLAIN_TEXT.fullmatch(value):
            yield f"{path}{key}={value}"
        else:
            yield f"{path}{key}={json.dumps(value, separators=(',', ':'), sort_keys=True)}"


def _config_in(text: str) -> dict[str, Any]:
    """Return the settings in ``path.to.setting=value,...``.

    :raises ValueError: an entry has no ``=``.
    """
    config: dict[str, Any] = {}
    for entry in split_outside(text):
        path, equals, value = entry.strip().partition("=")
        if not equals or not all(map(_PLAIN_KEY.fullmatch, path.split("."))):
            raise ValueError(f"{entry!r} is no setting: write path.to.setting=value")
        try:
            setting: Any = json.loads(value)
        except ValueError:
            setting = value
        for key in reversed(path.split(".")):
            setting = {key: setting}
        config = merged(config, setting)
    return config
