"""Homeservers started ahead: ready at once, used once, destroyed with the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
import pytest_asyncio

from tests.integration.homeservers.conftest import data_folders
from trafficlight.clients.home_server import register_account
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import SynapseStable

pytestmark = pytest.mark.asyncio(loop_scope="session")

Ask = Callable[..., ServerRequest]


@pytest_asyncio.fixture(loop_scope="session")
async def warm() -> AsyncIterator[LocalProvider]:
    """A local provider with two homeservers ready."""
    folders = data_folders()
    provider = LocalProvider(warm=2)
    await provider.prepare(SynapseStable().homeservers())
    await provider.pool.filled()
    yield provider
    await provider.close()
    assert not provider.servers
    assert data_folders() == folders


async def test_the_first_registration_is_answered_within_200_ms(warm: LocalProvider, ask: Ask) -> None:
    times = []
    for _ in range(3):
        await warm.pool.filled()
        assert warm.pool.ready == 2
        begun = time.monotonic()
        async with warm.deploy("pooled", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
            times.append(time.monotonic() - begun)
    assert min(times) < 0.2, times


async def test_its_log_goes_on_in_the_file_of_the_case(warm: LocalProvider, ask: Ask) -> None:
    request = ask("server")
    async with warm.deploy("log", [request]) as [server], aiohttp.ClientSession() as session:
        assert "STARTING SERVER" in request.log.read_text()  # from before the case
        async with session.get(f"{server.cs_api}/_matrix/client/v3/login?said=live") as answer:
            assert answer.status == 200
        assert "said=live" in request.log.read_text()
        await server.operate("restart")
        async with session.get(f"{server.cs_api}/_matrix/client/v3/login?said=restarted") as answer:
            assert answer.status == 200
    log = request.log.read_text()
    assert not request.log.is_symlink()
    assert log.count("STARTING SERVER") == 2
    assert log.count("said=live") == log.count("said=restarted") == 1


async def test_no_two_cases_get_the_same_server(warm: LocalProvider, ask: Ask) -> None:
    async def case(number: int) -> str:
        async with warm.deploy(f"case {number}", [ask(f"server{number}")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")
            return server.server_name

    names = await asyncio.gather(*(case(number) for number in range(6)))
    assert len(set(names)) == 6


async def test_two_warm_servers_federate(warm: LocalProvider, ask: Ask) -> None:
    async with (
        warm.deploy("pair", [ask("red"), ask("blue")]) as [red, blue],
        aiohttp.ClientSession() as session,
    ):
        alice = await register_account(red.cs_api, "alice", "a password")
        login = {"type": "m.login.password", "user": "bob", "password": "a password"}
        await register_account(blue.cs_api, "bob", "a password")
        async with session.post(f"{blue.cs_api}/_matrix/client/v3/login", json=login) as answer:
            headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
        url = f"{blue.cs_api}/_matrix/client/v3/profile/{alice}"
        async with session.get(url, headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"displayname": "alice"})


async def test_one_that_died_is_not_used(warm: LocalProvider, ask: Ask) -> None:
    for waiting in warm.servers:
        await waiting.operate("kill")
    async with warm.deploy("dead ones", [ask("server")]) as [server]:
        await register_account(server.cs_api, "alice", "a password")
    await warm.pool.filled()
    assert warm.pool.ready == 2


async def test_closing_while_filling_up_leaves_nothing(descendants: Callable[[], set[int]]) -> None:
    before, folders = descendants(), data_folders()
    provider = LocalProvider(warm=2)
    await provider.prepare(SynapseStable().homeservers())
    await provider.close()
    assert descendants() == before
    assert data_folders() == folders
