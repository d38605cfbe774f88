"""What every provider promises, shown on real homeservers."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import nio  # type: ignore[import-untyped,unused-ignore]
import pytest

from trafficlight.clients.home_server import register_account
from trafficlight.errors import UnsupportedError
from trafficlight.homeservers.provider import Provider, RunningServer, ServerRequest
from trafficlight.server_types import HomeServerSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

Ask = Callable[..., ServerRequest]
SignUp = Callable[[RunningServer, str], Awaitable[nio.AsyncClient]]
Talk = Callable[[nio.AsyncClient, nio.AsyncClient], Awaitable[str]]
Hear = Callable[[nio.AsyncClient, str, str], Awaitable[None]]


@pytest.mark.parametrize("count", [1, 3])
async def test_deploys_servers_in_the_order_of_the_requests(every: Provider, ask: Ask, count: int) -> None:
    roles = [f"server{number}" for number in range(count)]
    async with every.deploy("order", [ask(role) for role in roles]) as servers:
        assert [server.role for server in servers] == roles
        assert len({server.server_name for server in servers}) == count
        assert len({server.cs_api for server in servers}) == count
        assert all(not server.cs_api.endswith("/") for server in servers)


async def test_versions_answer_and_users_register(every: Provider, ask: Ask) -> None:
    async with every.deploy("versions", [ask("server")]) as [server], aiohttp.ClientSession() as session:
        async with session.get(f"{server.cs_api}/_matrix/client/versions") as answer:
            assert answer.status == 200
            assert (await answer.json())["versions"]
        assert server.version.split()[0] == "Synapse"
        assert (
            await register_account(server.cs_api, "versions", "a password")
            == f"@versions:{server.server_name}"
        )


async def test_each_case_gets_an_empty_server(fresh: Provider, ask: Ask) -> None:
    for _ in range(2):
        async with fresh.deploy("fresh", [ask("server")]) as [server]:
            await register_account(server.cs_api, "alice", "a password")  # refused where alice exists already


async def test_servers_federate_both_ways(every: Provider, ask: Ask, sign_up: SignUp, talk: Talk) -> None:
    async with every.deploy("federation", [ask("red"), ask("blue")]) as [red, blue]:
        await talk(await sign_up(red, "alice"), await sign_up(blue, "bob"))
        await talk(await sign_up(blue, "carol"), await sign_up(red, "dave"))


async def test_the_log_is_in_the_results_when_the_deployment_is_left(provider: Provider, ask: Ask) -> None:
    request = ask("server")
    async with provider.deploy("log", [request]) as [server]:
        await register_account(server.cs_api, "alice", "a password")
    assert not request.log.is_symlink()
    log = request.log.read_text()
    assert server.server_name in log
    assert "/_matrix/client/v3/register" in log


async def test_destroyed_when_the_case_ends_well(fresh: Provider, ask: Ask) -> None:
    async with fresh.deploy("ends well", [ask("server")]) as [server]:
        pass
    await _assert_gone(server)


async def test_destroyed_when_the_case_raises(fresh: Provider, ask: Ask) -> None:
    with pytest.raises(ZeroDivisionError):
        async with fresh.deploy("raises", [ask("server")]) as [server]:
            raise ZeroDivisionError
    await _assert_gone(server)


async def test_destroyed_when_the_case_is_cancelled(fresh: Provider, ask: Ask) -> None:
    deployed: asyncio.Future[RunningServer] = asyncio.get_running_loop().create_future()

    async def case() -> None:
        async with fresh.deploy("cancelled", [ask("server")]) as [server]:
            deployed.set_result(server)
            await asyncio.Event().wait()

    task = asyncio.create_task(case())
    server = await deployed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _assert_gone(server)


async def test_restart_keeps_data(provider: Provider, ask: Ask, sign_up: SignUp) -> None:
    async with provider.deploy("restart", [ask("server")]) as [server]:
        client = await sign_up(server, "alice")
        created = await client.room_create(name="before")
        assert isinstance(created, nio.RoomCreateResponse)
        await server.operate("restart")
        state = await client.room_get_state_event(created.room_id, "m.room.name")
        assert isinstance(state, nio.RoomGetStateEventResponse)
        assert state.content == {"name": "before"}


async def test_a_killed_server_comes_back_with_its_data(
    provider: Provider, ask: Ask, sign_up: SignUp
) -> None:
    async with provider.deploy("kill", [ask("server")]) as [server]:
        client = await sign_up(server, "alice")
        await server.operate("kill")
        with pytest.raises(aiohttp.ClientError):
            await _versions(server)
        await server.operate("start")
        assert isinstance(await client.whoami(), nio.WhoamiResponse)


async def test_a_stopped_server_is_down_until_it_is_started(provider: Provider, ask: Ask) -> None:
    async with provider.deploy("stop", [ask("server")]) as [server]:
        await server.operate("stop")
        with pytest.raises(aiohttp.ClientError):
            await _versions(server)
        await server.operate("start")
        await _versions(server)


async def test_a_paused_server_answers_when_it_goes_on(provider: Provider, ask: Ask) -> None:
    async with provider.deploy("pause", [ask("server")]) as [server]:
        await server.operate("pause")
        asking = asyncio.create_task(_versions(server))
        done, _ = await asyncio.wait([asking], timeout=0.5)
        assert not done
        await server.operate("unpause")
        await asking


async def test_a_paused_server_is_destroyed_all_the_same(provider: Provider, ask: Ask) -> None:
    async with provider.deploy("pause", [ask("server")]) as [server]:
        await server.operate("pause")
    await _assert_gone(server)


async def test_an_unknown_operation_is_unsupported(every: Provider, ask: Ask) -> None:
    async with every.deploy("unknown", [ask("server")]) as [server]:
        with pytest.raises(UnsupportedError, match="defenestrate"):
            await server.operate("defenestrate")


async def test_a_message_waits_for_a_server_that_is_down(
    provider: Provider, ask: Ask, sign_up: SignUp, talk: Talk, hear: Hear
) -> None:
    async with provider.deploy("catch up", [ask("red"), ask("blue")]) as [red, blue]:
        alice, bob = await sign_up(red, "alice"), await sign_up(blue, "bob")
        room = await talk(alice, bob)
        await blue.operate("kill")
        content = {"msgtype": "m.text", "body": "while you were out"}
        sent = await alice.room_send(room, "m.room.message", content)
        assert isinstance(sent, nio.RoomSendResponse), sent
        await blue.operate("start")
        await hear(bob, room, "while you were out")


async def test_what_it_cannot_deploy_has_a_reason(every: Provider) -> None:
    reason = every.unsupported(HomeServerSpec("Nonesuch", "nonesuch", "stable", ""))
    assert reason is not None
    assert "nonesuch" in reason


async def _versions(server: RunningServer) -> None:
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{server.cs_api}/_matrix/client/versions") as answer,
    ):
        answer.raise_for_status()


async def _assert_gone(server: RunningServer) -> None:
    with pytest.raises(aiohttp.ClientError):
        await _versions(server)
