"""The configured providers, and the provider of each server type."""

import pytest

from trafficlight.config import load
from trafficlight.errors import ConfigError
from trafficlight.homeservers.provider import capacity_of_this_machine
from trafficlight.homeservers.registry import ProviderRegistry, build_providers
from trafficlight.server_types import Dendrite, SynapseStable

STATIC = {"SynapseStable": "http://127.0.0.1:1"}


def _providers(**settings: object) -> ProviderRegistry:
    return build_providers(load(settings, environment={}))


def _names(providers: ProviderRegistry) -> tuple[str, str]:
    """Return where SynapseStable and Dendrite come from."""
    found = [providers.provider(kind().homeservers()[0]).name for kind in (SynapseStable, Dendrite)]
    return found[0], found[1]


async def test_all_is_local_by_default() -> None:
    assert _names(_providers()) == ("local", "local")


async def test_an_override_makes_its_type_static() -> None:
    assert _names(_providers(server_overrides=STATIC)) == ("static", "local")


async def test_unless_its_provider_is_named() -> None:
    providers = _providers(server_overrides=STATIC, server_providers={"SynapseStable": "local"})
    assert _names(providers) == ("local", "local")


async def test_a_star_is_every_other_type() -> None:
    providers = _providers(
        server_overrides=STATIC, server_providers={"*": "homerunner"}, homerunner_url="http://127.0.0.1:1"
    )
    assert _names(providers) == ("static", "homerunner")


async def test_a_setting_for_a_provider_that_no_type_uses_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _providers(homerunner_url="http://127.0.0.1:1")
    [message] = caplog.messages
    assert message.startswith("HOMERUNNER_URL is set, but no server type comes from homerunner")
    assert message.endswith('set SERVER_PROVIDERS, for example to {"*": "homerunner"}')


async def test_docker() -> None:
    pytest.importorskip("aiodocker")
    assert _names(_providers(server_providers={"Dendrite": "docker"})) == ("local", "docker")


async def test_a_limit_replaces_the_estimate() -> None:
    providers = _providers(
        server_providers={"Dendrite": "homerunner"}, homerunner_url="http://127.0.0.1:1", homeserver_limit=23
    )
    assert providers.capacities == {"local homeservers": 23, "homerunner homeservers": 23}


async def test_the_capacity_of_this_machine_follows_memory_and_cores() -> None:
    assert _providers().capacities == {"local homeservers": capacity_of_this_machine()}
    assert 1 <= capacity_of_this_machine() <= 8


async def test_docker_carries_nothing_before_it_is_connected() -> None:
    pytest.importorskip("aiodocker")
    providers = _providers(
        server_providers={"*": "docker"},
        docker_engine={"url": "tcp://b:2376", "certificates": "/c", "capacity": 3},
        homeserver_limit=23,
    )
    assert providers.capacities["docker homeservers"] == 0


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"server_providers": {"Dendrite": "homerunner"}}, "HOMERUNNER_URL"),
        ({"server_providers": {"Dendrite": "static"}}, "SERVER_OVERRIDES.Dendrite"),
        ({"server_overrides": {"Dendrite": []}}, "SERVER_OVERRIDES.Dendrite"),
        ({"server_providers": {"Dendrite": "docker"}, "docker_engine": "ssh://x"}, "DOCKER_ENGINE"),
    ],
)
def test_an_invalid_setting_is_named(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        _providers(**settings)
