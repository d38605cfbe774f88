"""Nodes that are set aside, come back, and are given back."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.services.conftest import MARK
from tests.sshd import Sshd
from trafficlight.errors import DeployError
from trafficlight.parameters import NodeRequest
from trafficlight.services.account import Account
from trafficlight.services.clusters import Cluster
from trafficlight.services.connections import NodeAddress
from trafficlight.services.node import case_folder


@asynccontextmanager
async def watched(cluster: Cluster) -> AsyncIterator[asyncio.Event]:
    """Check the nodes of a cluster; the event is set when something has changed."""
    changed = asyncio.Event()
    watching = asyncio.create_task(cluster.watch(changed.set))
    try:
        yield changed
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await cluster.close()


async def _until(condition: Callable[[], object], changed: asyncio.Event) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await changed.wait()
            changed.clear()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    for name in ("_SOON", "_AGAIN"):
        monkeypatch.setattr(f"trafficlight.services.clusters.{name}", 0.05)


async def test_a_node_that_does_not_answer_is_set_aside_and_tried_again(
    start_sshd: Callable[[], Sshd], tmp_path: Path
) -> None:
    good, bad = start_sshd(), start_sshd()
    bad.kill()
    cluster = Cluster([good.node("good", str(tmp_path)).node(), bad.node("bad", str(tmp_path)).node()])
    async with watched(cluster) as changed:
        await _until(lambda: cluster.free and cluster.set_aside, changed)
        assert [node.name for node in cluster.free] == ["good"]
        ((node, why),) = cluster.set_aside
        assert node.name == "bad"
        assert why.startswith("node bad: cannot log in to 127.0.0.1: ")
        bad.start()
        await _until(lambda: len(cluster.free) == 2, changed)
        assert cluster.set_aside == []


async def test_a_node_is_leased_cleaned_and_given_back(
    start_sshd: Callable[[], Sshd], tmp_path: Path
) -> None:
    address = start_sshd().node("n1", str(tmp_path)).node()
    cluster = Cluster([address])
    async with watched(cluster) as changed:
        await _until(lambda: cluster.free, changed)
        cluster.take(["n1"])
        assert not cluster.free
        async with cluster.lease(NodeRequest(1), ["n1"], MARK, tmp_path / "logs") as (leased,):
            account = Account(leased, case_folder(leased, MARK), MARK)
            await account.create_file("left", "content")
            await account.create_file(".collect/S-1", "no json")  # as of a test that was killed meanwhile
            await account.close()
        cluster.give_back(["n1"])
        assert [node.name for node in cluster.free] == ["n1"]
    assert not any("trafficlight-" in name for name in os.listdir(tmp_path))


async def test_a_node_that_vanishes_during_a_case_is_cleaned_when_it_is_back(
    start_sshd: Callable[[], Sshd], tmp_path: Path
) -> None:
    sshd, mark = start_sshd(), f"{MARK}-vanished"  # its guard ends the case a moment later
    cluster = Cluster([sshd.node("n1", str(tmp_path)).node()])
    async with watched(cluster) as changed:
        await _until(lambda: cluster.free, changed)
        cluster.take(["n1"])
        async with cluster.lease(NodeRequest(1), ["n1"], mark, tmp_path / "logs") as (leased,):
            account = Account(leased, case_folder(leased, mark), mark)
            await account.create_file("left", "content")
            await account.close()
            sshd.kill()
        cluster.give_back(["n1"])
        assert not cluster.free
        sshd.start()
        await _until(lambda: cluster.free, changed)
    assert not any("trafficlight-" in name for name in os.listdir(tmp_path))


async def test_nodes_that_were_made_are_removed_when_others_cannot_be(tmp_path: Path) -> None:
    made: list[int] = []
    removed: list[int] = []

    @asynccontextmanager
    async def make(number: int) -> AsyncIterator[NodeAddress]:
        if number == 3:
            while len(made) < 2:
                await asyncio.sleep(0)
            raise DeployError("no more")
        made.append(number)
        try:
            yield NodeAddress(name=str(number), folder=str(tmp_path))
        finally:
            removed.append(number)

    cluster = Cluster(make=make)
    with pytest.raises(DeployError, match="no more"):
        async with cluster.lease(NodeRequest(3), [], MARK, tmp_path):
            pytest.fail("there are too few")
    assert sorted(removed) == [1, 2]
