"""The nio adapter on a real Synapse: encrypted for real, and honest about what it saw."""

import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from trafficlight.adapters.conformance import Reply, ScriptedAdapter, ScriptedCoordinator
from trafficlight.adapters.nio.adapter import NioAdapter
from trafficlight.adapters.sdk import JsonObject, run
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.server_types import SynapseStable

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = [sys.executable, "-m", "trafficlight", "adapter", "nio", "--count", "2", "--url"]


@dataclass(eq=False)
class User:
    """A client of a user, as a test drives it."""

    adapter: ScriptedAdapter
    server: RunningServer
    localpart: str
    password: str = "correct horse"

    @property
    def user_id(self) -> str:
        return f"{self.localpart}:{self.server.server_name}"

    @property
    def account(self) -> JsonObject:
        url = {"local": self.server.cs_api, "local_docker": self.server.cs_api}
        return {"username": self.localpart, "password": self.password, "homeserver_url": url}

    async def ask(self, action: str, **data: Any) -> Reply:
        reply = await self.adapter.act(action, data, timeout=60)
        assert reply is not None, f"{action} was not answered"
        return reply

    async def do(self, action: str, **data: Any) -> JsonObject:
        reply = await self.ask(action, **data)
        assert reply.kind == "respond", reply.body["error"]["details"]
        body: JsonObject = reply.body
        return body

    async def fails(self, action: str, **data: Any) -> str:
        """Perform an action that is to fail, and return what the client said."""
        reply = await self.ask(action, **data)
        assert reply.kind == "error", reply.body
        error = reply.body["error"]
        assert error["type"] == "action", error
        return str(error["details"]).partition("\n")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[RunningServer]]:
    """Two homeservers that federate."""
    provider = LocalProvider()
    spec, logs = SynapseStable().homeservers()[0], tmp_path_factory.mktemp("logs")
    requests = [ServerRequest(role, spec, logs / f"{role}.log") for role in ("server", "other")]
    try:
        async with provider.deploy("nio", requests) as running:
            yield running
    finally:
        await provider.close()


@pytest.fixture(scope="module")
def server(servers: list[RunningServer]) -> RunningServer:
    """The one homeserver that most tests need."""
    return servers[0]


@pytest_asyncio.fixture(loop_scope="module")
async def coordinator() -> AsyncIterator[ScriptedCoordinator]:
    async with ScriptedCoordinator() as coordinator:
        yield coordinator


@pytest.fixture
def short_deadline(coordinator: ScriptedCoordinator) -> None:
    """Make clients time out early, where a test waits for that."""
    coordinator.deadlines["action"] = 4


@pytest_asyncio.fixture(loop_scope="module")
async def users(coordinator: ScriptedCoordinator, server: RunningServer) -> AsyncIterator[list[User]]:
    """Alice and bob, each with a client of their own, not logged in."""
    task = asyncio.create_task(run(NioAdapter, coordinator.url, count=2))
    try:
        yield await two_users(coordinator, server)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def two_users(coordinator: ScriptedCoordinator, server: RunningServer) -> list[User]:
    mark = secrets.token_hex(4)
    adapters = [await coordinator.registered(number, timeout=60) for number in (1, 2)]
    return [
        User(adapter, server, f"{name}-{mark}")
        for adapter, name in zip(adapters, ("alice", "bob"), strict=True)
    ]


async def meet(alice: User, bob: User) -> None:
    """Register both and bring them into one room."""
    await asyncio.gather(alice.do("register", **alice.account), bob.do("register", **bob.account))
    await alice.do("create_room", name="tea", topic="how to make it")
    await alice.do("invite_user", userId=bob.user_id)
    await bob.do("accept_invite")


@asynccontextmanager
async def api(user: User) -> AsyncIterator[aiohttp.ClientSession]:
    """The client-server API as another session of the user, without any encryption."""
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.localpart},
        "password": user.password,
    }
    async with aiohttp.ClientSession(user.server.cs_api) as http:
        async with http.post("/_matrix/client/v3/login", json=login) as answer:
            token = (await answer.json())["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        yield http


async def events_on_the_server(user: User) -> list[JsonObject]:
    """What the homeserver keeps of the messages of the user's only room."""
    async with api(user) as http:
        async with http.get("/_matrix/client/v3/joined_rooms") as answer:
            [room_id] = (await answer.json())["joined_rooms"]
        async with http.get(
            f"/_matrix/client/v3/rooms/{room_id}/messages", params={"dir": "f", "limit": "100"}
        ) as answer:
            chunk: list[JsonObject] = (await answer.json())["chunk"]
    return [event for event in chunk if event["type"] in ("m.room.message", "m.room.encrypted")]


@pytest.mark.parametrize("name", ["a+b/c=d.", "Alice"])
async def test_legal_names(users: list[User], name: str) -> None:
    alice, _ = users
    alice.localpart = name + alice.localpart
    await alice.do("register", **alice.account)
    await alice.do("create_room", name="mine")
    await alice.do("send_message", message="to myself")
    await alice.do("verify_message_in_timeline", message="to myself")
    [message] = (await alice.do("get_timeline"))["timeline"]
    assert message["user"] == f"@{alice.user_id.lower()}"
    await alice.do("logout")
    await alice.do("login", **alice.account)


async def test_an_initial_sync_is_never_an_old_one(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    first = {"filter": '{"room": {"timeline": {"limit": 100}}}'}
    async with api(alice) as http:
        async with http.get("/_matrix/client/v3/sync", params=first) as answer:
            before = await answer.json()
        await bob.do("send_message", message="since then")
        async with http.get("/_matrix/client/v3/sync", params=first) as answer:
            after = await answer.json()
    [room_before], [room_after] = (list(one["rooms"]["join"].values()) for one in (before, after))
    assert len(room_after["timeline"]["events"]) == len(room_before["timeline"]["events"]) + 1


async def test_two_clients_in_another_process_exchange_encrypted_messages(
    coordinator: ScriptedCoordinator, server: RunningServer
) -> None:
    process = await asyncio.create_subprocess_exec(*PROGRAM, coordinator.url)
    try:
        alice, bob = await two_users(coordinator, server)
        await meet(alice, bob)
        await alice.do("send_message", message="with milk")
        await bob.do("verify_message_in_timeline", message="with milk")
        await bob.do("send_message", message="without")
        await alice.do("verify_message_in_timeline", message="without")
        await bob.do("verify_message_in_timeline", message="without")  # its own sync brings it a little later
        answer = await bob.do("get_timeline")
        assert answer["response"] == "got_timeline"
        assert [(entry["user"], entry["message"]) for entry in answer["timeline"]] == [
            (f"@{alice.user_id}", "with milk"),
            (f"@{bob.user_id}", "without"),
        ]
        kept = await events_on_the_server(alice)
        assert [event["type"] for event in kept] == ["m.room.encrypted"] * 2
        assert {event["content"]["algorithm"] for event in kept} == {"m.megolm.v1.aes-sha2"}
        assert all("body" not in event["content"] for event in kept)
        await bob.do("kill")
        await alice.do("send_message", message="still there?")
        await bob.do("restart")
        await bob.do("verify_message_in_timeline", message="still there?")
        await bob.do("verify_message_in_timeline", message="with milk")
        await bob.do("send_message", message="of course")
        await alice.do("verify_message_in_timeline", message="of course")
        assert (await bob.do("get_trust", userId=bob.user_id))["trust"] == "verified"
        await bob.do("clear_storage")
        # Its host reports a failed action as a response, after which the client stays in the case.
        assert "no room is open" in (await bob.do("get_timeline"))["details"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_invited_user_reads_an_earlier_message(users: list[User]) -> None:
    alice, bob = users
    await asyncio.gather(alice.do("register", **alice.account), bob.do("register", **bob.account))
    await alice.do("create_room", name="tea")
    await alice.do("invite_user", userId=f"@{bob.user_id}")
    await alice.do("send_message", message="come in")
    await bob.do("accept_invite")
    await bob.do("verify_message_in_timeline", message="come in")


async def test_invited_user_on_another_homeserver_reads_and_answers(
    users: list[User], servers: list[RunningServer]
) -> None:
    alice, bob = users
    bob.server = servers[1]
    await asyncio.gather(alice.do("register", **alice.account), bob.do("register", **bob.account))
    await alice.do("create_room", name="tea")
    await alice.do("invite_user", userId=bob.user_id)
    await alice.do("send_message", message="come in")
    await bob.do("accept_invite")
    await bob.do("verify_message_in_timeline", message="come in")
    await bob.do("send_message", message="hello")
    await alice.do("verify_message_in_timeline", message="hello")


@pytest.mark.usefixtures("short_deadline")
async def test_wrong_expectation_is_an_action_error_that_says_what_was_seen(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await alice.do("send_message", message="with milk")
    await bob.do("verify_message_in_timeline", message="with milk")
    said = await asyncio.gather(
        bob.fails("verify_message_in_timeline", message="with lemon"),
        alice.fails("verify_last_message_is_utd"),
    )
    assert "expected the message 'with lemon' within" in said[0]
    assert "ends with: 'with milk' by @alice" in said[0]
    assert "expected an undecryptable last message" in said[1]


async def test_unencrypted_message_in_an_encrypted_room_fails(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    async with api(alice) as http:
        async with http.get("/_matrix/client/v3/joined_rooms") as answer:
            [room_id] = (await answer.json())["joined_rooms"]
        body = {"msgtype": "m.text", "body": "overheard"}
        async with http.put(f"/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1", json=body) as answer:
            assert answer.status == 200
    said = await bob.fails("verify_message_in_timeline", message="overheard")
    assert "'overheard' arrived unencrypted in an encrypted room" in said


async def test_reload_keeps_keys_and_timeline(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await alice.do("send_message", message="with milk")
    await bob.do("verify_message_in_timeline", message="with milk")
    await bob.do("reload")
    await bob.do("verify_message_in_timeline", message="with milk")
    await bob.do("send_message", message="still here")
    await alice.do("verify_message_in_timeline", message="still here")
    await alice.do("send_message", message="good")
    await bob.do("verify_message_in_timeline", message="good")
    assert len((await bob.do("get_timeline"))["timeline"]) == 3


async def test_cleared_storage_loses_the_keys(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await alice.do("send_message", message="with milk")
    await bob.do("verify_message_in_timeline", message="with milk")
    await bob.do("clear_idb_storage")
    await bob.do("verify_last_message_is_utd")
    [entry] = (await bob.do("get_timeline"))["timeline"]
    assert entry["user"] == f"@{alice.user_id}"
    assert entry["e2e_issues"] == ["undecryptable"]
    assert entry["message"] == ""
    assert "undecryptable" in entry
    await alice.do("send_message", message="once more")
    await bob.do("verify_message_in_timeline", message="once more")


async def test_second_device_gets_what_is_sent_from_then_on(users: list[User]) -> None:
    alice, bob = users
    await alice.do("register", **alice.account)
    await alice.do("create_room", name="notes")
    await alice.do("send_message", message="first device")
    await bob.do("login", **alice.account)
    await bob.do("open_room", name="notes")
    await bob.do("verify_last_message_is_utd")
    await alice.do("send_message", message="both devices")
    await bob.do("verify_message_in_timeline", message="both devices")
    await bob.do("send_message", message="back")
    await alice.do("verify_message_in_timeline", message="back")


async def shields(user: User) -> dict[str, str]:
    """The shield of each message of the open room."""
    timeline = (await user.do("get_timeline"))["timeline"]
    return {entry["message"]: entry["shield"] for entry in timeline}


async def verified_devices(user: User) -> list[bool]:
    return sorted(device["verified"] for device in (await user.do("get_devices"))["devices"])


async def test_identity_is_created_at_registration_and_kept(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    assert (await alice.do("get_trust", userId=alice.user_id))["trust"] == "verified"
    assert (await bob.do("get_trust", userId=alice.user_id))["trust"] == "unverified"
    assert await verified_devices(alice) == [True]
    await alice.do("send_message", message="signed")
    await bob.do("verify_message_in_timeline", message="signed")
    await bob.do("verify_last_message_is_trusted")
    await alice.do("reload")
    await bob.do("reload")
    assert (await alice.do("get_trust", userId=alice.user_id))["trust"] == "verified"
    assert await shields(bob) == {"signed": "none"}


async def test_new_device_of_an_account_with_an_identity_is_unsigned(users: list[User]) -> None:
    alice, bob = users
    await alice.do("register", **alice.account)
    await alice.do("create_room", name="notes")
    await bob.do("login", **alice.account)
    await bob.do("open_room", name="notes")
    await alice.do("send_message", message="signed")
    await bob.do("verify_message_in_timeline", message="signed")
    await bob.do("send_message", message="unsigned")
    await alice.do("verify_message_in_timeline", message="unsigned")
    await alice.do("verify_message_in_timeline", message="signed")
    assert await shields(alice) == await shields(bob) == {"signed": "none", "unsigned": "grey"}
    assert await verified_devices(alice) == [False, True]
    assert await verified_devices(bob) == [False, False]


async def test_login_creates_the_identity_that_an_account_lacks(users: list[User]) -> None:
    alice, bob = users
    await bob.do("register", **bob.account)
    body = {
        "username": alice.localpart,
        "password": alice.password,
        "inhibit_login": True,
        "auth": {"type": "m.login.dummy"},
    }
    async with (
        aiohttp.ClientSession(alice.server.cs_api) as http,
        http.post("/_matrix/client/v3/register", json=body) as answer,
    ):
        assert answer.status == 200
    assert (await bob.do("get_trust", userId=alice.user_id))["trust"] == "unknown"
    await alice.do("login", **alice.account)
    assert await verified_devices(alice) == [True]
    assert (await bob.do("get_trust", userId=alice.user_id))["trust"] == "unverified"


@pytest.mark.usefixtures("short_deadline")
async def test_reset_identity_is_a_change_for_others(users: list[User], servers: list[RunningServer]) -> None:
    alice, bob = users
    bob.server = servers[1]
    await meet(alice, bob)
    await alice.do("send_message", message="before")
    await bob.do("verify_message_in_timeline", message="before")
    await alice.do("reset_identity")
    assert (await alice.do("get_trust", userId=alice.user_id))["trust"] == "verified"
    assert await verified_devices(alice) == [True]
    await alice.do("send_message", message="after")
    await bob.do("verify_message_in_timeline", message="after")
    assert (await bob.do("get_trust", userId=alice.user_id))["trust"] == "changed"
    assert await shields(bob) == {"before": "grey", "after": "grey"}
    assert "expected a trusted last message" in await bob.fails("verify_last_message_is_trusted")


async def test_users_verify_each_other_by_emoji_in_a_room(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await alice.do("start_crosssign", userId=bob.user_id)
    await bob.do("accept_crosssign")
    shown = [(await user.do("get_emoji"))["emoji"] for user in users]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 7

    await asyncio.gather(*(user.do("verify_crosssign_emoji") for user in users))

    assert (await alice.do("get_trust", userId=bob.user_id))["trust"] == "verified"
    assert (await bob.do("get_trust", userId=alice.user_id))["trust"] == "verified"
    await alice.do("verify_trusted_device")


async def test_own_devices_verify_each_other_and_a_cancellation_is_seen(users: list[User]) -> None:
    old, new = users
    new.localpart = old.localpart
    await old.do("register", **old.account)
    await new.do("login", **new.account)

    await new.do("start_crosssign")
    await old.do("accept_crosssign")
    await asyncio.gather(*(user.do("verify_crosssign_emoji") for user in users))
    devices = (await old.do("get_devices"))["devices"]
    assert [device["verified"] for device in devices] == [True, True]

    await new.do("start_crosssign")
    await old.do("accept_crosssign")
    await new.do("cancel_verification")
    assert "m.user" in await old.fails("verify_crosssign_emoji")


async def test_clock_that_is_a_week_on_rotates_the_session(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    for message, days in (("one", 1), ("two", 8), ("three", 0)):
        await alice.do("send_message", message=message)
        await bob.do("verify_message_in_timeline", message=message)
        await alice.do("advance_clock", milliseconds=days * 86_400_000)
    sessions = [event["content"]["session_id"] for event in await events_on_the_server(alice)]
    assert sessions[0] == sessions[1] != sessions[2]


async def test_direct_chat(users: list[User]) -> None:
    alice, bob = users
    await asyncio.gather(alice.do("register", **alice.account), bob.do("register", **bob.account))
    await alice.do("create_dm", userId=bob.user_id)
    await bob.do("accept_invite")
    await bob.do("send_message", message="psst")
    await alice.do("verify_message_in_timeline", message="psst")
    await alice.do("create_room", name="tea")
    await alice.do("open_room", name=bob.localpart)
    await alice.do("verify_message_in_timeline", message="psst")
    async with (
        api(alice) as http,
        http.get(f"/_matrix/client/v3/user/@{alice.user_id}/account_data/m.direct") as answer,
    ):
        assert list(await answer.json()) == [f"@{bob.user_id}"]


async def test_history_visibility(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await alice.do("change_room_history_visibility", historyVisibility="joined")
    said = await bob.fails("change_room_history_visibility", historyVisibility="shared")
    assert "change of the history visibility: the homeserver answered M_FORBIDDEN" in said


async def test_logout_and_login(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    await bob.do("logout")
    await bob.do("login", **bob.account)
    await bob.do("open_room", name="tea")
    await alice.do("send_message", message="welcome back")
    await bob.do("verify_message_in_timeline", message="welcome back")
    await bob.do("logout")
    assert "not logged in" in await bob.fails("send_message", message="anyone?")


async def test_session_that_is_ended_elsewhere_is_said_by_who_waits(users: list[User]) -> None:
    alice, bob = users
    await meet(alice, bob)
    waiting = asyncio.create_task(bob.fails("verify_message_in_timeline", message="never sent"))
    async with api(bob) as http, http.post("/_matrix/client/v3/logout/all", json={}) as answer:
        assert answer.status == 200
    assert "but syncing ended: M_UNKNOWN_TOKEN" in await waiting


async def test_refusals_of_the_homeserver_are_the_clients_failure(users: list[User]) -> None:
    alice, bob = users
    await alice.do("register", **alice.account)
    assert "M_USER_IN_USE" in await alice.fails("register", **alice.account)
    assert "M_FORBIDDEN" in await bob.fails("login", **{**alice.account, "password": "wrong"})


async def test_key_backup_is_not_supported(users: list[User]) -> None:
    alice, _ = users
    reply = await alice.ask("login", **alice.account, key_backup_passphrase="open sesame")
    assert reply.kind == "error"
    assert reply.body["error"]["type"] == "unsupported"
    assert "open sesame" not in reply.body["error"]["details"]


@pytest.mark.usefixtures("short_deadline")
async def test_homeserver_that_hangs_is_the_clients_failure(users: list[User]) -> None:
    alice, _ = users
    await alice.do("register", **alice.account)
    await alice.server.operate("pause")
    try:
        assert "create_room: the homeserver took longer than 3.6 s" in await alice.fails(
            "create_room", name="tea"
        )
    finally:
        await alice.server.operate("unpause")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, from before the clients start."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def test_exit_leaves_nothing_of_the_account(
    temporary: Path, coordinator: ScriptedCoordinator, users: list[User]
) -> None:
    alice, _ = users
    await alice.do("register", **alice.account)
    [store] = [name for name in os.listdir(temporary) if os.listdir(temporary / name)]
    await alice.adapter.exit()
    again = await coordinator.registered(3)
    assert store not in os.listdir(temporary)
    assert "not logged in" in await User(again, alice.server, "alice").fails("create_room", name="tea")
