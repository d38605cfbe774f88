"""The network between real clients and a real homeserver."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import junitparser
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "break-the-network.md"

WAITS = """
from trafficlight import Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable

class Waits(Test):
    clients = {"alice": Nio}
    servers = {"server": SynapseStable}

    async def run(self, alice, server):
        alice.network.use()
        await alice.register(server)
        await alice.network.wait_for("/never", timeout=60)

class Fine(Test):
    clients = {"alice": Nio}
    servers = {"server": SynapseStable}

    async def run(self, alice, server):
        await alice.register(server)
"""

PAST = """
import nio
from trafficlight import Test
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable

class Past(Test):
    clients = {"alice": Nio}
    servers = {"server": SynapseStable}

    async def setup(self, alice, server):
        alice.network.use()
        await alice.register(server)
        # The library of the client under test, with its name in requests: as if that had asked.
        api = nio.AsyncClient(server.cs_api, alice.user_id)
        await api.login(alice.password)
        await api.whoami()
        await api.whoami()
        await api.close()

    async def test_succeeds(self, alice):
        pass

    async def test_fails(self, alice):
        assert False, "no"
"""

ORIGINAL = """
import pytest

from trafficlight.client_types import Nio
from trafficlight.errors import ActionError
from trafficlight.homerunner import HomeServer
from trafficlight.internals.client import MatrixClient, NetworkProxyClient
from trafficlight.internals.test import Test
from trafficlight.server_types import SynapseStable


class KeysArriveLate(Test):
    def __init__(self) -> None:
        super().__init__()
        self._client_under_test([Nio()], "alice")
        self._client_under_test([Nio()], "bob")
        self._server_under_test(SynapseStable(), ["server"])
        self._network_proxy("network_proxy")

    async def run(
        self, alice: MatrixClient, bob: MatrixClient, server: HomeServer, network_proxy: NetworkProxyClient
    ) -> None:
        await network_proxy.proxy_to(server)
        await alice.register(server)
        await bob.register(network_proxy)
        await alice.create_room("little test room")
        await alice.invite_user("@" + bob.localpart + ":" + server.server_name)
        await bob.accept_invite()
        await bob.open_room("little test room")
        await network_proxy.delay_endpoint("/_matrix/client/r0/sync", 3000)
        await alice.send_message("A random message appears!")
        await network_proxy.wait_until_endpoint_accessed("/_matrix/client/r0/sync")
        await network_proxy.undelay_endpoint("/_matrix/client/r0/sync")
        await bob.verify_message_in_timeline("A random message appears!")
        await network_proxy.disable_endpoint("/_matrix/client/r0/rooms")
        with pytest.raises(ActionError):
            await bob.send_message("No one sees this")
        await network_proxy.wait_until_endpoint_accessed("/_matrix/client/r0/rooms")
        await network_proxy.enable_endpoint("/_matrix/client/r0/rooms")
        await bob.send_message("Now everyone does")
        await alice.verify_message_in_timeline("Now everyone does")
"""


def _tests_of_the_manual() -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [code for code in blocks if "(Test):" in code]


def _recorded(running: "Running", name: str = "network.har") -> dict[Path, list[dict[str, Any]]]:
    found = (running.directory / "results" / "latest" / "cases").rglob(name)
    return {path: json.loads(path.read_bytes())["log"]["entries"] for path in found}


def _answered(running: "Running") -> bool:
    """Return whether a request with its answer has been recorded."""
    try:
        recorded = _recorded(running)
    except json.JSONDecodeError:
        return False  # read while it was being written
    return any(entry["response"]["status"] for entries in recorded.values() for entry in entries)


async def test_the_manual(start: "Start", tmp_path: Path) -> None:
    code = _tests_of_the_manual()[0]
    (tmp_path / "bad_line_test.py").write_text(code)
    running = await start(
        "run", tmp_path / "bad_line_test.py", environment={"TRAFFICLIGHT_RECORD_TRAFFIC": "always"}
    )

    assert await running.ended(timeout=200) == 0, running.output + running.errors
    assert len(running.cases()) == 3
    recorded = _recorded(running)
    assert len(recorded) == 6
    for entries in recorded.values():
        (registered, *_) = [one for one in entries if one["request"]["url"].endswith("/register")]
        assert registered["response"]["status"] in (200, 401)
        assert "Bearer " not in json.dumps(entries)
    comments = {one["comment"] for entries in recorded.values() for one in entries if one.get("comment")}
    assert "delay GET /sync by 1 s: answer passed" in comments


@pytest.mark.parametrize("workers", ["1", "0"])
async def test_a_proxy_that_is_killed_ends_its_case_only(
    start: "Start", tmp_path: Path, workers: str
) -> None:
    (tmp_path / "waits_test.py").write_text(WAITS)
    # One at a time: all cases are recorded.
    running = await start("run", tmp_path / "waits_test.py", "-n", "1", "--workers", workers)
    await running.line("Waits", "running")
    while not _answered(running):
        await asyncio.sleep(0.05)
    (proxy,) = running.programs("trafficlight.network")

    proxy.send_signal(signal.SIGKILL)

    assert await running.ended() == 3, running.output + running.errors
    cases = {case.name.partition("[")[0]: case for case in running.cases().values()}
    (result,) = cases["Waits"].result
    assert isinstance(result, junitparser.Error)
    assert result.message is not None
    assert result.message.startswith("the lab's network proxy ended (signal 9)")
    assert not cases["Fine"].result
    assert any(entries for entries in _recorded(running).values()), "what was recorded is there"
    assert running.started() == []


async def test_a_client_that_asks_past_the_proxy_is_named(start: "Start", tmp_path: Path) -> None:
    (tmp_path / "past_test.py").write_text(PAST)
    running = await start("run", tmp_path / "past_test.py")

    assert await running.ended(timeout=200) == 1, running.output + running.errors
    sentence = "alice bypassed the network proxy: GET /_matrix/client/v3/account/whoami and 1 other request"
    (result,) = next(case for case in running.cases().values() if "test_fails" in case.name).result
    assert result.message == f"no; {sentence}"
    logs = (running.session() / "cases").rglob("log.info")
    assert [sentence in path.read_text() for path in logs] == [True, True]


async def test_a_test_of_the_original_finds_a_network_proxy(start: "Start", tmp_path: Path) -> None:
    (tmp_path / "late_keys_test.py").write_text(ORIGINAL)
    running = await start("run", tmp_path / "late_keys_test.py")

    assert await running.ended(timeout=200) == 0, running.output + running.errors
    ((path, entries),) = _recorded(running).items()
    assert path.parent.name == "network_proxy"
    assert {"/_matrix/client/r0/rooms: answered", "/_matrix/client/r0/sync: passed"} <= {
        entry.get("comment") for entry in entries
    }


async def test_the_manual_between_homeservers(start: "Start", tmp_path: Path) -> None:
    code = _tests_of_the_manual()[1]
    (tmp_path / "far_away_test.py").write_text(code)
    running = await start(
        "run", tmp_path / "far_away_test.py", environment={"TRAFFICLIGHT_RECORD_TRAFFIC": "always"}
    )

    assert await running.ended(timeout=200) == 0, running.output + running.errors
    assert len(running.cases()) == 2
    recorded = _recorded(running, "federation-there.har")
    comments = {one["comment"] for entries in recorded.values() for one in entries if one.get("comment")}
    assert comments == {"block PUT /send/* with 503: answered"}
    for entries in (*recorded.values(), *_recorded(running, "federation-here.har").values()):
        assert {one["request"]["method"] for one in entries} >= {"PUT", "GET"}
        assert "sig=" not in json.dumps(entries)


FAR_AWAY = """
import os, signal
from trafficlight import Test
from trafficlight.server_types import SynapseStable

class Killed(Test):
    servers = {"here": SynapseStable, "there": SynapseStable}
    breaks_federation = True

    async def run(self, here, there):
        async with here.federation.offline():
            os.kill(os.getpid(), signal.SIGKILL)

class Heals(Test):
    servers = {"here": SynapseStable, "there": SynapseStable}
    breaks_federation = True

    async def setup(self, here, there):
        self.alice, self.bob = await here.nio_client("alice"), await there.nio_client("bob")
        # So that each knows the other's signing keys.
        await self.asks(self.bob, self.alice.user_id)
        await self.asks(self.alice, self.bob.user_id)

    async def test_the_other_direction_passes(self, here, there):
        async with here.federation.block(there):
            await self.asks(self.bob, self.alice.user_id)
            answer = await self.alice.get_displayname(self.bob.user_id)
            assert "Failed" in answer.message, answer
        await self.asks(self.alice, self.bob.user_id)

    async def test_late(self, here, there):
        async with there.federation.delay(here, seconds=0.5) as late:
            await self.asks(self.bob, self.alice.user_id)
        assert late.exchanges

    async def test_offline(self, here, there):
        async with here.federation.offline():
            for one, other in ((self.alice, self.bob), (self.bob, self.alice)):
                answer = await one.get_displayname(other.user_id)
                assert "Failed" in answer.message, answer
        await self.asks(self.alice, self.bob.user_id)
        await self.asks(self.bob, self.alice.user_id)

    async def asks(self, client, user_id):
        async def answered():
            return (await client.get_displayname(user_id)).displayname
        await self.eventually(answered, timeout=30)

class Undeclared(Test):
    servers = {"here": SynapseStable, "there": SynapseStable}

    async def run(self, here, there):
        async with here.federation.block(there):
            pass
"""


async def test_rules_between_homeservers_end_with_their_case(start: "Start", tmp_path: Path) -> None:
    (tmp_path / "far_away_test.py").write_text(FAR_AWAY)
    running = await start("run", tmp_path / "far_away_test.py")

    assert await running.ended(timeout=200) == 3, running.output + running.errors
    cases = {case.name.partition("[")[0]: case for case in running.cases().values()}
    (killed,), (undeclared,) = cases.pop("Killed").result, cases.pop("Undeclared").result
    assert isinstance(killed, junitparser.Error)
    assert "here.federation: the homeservers ask each other directly" in str(undeclared.message)
    assert len(cases) == 3
    assert not [case.result for case in cases.values() if case.result]
    assert running.started() == []
