"""Nodes that accept commands and never run them."""

import asyncio

import pytest

from trafficlight.services import clusters, connections
from trafficlight.services.clusters import Cluster
from trafficlight.services.connections import Command, NodeAddress


class Hung:
    """A connection to such a node."""

    def __init__(self) -> None:
        self.closed = 0

    async def open(self, script: str) -> Command:
        """Wait until cancelled."""
        await asyncio.Event().wait()
        raise AssertionError(script)

    async def close(self) -> None:
        """Count."""
        self.closed += 1


async def test_a_health_check_without_an_answer_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung, checked = Hung(), asyncio.Event()
    monkeypatch.setattr(clusters, "connect", lambda _: hung)
    monkeypatch.setattr(clusters, "_CHECK", 0.01)
    cluster = Cluster([NodeAddress(name="n1")])
    watching = asyncio.create_task(cluster.watch(checked.set))
    async with asyncio.timeout(30):
        await checked.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert [why for _, why in cluster.set_aside] == ["node n1: no answer within 0.01 s"]
    assert hung.closed == 1


async def test_killing_a_command_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_KILL", 0.01)
    async with asyncio.timeout(30):
        await connections._kill(Hung(), 1)
