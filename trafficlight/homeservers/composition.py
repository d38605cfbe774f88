"""All providers that the settings ask for, put together."""

import logging
from collections.abc import Callable

from trafficlight.config import Settings
from trafficlight.errors import ConfigError
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import Provider
from trafficlight.homeservers.registry import ProviderRegistry
from trafficlight.homeservers.static import StaticProvider

logger = logging.getLogger(__name__)

#: The key in ``SERVER_PROVIDERS`` for the server types that it does not name.
EVERY_OTHER_TYPE = "*"


def build_providers(settings: Settings, progress: Callable[[str], None] | None = None) -> ProviderRegistry:
    """Return the providers that are configured, each server type with its own. Starts nothing.

    ``HOMESERVER_LIMIT`` takes the place of what local and homerunner only guess that their machines carry.
    A server type in ``SERVER_OVERRIDES`` comes from there, unless ``SERVER_PROVIDERS`` names it too.

    :param progress: gets a line for every slow step, such as an installation.
    :raises ConfigError: a setting is wrong or missing.
    """
    by_type: dict[str, str] = dict.fromkeys(settings.server_overrides, "static")
    by_type |= settings.server_providers
    default = by_type.pop(EVERY_OTHER_TYPE, "local")
    wanted = {default, *by_type.values()}
    providers: dict[str, Provider] = {
        "local": LocalProvider(
            cache_folder=settings.cache_folder,
            stable={"synapse": settings.synapse_version},
            warm=settings.warm_servers,
            progress=progress,
            capacity=settings.homeserver_limit,
        )
    }
    if "static" in wanted:
        providers["static"] = StaticProvider(settings.server_overrides)
        for type_name, name in by_type.items():
            if name == "static" and type_name not in settings.server_overrides:
                raise ConfigError("is static, but names no homeserver", key=f"SERVER_OVERRIDES.{type_name}")
    if "homerunner" in wanted:
        providers["homerunner"] = HomerunnerProvider(
            settings.homerunner_url, images=settings.images, capacity=settings.homeserver_limit
        )
    if "docker" in wanted:
        from trafficlight.homeservers.docker.provider import DockerProvider  # its library is an extra

        providers["docker"] = DockerProvider(
            settings.docker_engines,
            images=settings.images,
            memory_bytes=settings.docker_memory,
            cpus=settings.docker_cpus,
            progress=progress,
        )
    return ProviderRegistry(providers, by_type, default=default)
