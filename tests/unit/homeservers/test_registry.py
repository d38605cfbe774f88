"""Every server type reaches its provider, and all know what carries how many."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from trafficlight.errors import ConfigError, DeployError, UnsupportedError
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.registry import ProviderRegistry
from trafficlight.server_types import Dendrite, HomeServerSpec, SynapseStable

LOCAL = HomeServerSpec("SynapseStable", "synapse", "stable", "")
DOCKER = HomeServerSpec("Odd", "", "", "odd:latest")


class FakeServer:
    """A homeserver that only has a name."""

    version = "Fake 1"
    image = ""
    federation = None
    exited: str | None = None
    cs_api = "http://127.0.0.1:1"

    def __init__(self, role: str, provider: str) -> None:
        self.role = role
        self.server_name = f"{role}.{provider}"

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        raise UnsupportedError(operation)


class FakeProvider:
    """Deploys names, and fails on demand."""

    def __init__(self, name: str, *, fails: bool = False, capacities: dict[str, int] | None = None) -> None:
        self.name = name
        self.capacities = capacities or {}
        self.fails = fails
        self.prepared: list[HomeServerSpec] = []
        self.running = 0
        self.closed = False

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        return None if spec.recipe or self.name == "docker" else f"{self.name} cannot"

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        self.prepared.extend(specs)

    @asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        if self.fails:
            raise DeployError(f"{case_id}: no")
        self.running += len(requests)
        try:
            yield [FakeServer(request.role, self.name) for request in requests]
        finally:
            self.running -= len(requests)

    async def close(self) -> None:
        self.closed = True
        if self.fails:
            raise DeployError("cannot close")


def _requests(*specs: HomeServerSpec) -> list[ServerRequest]:
    return [ServerRequest(f"role{index}", spec, Path("log")) for index, spec in enumerate(specs)]


async def test_each_type_comes_from_its_provider_in_the_order_of_the_requests() -> None:
    providers = ProviderRegistry(
        {"local": FakeProvider("local"), "docker": FakeProvider("docker")}, {"Odd": "docker"}
    )
    async with providers.deploy("case", _requests(LOCAL, DOCKER, LOCAL)) as servers:
        assert [server.server_name for server in servers] == ["role0.local", "role1.docker", "role2.local"]


async def test_each_provider_prepares_what_it_deploys() -> None:
    local, docker = FakeProvider("local"), FakeProvider("docker")
    providers = ProviderRegistry({"local": local, "docker": docker}, {"Odd": "docker"})
    await providers.prepare([DOCKER, LOCAL])
    assert (local.prepared, docker.prepared) == ([LOCAL], [DOCKER])


def test_the_reason_comes_from_the_provider() -> None:
    local, docker = FakeProvider("local"), FakeProvider("docker")
    assert ProviderRegistry({"local": local, "docker": docker}).unsupported(DOCKER) == "local cannot"
    assert ProviderRegistry({"local": local, "docker": docker}, default="docker").unsupported(DOCKER) is None


@pytest.mark.parametrize(("by_type", "default"), [({"Odd": "dokcer"}, "local"), ({}, "locla")])
def test_a_provider_that_does_not_exist_is_named(by_type: dict[str, str], default: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no provider '(dokcer|locla)', only local"):
        ProviderRegistry({"local": FakeProvider("local")}, by_type, default=default)


async def test_when_one_provider_fails_the_others_servers_go() -> None:
    local = FakeProvider("local")
    providers = ProviderRegistry(
        {"local": local, "docker": FakeProvider("docker", fails=True)}, {"Odd": "docker"}
    )
    with pytest.raises(DeployError, match="case: no"):
        async with providers.deploy("case", _requests(LOCAL, DOCKER)):
            pytest.fail("it was deployed")
    assert local.running == 0


async def test_closes_every_provider_even_when_one_fails_to() -> None:
    every = {name: FakeProvider(name, fails=name == "docker") for name in ("local", "docker", "static")}
    with pytest.raises(DeployError, match="cannot close"):
        await ProviderRegistry(every).close()
    assert all(provider.closed for provider in every.values())


def test_what_carries_homeservers_is_asked_for_each_time() -> None:
    docker = FakeProvider("docker", capacities={"docker homeservers": 4})
    local = FakeProvider("local", capacities={"local homeservers": 8})
    every = {"local": local, "docker": docker, "static": FakeProvider("s")}
    providers = ProviderRegistry(every, {"Odd": "docker"})
    assert providers.capacities == {"local homeservers": 8, "docker homeservers": 4}
    assert (providers.provider_name("Odd"), providers.provider_name("Other")) == ("docker", "local")
    docker.capacities = {"docker homeservers": 0}
    assert providers.capacities == {"local homeservers": 8, "docker homeservers": 0}


def test_settings_of_a_type_need_a_local_homeserver() -> None:
    providers = {"local": FakeProvider("local"), "docker": FakeProvider("docker")}
    registry = ProviderRegistry(providers, {"SynapseStable": "docker"})
    configured = SynapseStable(config={"presence": {"enabled": True}}).homeservers()[0]
    reason = (
        "SynapseStable(presence.enabled=true): settings of a server type need the provider local, not docker"
    )
    assert registry.unsupported(configured) == reason
    assert registry.unsupported(Dendrite(config={"global": {}}).homeservers()[0]) is None


def test_only_local_homeservers_are_behind_the_proxy() -> None:
    every = {"local": FakeProvider("local"), "docker": FakeProvider("docker")}
    providers = ProviderRegistry(every, {"Odd": "docker"})
    assert providers.unsupported(replace(LOCAL, behind_proxy=True)) is None
    reason = (
        "Odd: the network between homeservers needs the provider local, not docker, where the lab does not"
        " choose the port at which they find each other"
    )
    assert providers.unsupported(replace(DOCKER, behind_proxy=True)) == reason
