"""What a test can do with its homeserver, on one that is made up."""

import asyncio
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from trafficlight.clients import HomeServer, MatrixClient
from trafficlight.errors import LabError, UnsupportedError
from trafficlight.version import VERSION

if TYPE_CHECKING:
    from tests.unit.clients.conftest import Accounts, Operations
    from trafficlight.clients.base import CaseBackend


@pytest.fixture
def nowhere() -> str:
    """An address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_its_address_has_no_trailing_slash() -> None:
    server = HomeServer("example.org", "http://127.0.0.1:8008/", name="here", version="Synapse 1")

    assert server.cs_api == "http://127.0.0.1:8008"
    assert repr(server) == "<HomeServer here example.org at http://127.0.0.1:8008>"
    assert server.version == "Synapse 1"


async def test_registers_a_user(server: HomeServer, accounts: "Accounts") -> None:
    assert await server.register("alice", "secret") == "@alice:example.org"
    assert accounts.passwords == {"alice": "secret"}


async def test_a_refused_registration_tells_the_answer(server: HomeServer) -> None:
    await server.register("alice", "secret")

    with pytest.raises(LabError, match=r"registering alice at http://.*: 400 .*M_USER_IN_USE"):
        await server.register("alice", "another")


async def test_a_homeserver_that_is_gone_is_told_as_such(nowhere: str) -> None:
    with pytest.raises(LabError, match=f"registering alice at {re.escape(nowhere)}: Cannot"):
        await HomeServer("example.org", nowhere).register("alice", "secret")


async def test_a_user_that_is_only_named_is_registered_once(server: HomeServer, accounts: "Accounts") -> None:
    first = await server.nio_client("carol")
    second = await server.nio_client("@carol:example.org")

    assert first.user_id == second.user_id == "@carol:example.org"
    assert (first.device_id, second.device_id) == ("DEVICE1", "DEVICE2")
    assert list(accounts.passwords) == ["carol"]


async def test_without_a_name_it_is_somebody_new(server: HomeServer, accounts: "Accounts") -> None:
    first, second = await server.nio_client(), await server.nio_client()

    assert first.user_id != second.user_id
    assert len(accounts.passwords) == 2


async def test_a_user_that_was_registered_is_logged_in(server: HomeServer, accounts: "Accounts") -> None:
    await server.register("alice", "secret")

    client = await server.nio_client("alice")

    assert client.logged_in
    assert accounts.passwords == {"alice": "secret"}
    assert accounts.agents == [f"trafficlight-test/{VERSION}"], "not what an adapter for nio sends"


async def test_an_account_from_elsewhere_needs_its_password(server: HomeServer, accounts: "Accounts") -> None:
    accounts.passwords["dave"] = "known to dave"

    client = await server.nio_client("dave", "known to dave")

    assert client.user_id == "@dave:example.org"


async def test_the_user_of_a_client_under_test_gets_another_device(
    server: HomeServer, accounts: "Accounts"
) -> None:
    accounts.passwords["user-alice"] = "hers"

    client = await server.nio_client(SimpleNamespace(localpart="user-alice", password="hers"))

    assert client.user_id == "@user-alice:example.org"


async def test_user_ids_are_in_lower_case(server: HomeServer, accounts: "Accounts") -> None:
    accounts.passwords["alice/a"] = "hers"
    alice = MatrixClient("alice", {}, cast("CaseBackend", None))
    alice.localpart, alice.password, alice.homeserver = "Alice/A", "hers", server

    client = await server.nio_client(alice)

    assert client.user_id == alice.user_id == "@alice/a:example.org"


async def test_a_wrong_password_is_told_with_the_answer(server: HomeServer, accounts: "Accounts") -> None:
    accounts.passwords["dave"] = "known to dave"

    with pytest.raises(LabError, match=r"logging @dave:example\.org in at .*: M_FORBIDDEN wrong"):
        await server.nio_client("dave", "a guess")


async def test_a_user_of_another_homeserver_is_refused(server: HomeServer) -> None:
    with pytest.raises(LabError, match=r"@carol:example\.com is not a user of example\.org"):
        await server.nio_client("@carol:example.com")


async def test_without_a_store_nothing_is_encrypted_and_with_one_it_is(
    server: HomeServer, tmp_path: Path
) -> None:
    assert (await server.nio_client("carol")).olm is None
    assert (await server.nio_client("carol", store=tmp_path)).olm is not None


async def test_its_clients_are_closed_with_it(server: HomeServer, tmp_path: Path) -> None:
    plain = await server.nio_client("carol")
    encrypted = await server.nio_client("dave", store=tmp_path)

    await server.close()
    await server.close()

    assert plain.client_session is None
    assert encrypted.client_session is None
    assert encrypted.store.database.is_closed()


async def test_one_that_cannot_be_closed_does_not_keep_others_open(
    server: HomeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await server.nio_client("carol"), await server.nio_client("dave")
    close: Any = second.close

    async def fail() -> None:
        await close()
        raise OSError("a broken socket")

    monkeypatch.setattr(second, "close", fail)
    with pytest.raises(OSError, match="a broken socket"):
        await server.close()

    assert first.client_session is None


async def test_operations_reach_the_coordinator_with_the_role(operations: "Operations") -> None:
    server = HomeServer("example.org", "http://127.0.0.1", name="here", link=operations)

    for operation in (server.stop, server.start, server.restart, server.kill, server.unpause):
        await operation()

    assert operations.done == [("here", name) for name in ("stop", "start", "restart", "kill", "unpause")]


async def test_what_its_provider_cannot_do_is_unsupported(operations: "Operations") -> None:
    server = HomeServer("example.org", "http://127.0.0.1", link=operations)

    with pytest.raises(UnsupportedError, match="cannot be paused"):
        await server.pause()


async def test_outside_a_case_it_cannot_be_operated() -> None:
    with pytest.raises(LabError, match="not part of a running case, cannot restart"):
        await HomeServer("example.org", "http://127.0.0.1").restart()


async def test_its_log_is_read_as_far_as_there_is_one(tmp_path: Path) -> None:
    log = tmp_path / "homeserver.log"
    server = HomeServer("example.org", "http://127.0.0.1", log=log)

    assert await HomeServer("example.org", "http://127.0.0.1").read_log() == ""
    assert await server.read_log() == ""
    await asyncio.to_thread(log.write_bytes, b"it has started\n\xff")
    assert await server.read_log() == "it has started\n\ufffd"


async def test_a_shared_one_is_neither_operated_nor_administrated(tmp_path: Path) -> None:
    log = tmp_path / "homeserver.log"
    log.write_text("before\nof the case\n")
    server = HomeServer("example.org", "http://127.0.0.1:1", log=log, log_start=7, shared=True)

    with pytest.raises(LabError, match=r"^server.kill\(\): .* needs isolated = True$"):
        await server.kill()
    with pytest.raises(LabError, match=r"^server.admin: .* needs isolated = True$"):
        await server.admin.rooms()
    assert await server.read_log() == "of the case\n"


async def test_a_name_that_another_case_has_taken_is_explained(server: HomeServer) -> None:
    other = HomeServer(server.server_name, server.cs_api, shared=True)
    await server.register("alice", "secret")

    with pytest.raises(LabError, match=r"M_USER_IN_USE.* needs isolated = True, or other names"):
        await other.register("alice", "secret")
