"""Which tests have homeservers of their own although others share them."""

from pathlib import Path
from typing import Any

import pytest

import trafficlight.tests
from trafficlight import HomeServer, MatrixClient, Test
from trafficlight.suites.isolation import changes_servers
from trafficlight.suites.planning import plan


async def _end(server: HomeServer) -> None:
    await server.kill()


class _Helper:
    def __init__(self, server: HomeServer) -> None:
        self.server = server

    async def users(self) -> Any:
        return await self.server.admin.request("GET", "/_synapse/admin/v2/users")


class _Disturbed(Test):
    async def disturb(self, alice: MatrixClient) -> None:
        async with alice.network.offline():
            await alice.logout()


class Sends(Test):
    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await alice.register(server)
        await self.eventually(lambda: alice.user_id, message="kill and restart")


class Restarts(Test):
    async def run(self, server: HomeServer) -> None:
        await server.restart()


class InAHelper(Test):
    async def run(self, server: HomeServer) -> None:
        await _end(server)


class InAnInnerFunction(Test):
    async def run(self, server: HomeServer) -> None:
        async def pause() -> None:
            await server.pause()

        await pause()


class InAnotherClass(Test):
    async def setup(self, server: HomeServer) -> None:
        await _Helper(server).users()

    async def run(self, server: HomeServer) -> None: ...


class InABase(_Disturbed):
    async def run(self, alice: MatrixClient, server: HomeServer) -> None:
        await self.disturb(alice)


def test_a_test_that_only_talks_shares() -> None:
    assert not changes_servers(Sends)


@pytest.mark.parametrize("cls", [Restarts, InAHelper, InAnInnerFunction, InAnotherClass, InABase])
def test_what_changes_a_homeserver_is_found(cls: type[Test]) -> None:
    assert changes_servers(cls)


def test_of_the_suites_that_ship_those_that_disturb_are_isolated(tmp_path: Path) -> None:
    suites = Path(trafficlight.tests.__file__).parent

    def isolated(*names: str) -> set[bool]:
        cases = plan([suites / name for name in names], directory=tmp_path).cases
        return {case.isolated for case in cases}

    assert isolated("chat", "messages") == {False}
    assert isolated("network") == {True}


def test_a_test_can_ask_for_homeservers_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a_test.py"
    path.write_text(
        "from trafficlight import Test\n"
        "from trafficlight.server_types import SynapseStable\n"
        "class A(Test):\n"
        "    servers = {'server': SynapseStable}\n"
        "    async def run(self, server): ...\n"
        "class B(Test):\n"
        "    isolated = True\n"
        "    servers = A.servers\n"
        "    async def run(self, server): ...\n"
    )

    planned = plan([path], directory=tmp_path)

    assert planned.problems == ()
    assert [case.isolated for case in planned.cases] == [False, True]
