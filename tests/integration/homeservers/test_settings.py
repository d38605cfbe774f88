"""Settings of server types on real homeservers, and what their administrators do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import nio  # type: ignore[import-untyped,unused-ignore]
import pytest

from trafficlight.clients.home_server import HomeServer
from trafficlight.errors import DeployError, LabError, UnsupportedError
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import Dendrite, ServerType, SynapseStable

pytestmark = pytest.mark.asyncio(loop_scope="session")

Ask = Callable[..., ServerRequest]


@asynccontextmanager
async def running(local: LocalProvider, request: ServerRequest) -> AsyncIterator[HomeServer]:
    async with local.deploy("settings", [request]) as [found]:
        server = HomeServer(found.server_name, found.cs_api, version=found.version)
        try:
            yield server
        finally:
            await server.close()


async def test_a_test_limits_the_rate_and_puts_presence_on(local: LocalProvider, ask: Ask) -> None:
    config = {
        "rc_login": {"failed_attempts": {"per_second": 0.01, "burst_count": 2}},
        "presence": {"enabled": True},
        "turn_uris": ["turn:turn.example"],
        "turn_shared_secret": "shared",
    }
    async with running(local, ask("server", SynapseStable(config=config))) as server:
        user = await server.nio_client("carol")
        answer = await user.set_presence("unavailable", "away")
        assert isinstance(answer, nio.PresenceSetResponse), answer
        status = await user.get_presence(user.user_id)
        assert (status.presence, status.status_msg) == ("unavailable", "away")
        assert (await _get(server, "voip/turnServer", user.access_token))["uris"] == ["turn:turn.example"]
        body = {"type": "m.login.password", "user": "carol", "password": "wrong"}
        async with aiohttp.ClientSession() as session:
            codes = []
            for _ in range(3):
                async with session.post(f"{server.cs_api}/_matrix/client/v3/login", json=body) as answer:
                    codes.append(answer.status)
    assert codes[-1] == 429


@pytest.mark.parametrize("kind", [SynapseStable, pytest.param(Dendrite, marks=pytest.mark.network)])
async def test_settings_change_with_a_restart(local: LocalProvider, ask: Ask, kind: type[ServerType]) -> None:
    turn = {"turn_uris": ["turn:later.example"], "turn_shared_secret": "shared", "turn_user_lifetime": "1h"}
    config = {"client_api": {"turn": turn}} if kind is Dendrite else turn
    async with local.deploy("later", [ask("server", _needed(local, kind()))]) as [found]:
        server = HomeServer(found.server_name, found.cs_api, version=found.version)
        user = await server.nio_client("carol")
        assert "uris" not in await _get(server, "voip/turnServer", user.access_token)
        await found.operate("restart", config)
        assert (await _get(server, "voip/turnServer", user.access_token))["uris"] == ["turn:later.example"]
        with pytest.raises(
            DeployError, match=r"^server: \w+ .* has no setting turn_uri; did you mean turn_uris\?$"
        ):
            await found.operate("restart", {"turn_uri": []})
        # It still runs.
        assert (await _get(server, "voip/turnServer", user.access_token))["uris"] == ["turn:later.example"]
        await server.close()


async def test_a_second_initial_sync_has_what_happened_since_the_first(
    local: LocalProvider, ask: Ask
) -> None:
    async with running(local, ask("server")) as server:
        user = await server.nio_client("carol")
        room = (await user.room_create()).room_id
        first = (await user.sync(timeout=0, full_state=True)).next_batch
        await user.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "hello"})
        user.next_batch = ""  # as a client that starts again with an empty store
        assert (await user.sync(timeout=0, full_state=True)).next_batch != first


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"presense": {}}, r"Synapse .* has no setting presense; did you mean presence\?$"),
        ({"rc_message": {"per_sec": 1}}, r"Synapse .* has no setting per_sec; did you mean per_second\?$"),
        (
            {"turn_user_lifetime": "soon"},
            r'^server: Synapse .* exited .*, with \{"turn_user_lifetime": "soon"\}: TypeError: Bad duration',
        ),
    ],
)
async def test_what_is_wrong_with_a_setting_is_said(
    local: LocalProvider, ask: Ask, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DeployError, match=problem):
        async with local.deploy("wrong", [ask("server", SynapseStable(config=config))]):
            pytest.fail("it was deployed")


async def test_an_administrator_looks_after_users(local: LocalProvider, ask: Ask) -> None:
    async with running(local, ask("server")) as server:
        carol = await server.admin.create_user("Carol", "a password")
        assert carol == f"@carol:{server.server_name}"
        device = (await server.nio_client("carol", "a password")).device_id
        assert device in [one["device_id"] for one in await server.admin.devices("carol")]
        await server.admin.delete_device(carol, device)
        assert device not in [one["device_id"] for one in await server.admin.devices("carol")]
        await server.admin.shadow_ban("Carol")
        assert (await server.admin.request("GET", f"/_synapse/admin/v2/users/{carol}"))["shadow_banned"]
        await server.admin.deactivate_user("Carol")
        with pytest.raises(LabError, match=r"M_FORBIDDEN|M_USER_DEACTIVATED"):
            await server.nio_client("carol", "a password")
        with pytest.raises(LabError, match=r"GET /_synapse/admin/v2/users/@x: 400 .*"):
            await server.admin.request("GET", "/_synapse/admin/v2/users/@x")


async def test_an_administrator_looks_after_rooms(local: LocalProvider, ask: Ask) -> None:
    notices = SynapseStable(config={"server_notices": {"system_mxid_localpart": "notices"}})
    async with running(local, ask("server", notices)) as server:
        user = await server.nio_client("carol")
        room = (await user.room_create()).room_id
        message = {"msgtype": "m.text", "body": "hello"}
        events = [(await user.room_send(room, "m.room.message", message)).event_id for _ in range(2)]
        assert [one["room_id"] for one in await server.admin.rooms()] == [room]
        await server.admin.purge_history(room, before=events[1])
        left = [event.event_id for event in (await user.room_messages(room, limit=100)).chunk]
        assert events[1] in left
        assert events[0] not in left
        assert (await server.admin.send_server_notice("carol", "maintenance")).startswith("$")


async def test_a_homeserver_with_another_secret_has_no_administrator(local: LocalProvider, ask: Ask) -> None:
    other = SynapseStable(config={"registration_shared_secret": "another"})
    async with running(local, ask("server", other)) as server:
        with pytest.raises(UnsupportedError, match=r"^no administrator with the shared secret: .* 403 "):
            await server.admin.rooms()


@pytest.mark.network
async def test_what_a_homeserver_does_not_have_is_unsupported(local: LocalProvider, ask: Ask) -> None:
    request = ask("server", _needed(local, Dendrite(config={"client_api": {"guests_disabled": True}})))
    async with running(local, request) as server:
        assert await server.admin.create_user("carol", "a password") == f"@carol:{server.server_name}"
        with pytest.raises(UnsupportedError, match=r"^Dendrite .* has no GET /_synapse/admin/v1/rooms$"):
            await server.admin.rooms()


def _needed(local: LocalProvider, server_type: ServerType) -> ServerType:
    if (reason := local.unsupported(server_type.homeservers()[0])) is not None:
        pytest.skip(reason)
    return server_type


async def _get(server: HomeServer, path: str, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{server.cs_api}/_matrix/client/v3/{path}") as answer,
    ):
        found: dict[str, Any] = await answer.json()
        return found
