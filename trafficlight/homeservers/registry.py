"""The configured providers as one: each server type has its provider."""

import contextlib
import json
import logging
from collections import ChainMap
from collections.abc import AsyncIterator, Mapping, Sequence

from trafficlight.cache import CacheFolder
from trafficlight.config import Settings, key_of
from trafficlight.errors import ConfigError
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import Provider, RunningServer, ServerRequest
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.homeservers.recipes.recipe import Recipe
from trafficlight.homeservers.static import StaticProvider
from trafficlight.processes import Progress
from trafficlight.server_types import HomeServerSpec

logger = logging.getLogger(__name__)

_EVERY_OTHER_TYPE = "*"
# The providers that use a setting.
_USERS = {
    "homerunner_url": frozenset({"homerunner"}),
    "docker_engine": frozenset({"docker"}),
    "images": frozenset({"docker", "homerunner"}),
}


class ProviderRegistry:
    """Dispatches every server type to its provider; has the interface of a provider itself.

    :param by_type: the name of the provider for a server type, by the type's name.
    :param default: the provider for all other server types.
    :raises ConfigError: there is no provider of a name.
    """

    name = "providers"

    def __init__(
        self,
        providers: Mapping[str, Provider],
        by_type: Mapping[str, str] | None = None,
        *,
        default: str = "local",
    ) -> None:
        self._providers = dict(providers)
        self._by_type = dict(by_type or {})
        self._default = default
        for type_name, provider in (*self._by_type.items(), ("default", default)):
            if provider not in self._providers:
                known = ", ".join(sorted(self._providers))
                raise ConfigError(f"there is no provider {provider!r}, only {known}", key=type_name)

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers may run at once, of a server type or of a provider."""
        return dict(ChainMap(*(dict(provider.capacities) for provider in self._providers.values())))

    def provider_name(self, type_name: str) -> str:
        """Return the name of the provider of a server type."""
        plain = type_name.partition("(")[0]  # the settings of a type do not move it to another provider
        return self._by_type.get(type_name) or self._by_type.get(plain, self._default)

    def provider(self, spec: HomeServerSpec) -> Provider:
        """Return the provider of a server type."""
        return self._providers[self.provider_name(spec.type_name)]

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why a homeserver can never be deployed; None if it can."""
        if spec.config and (name := self.provider_name(spec.type_name)) != "local":
            return f"{spec.type_name}: settings of a server type need the provider local, not {name}"
        if spec.behind_proxy and (name := self.provider_name(spec.type_name)) != "local":
            return (
                f"{spec.type_name}: the network between homeservers needs the provider local, not {name},"
                " where the lab does not choose the port at which they find each other"
            )
        return self.provider(spec).unsupported(spec)

    def can_share(self, spec: HomeServerSpec) -> bool:
        """Return whether cases can share a homeserver: only if its log is complete while it runs."""
        return self.provider_name(spec.type_name) in ("local", "docker")

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Let the providers do their slow work, one after the other to keep their progress readable.

        :raises DeployError: it failed.
        """
        for provider, indexes in self._shares(specs):
            await provider.prepare([specs[index] for index in indexes])

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy homeservers, each by its provider.

        :raises DeployError: one does not become ready.
        """
        async with contextlib.AsyncExitStack() as stack:
            found: dict[int, RunningServer] = {}
            for provider, indexes in self._shares([request.spec for request in requests]):
                deployment = provider.deploy(case_id, [requests[index] for index in indexes])
                found.update(zip(indexes, await stack.enter_async_context(deployment), strict=True))
            yield [found[index] for index in range(len(requests))]

    async def close(self) -> None:
        """Close every provider, even if one fails to. Idempotent."""
        async with contextlib.AsyncExitStack() as stack:
            for provider in self._providers.values():
                stack.push_async_callback(provider.close)

    def _shares(self, specs: Sequence[HomeServerSpec]) -> list[tuple[Provider, list[int]]]:
        """Return each provider with the indexes of what it deploys."""
        shares: dict[str, list[int]] = {}
        for index, spec in enumerate(specs):
            shares.setdefault(self.provider_name(spec.type_name), []).append(index)
        return [(self._providers[name], indexes) for name, indexes in shares.items()]


def configured_recipes(settings: Settings, cache: CacheFolder, progress: Progress) -> list[Recipe]:
    """Return the built-in recipes with the versions of the settings.

    :param cache: where they keep their installations.
    :param progress: called with a line for every slow step.
    """
    return default_recipes(
        cache,
        progress,
        synapse_version=settings.synapse_version,
        dendrite_version=settings.dendrite_version,
        dendrite_module=settings.dendrite_module,
    )


def build_providers(settings: Settings, progress: Progress | None = None) -> ProviderRegistry:
    """Return the configured providers. Starts nothing.

    A server type in ``SERVER_OVERRIDES`` is static, unless ``SERVER_PROVIDERS`` names it too.
    ``HOMESERVER_LIMIT`` replaces the estimated capacity of local and homerunner.

    :param progress: called with a line for every slow step, such as an installation; by default it is logged.
    :raises ConfigError: a setting is wrong or missing.
    """
    progress = progress or logger.info
    by_type: dict[str, str] = dict.fromkeys(settings.server_overrides, "static")
    by_type |= settings.server_providers
    default = by_type.pop(_EVERY_OTHER_TYPE, "local")
    used = {default, *by_type.values()}
    for field, users in _USERS.items():
        by_nodes = field == "docker_engine" and settings.cluster.startswith("docker:")
        if getattr(settings, field) and users.isdisjoint(used) and not by_nodes:
            logger.warning(
                "%s is set, but no server type comes from %s: set SERVER_PROVIDERS, for example to %s",
                key_of(field),
                " or ".join(sorted(users)),
                json.dumps({_EVERY_OTHER_TYPE: min(users)}),
            )
    recipes = configured_recipes(settings, CacheFolder(settings.cache_folder), progress)
    providers: dict[str, Provider] = {
        "local": LocalProvider(recipes=recipes, capacity=settings.homeserver_limit)
    }
    if "static" in used:
        providers["static"] = StaticProvider(settings.server_overrides)
        for type_name, name in by_type.items():
            if name == "static" and type_name not in settings.server_overrides:
                raise ConfigError("is static, but names no homeserver", key=f"SERVER_OVERRIDES.{type_name}")
    if "homerunner" in used:
        providers["homerunner"] = HomerunnerProvider(
            settings.homerunner_url, images=settings.images, capacity=settings.homeserver_limit
        )
    if "docker" in used:
        from trafficlight.homeservers.docker.provider import DockerProvider  # an extra

        providers["docker"] = DockerProvider(
            settings.docker_engine,
            images=settings.images,
            memory_bytes=settings.docker_memory,
            cpus=settings.docker_cpus,
            progress=progress,
        )
    return ProviderRegistry(providers, by_type, default=default)
