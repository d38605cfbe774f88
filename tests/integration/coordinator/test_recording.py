"""Which clients are given an address of the network proxy although their test does not use it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.coordinator.conftest import EngineHarness, FakeServer, Player
from trafficlight.coordinator import network as network_module
from trafficlight.coordinator.adapter import Adapter
from trafficlight.coordinator.network import NetworkProxy, RunningProxy, unrecorded
from trafficlight.errors import LabError
from trafficlight.homeservers.static import LeasedServer
from trafficlight.protocol import Registration
from trafficlight.results.events import State

BayWith = Callable[..., Any]

REGISTERS = """
class Registers(Test):
    clients = {"alice": Nio}
    servers = {"server": SynapseStable}

    async def test_passes(self, alice, server):
        await alice.register(server)

    async def test_fails(self, alice, server):
        await alice.register(server)
        assert False, "no"

    async def test_is_skipped(self, alice, server):
        await alice.register(server)
        self.skip("not here")
"""


class _At(Player):
    """An adapter that registers from an address."""

    address = "127.0.0.1"

    def register(self) -> Adapter:
        registration = Registration.model_validate({"type": "nio"})
        return self.engine.pool.register(f"nio-{id(registration)}", registration, address=self.address)


async def _given(bay: EngineHarness) -> tuple[dict[str, State | None], set[str]]:
    """Run the three cases; return their outcomes, and the addresses that their clients were given."""
    given: list[str] = []

    def answer(action: str, data: dict[str, Any]) -> dict[str, Any]:
        given.append(data["homeserver_url"]["local"])
        return {}

    player = _At(bay.engine, answer)
    bay._keep(player.loop())
    cases = await bay.ended(await bay.submit(REGISTERS), 120)
    assert len(given) == 3
    return {name.partition("[")[0]: case.state for name, case in cases.items()}, set(given)


async def test_a_case_that_is_red_has_its_traffic(bay_with: BayWith, tmp_path: Path) -> None:
    proxy = NetworkProxy()
    try:
        bay = await bay_with(network=proxy, record="failures")
        _, given = await _given(bay)
        assert FakeServer.cs_api not in given
        assert {url.rpartition(":")[0] for url in given} == {"http://127.0.0.1"}
        kept = [str(path) for path in (tmp_path / "results").rglob("network.har")]
        assert len(kept) == 1
        assert "test_fails" in kept[0]
    finally:
        await proxy.close()


async def test_a_client_on_another_machine_gets_the_homeservers_own_address(
    bay_with: BayWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_At, "address", "192.0.2.7")
    proxy = NetworkProxy()
    try:
        _, given = await _given(await bay_with(network=proxy, record="always"))
        assert given == {FakeServer.cs_api}
    finally:
        await proxy.close()


async def test_a_lab_whose_proxy_cannot_be_started_says_so_once_and_runs(
    bay_with: BayWith, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def start(folder: Path) -> RunningProxy:
        raise LabError("the network proxy cannot be started: no room")

    monkeypatch.setattr(RunningProxy, "start", start)
    proxy = NetworkProxy()
    try:
        with caplog.at_level(logging.WARNING):
            outcomes, given = await _given(await bay_with(network=proxy, record="failures"))
        assert given == {FakeServer.cs_api}
        assert sorted(map(str, outcomes.values())) == [State.FAILURE, State.SKIPPED, State.SUCCESS]
        lines = [one.getMessage() for one in caplog.records if one.name == network_module.__name__]
        assert lines == ["requests of clients are not recorded: the network proxy cannot be started: no room"]
    finally:
        await proxy.close()


@pytest.mark.parametrize(
    ("record", "expected"), [("failures", {"http://127.0.0.1:8", "far"}), ("always", {"far"})]
)
def test_addresses_that_people_chose_are_recorded_only_on_request(record: str, expected: set[str]) -> None:
    class At:
        def __init__(self, address: str) -> None:
            self.address, self.registration = address, Registration.model_validate({"type": "nio"})

    addresses = {"near": "127.0.0.1", "mapped": "::ffff:127.0.0.1", "six": "::1", "far": "192.0.2.7"}
    adapters: Any = {role: At(address) for role, address in addresses.items()}
    servers: Any = [FakeServer("a", "a"), LeasedServer("b", "b", "http://127.0.0.1:8", "")]
    assert set(unrecorded(record, adapters, servers)) == expected


async def test_no_proxy_is_started_for_tests_without_homeservers(bay_with: BayWith) -> None:
    proxy = NetworkProxy()
    bay = await bay_with(network=proxy, record="failures")
    await bay.ended(await bay.submit("class Alone(Test):\n    async def run(self):\n        pass\n"))
    assert proxy._current is None
    await proxy.close()
