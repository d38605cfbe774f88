"""Every server type reaches its provider, and no more homeservers run than may."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trafficlight.errors import ConfigError, DeployError, UnsupportedError
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.registry import Providers
from trafficlight.homeservers.resources import default_capacity
from trafficlight.server_types import HomeServerSpec

LOCAL = HomeServerSpec("SynapseStable", "synapse", "stable", "")
DOCKER = HomeServerSpec("Odd", "", "", "odd:latest")


class FakeServer:
    """A homeserver that only has a name."""

    version = "Fake 1"
    exited: str | None = None
    cs_api = "http://127.0.0.1:1"

    def __init__(self, role: str, provider: str) -> None:
        self.role = role
        self.server_name = f"{role}.{provider}"

    async def operate(self, operation: str) -> None:
        raise UnsupportedError(operation)


class FakeProvider:
    """Deploys names, and fails where it is told to."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
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
    providers = Providers(
        {"local": FakeProvider("local"), "docker": FakeProvider("docker")}, {"Odd": "docker"}, capacity=8
    )
    async with providers.deploy("case", _requests(LOCAL, DOCKER, LOCAL)) as servers:
        assert [server.server_name for server in servers] == ["role0.local", "role1.docker", "role2.local"]


async def test_each_provider_prepares_what_it_deploys() -> None:
    local, docker = FakeProvider("local"), FakeProvider("docker")
    providers = Providers({"local": local, "docker": docker}, {"Odd": "docker"})
    await providers.prepare([DOCKER, LOCAL])
    assert (local.prepared, docker.prepared) == ([LOCAL], [DOCKER])


def test_the_reason_comes_from_the_provider() -> None:
    local, docker = FakeProvider("local"), FakeProvider("docker")
    assert Providers({"local": local, "docker": docker}).unsupported(DOCKER) == "local cannot"
    assert Providers({"local": local, "docker": docker}, default="docker").unsupported(DOCKER) is None


@pytest.mark.parametrize(("by_type", "default"), [({"Odd": "dokcer"}, "local"), ({}, "locla")])
def test_a_provider_that_does_not_exist_is_named(by_type: dict[str, str], default: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no provider '(dokcer|locla)', only local"):
        Providers({"local": FakeProvider("local")}, by_type, default=default)


async def test_when_one_provider_fails_the_others_servers_go() -> None:
    local = FakeProvider("local")
    providers = Providers({"local": local, "docker": FakeProvider("docker", fails=True)}, {"Odd": "docker"})
    with pytest.raises(DeployError, match="case: no"):
        async with providers.deploy("case", _requests(LOCAL, DOCKER)):
            pytest.fail("it came up")
    assert local.running == 0
    assert providers.in_use == 0


async def test_no_more_run_than_may_and_who_came_first_goes_first() -> None:
    providers = Providers({"local": FakeProvider("local")}, capacity=3)
    order: list[str] = []
    most = 0

    async def case(name: str, count: int) -> None:
        nonlocal most
        async with providers.deploy(name, _requests(*[LOCAL] * count)):
            order.append(name)
            most = max(most, providers.in_use)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name, count in [("a", 2), ("b", 3), ("c", 1), ("d", 2)]:
            group.create_task(case(name, count))
    assert order == ["a", "b", "c", "d"]
    assert most == 3
    assert providers.in_use == 0


async def test_a_case_that_needs_more_than_there_may_be_runs_alone() -> None:
    providers = Providers({"local": FakeProvider("local")}, capacity=1)
    async with providers.deploy("large", _requests(LOCAL, LOCAL)) as servers:
        assert len(servers) == 2
        assert providers.in_use == 1


async def test_who_gives_up_waiting_takes_no_place() -> None:
    providers = Providers({"local": FakeProvider("local")}, capacity=1)

    async def case() -> None:
        async with providers.deploy("second", _requests(LOCAL)):
            pytest.fail("there was no room")

    async with providers.deploy("first", _requests(LOCAL)):
        waiting = asyncio.create_task(case())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert providers.in_use == 1
    assert providers.in_use == 0


async def test_closes_every_provider_even_when_one_fails_to() -> None:
    every = {name: FakeProvider(name, fails=name == "docker") for name in ("local", "docker", "static")}
    with pytest.raises(DeployError, match="cannot close"):
        await Providers(every).close()
    assert all(provider.closed for provider in every.values())


def test_the_default_capacity_is_what_the_machine_carries() -> None:
    assert Providers({"local": FakeProvider("local")}).capacity == default_capacity()
    assert 1 <= default_capacity() <= 8
