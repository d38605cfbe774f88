"""Faults on nodes: on this machine, behind SSH servers, and on machines with a network of their own."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.services.conftest import MARK
from tests.machines import Machine, machines
from trafficlight.errors import LabError, UnsupportedError
from trafficlight.services import clock_offset, degrade, kill, partition, pause
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress, connect
from trafficlight.services.faults import Faults
from trafficlight.services.node import Guard, Node, case_folder

__all__ = ["machines"]

_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))"


@pytest.fixture
def events() -> list[tuple[str, bool]]:
    """What has been said about faults."""
    return []


@pytest.fixture
def node(account: Account, address: NodeAddress, events: list[tuple[str, bool]]) -> Node:
    """A node of each kind."""
    return Node(address, account, Faults(lambda what, active: events.append((what, active))))


@pytest.fixture
async def nodes(
    machines: list[Machine], tmp_path: Path, events: list[tuple[str, bool]]
) -> AsyncIterator[list[Node]]:
    """Two nodes with a network of their own."""
    faults = Faults(lambda what, active: events.append((what, active)))
    async with AsyncExitStack() as stack:
        found = []
        for number, machine in enumerate(machines, 1):
            folder = tmp_path / f"n{number}"
            folder.mkdir()
            address = machine.sshd.node(f"n{number}", str(folder)).node()
            account = Account(address, case_folder(address, MARK), MARK)
            stack.push_async_callback(account.close)
            found.append(Node(address, account, faults))
        yield found


class TestProcesses:
    async def test_pause(self, node: Node, events: list[tuple[str, bool]]) -> None:
        async with node.account.monitor_log("sleeper.log") as log:
            # With exec: a shell whose child is stopped before it is started shows D, not T.
            await node.account.start("sleep 1000 & echo ready; exec sleep 1000", name="sleeper")
            await log.until("ready")
        async with pause(node):
            async with asyncio.timeout(30):
                while await _states(node) != {"T"}:  # one that waits for the disk stops after that
                    pass
            with pytest.raises(LabError, match="pause n1: n1 has such a fault already: pause n1"):
                async with pause([node]):
                    pytest.fail("it is paused already")
        assert "T" not in await _states(node)
        assert events == [("pause n1", True), ("pause n1", False)]

    async def test_pause_of_nothing(self, node: Node) -> None:
        with pytest.raises(LabError, match="pause n1: no process runs in the background there"):
            pause(node)

    async def test_what_was_paused_can_be_killed(self, node: Node, events: list[tuple[str, bool]]) -> None:
        await node.account.start("trap '' TERM; sleep 1000; true", name="sleeper")
        async with pause(node):
            await kill(node)
            assert node.account.running == []
        assert ("kill n1", True) in events


class TestClock:
    async def test_is_healed_also_for_what_still_runs(
        self, node: Node, events: list[tuple[str, bool]]
    ) -> None:
        _need("faketime")
        before = set(Path("/dev/shm").glob("*faketime*"))  # noqa: ASYNC240 - in memory
        script = "import time; input(); print(round(time.time()), flush=True); input(); print(time.time())"
        await node.account.run("mkfifo questions")
        async with clock_offset(node, -1e6):
            assert int((await node.account.run("date +%s")).stdout) == pytest.approx(
                time.time() - 1e6, abs=900
            )
            await node.account.start(f"exec {sys.executable} -c '{script}' <> questions", name="clock")
            async with node.account.monitor_log("clock.log") as log:
                await node.account.run("echo > questions")
                assert float(await log.until("")) == pytest.approx(time.time() - 1e6, abs=900)
        assert int((await node.account.run("date +%s")).stdout) == pytest.approx(time.time(), abs=900)
        await node.account.run("echo > questions")
        await node.account.wait("clock", timeout=60)
        assert float(await node.account.last_line("clock.log")) == pytest.approx(time.time(), abs=900)
        await node.account.run("sh .heal/clock")  # as at the end of the case
        assert set(Path("/dev/shm").glob("*faketime*")) <= before  # noqa: ASYNC240 - in memory
        assert events == [("clock of n1 1e+06 s behind", True), ("clock of n1 1e+06 s behind", False)]

    async def test_without_the_program(self, tmp_path: Path) -> None:
        for program in ("mkdir", "mv"):
            (tmp_path / program).symlink_to(shutil.which(program) or "")
        address = NodeAddress(name="n1", folder=str(tmp_path), prefix=("/usr/bin/env", f"PATH={tmp_path}"))
        account = Account(address, case_folder(address, MARK), MARK)
        node = Node(address, account, Faults(lambda *_: pytest.fail("there is no fault")))
        with pytest.raises(
            UnsupportedError, match=r"clock of n1 .*: node n1 has no faketime: apt-get install"
        ):
            async with clock_offset(node, 60):
                pytest.fail("it has none")
        await account.close()


class TestPartition:
    async def test_cuts_both_directions_until_its_end(
        self, nodes: list[Node], machines: list[Machine], events: list[tuple[str, bool]]
    ) -> None:
        a, b = nodes
        assert await _reach_each_other(nodes, machines, 20) == [True, True]
        async with partition(a, b):
            assert await _reach_each_other(nodes, machines, 0.3) == [False, False]
        assert await _reach_each_other(nodes, machines, 20) == [True, True]
        assert [machine.run("iptables", "-S") for machine in machines] == [_NO_RULES, _NO_RULES]
        assert events == [("partition n1 from n2", True), ("partition n1 from n2", False)]

    async def test_the_lab_still_gets_there(self, nodes: list[Node], machines: list[Machine]) -> None:
        lab = NodeAddress(name="lab", host=machines[0].lab)
        async with partition(nodes[0], [nodes[1], Node(lab, nodes[0].account, nodes[0].faults)]):
            again = Account(nodes[0].address, "/tmp", "")  # with a connection of its own
            assert (await again.run("echo here")).stdout == "here\n"
            await again.close()

    async def test_what_is_left_at_the_end_of_the_case_is_healed(
        self, nodes: list[Node], machines: list[Machine], events: list[tuple[str, bool]]
    ) -> None:
        await partition(nodes[0], nodes[1]).__aenter__()
        await partition(nodes[1], nodes[0]).__aenter__()
        assert await nodes[0].faults.close() == []
        assert [machine.run("iptables", "-S") for machine in machines] == [_NO_RULES, _NO_RULES]
        assert len(events) == 4

    async def test_a_name_that_the_node_does_not_know(
        self, nodes: list[Node], machines: list[Machine]
    ) -> None:
        there = NodeAddress(name="there", host="nowhere.invalid")
        with pytest.raises(LabError, match=r"node n1: cannot find the address of nowhere\.invalid"):
            async with partition(nodes[0], Node(there, nodes[1].account, nodes[0].faults)):
                pytest.fail("it has no address")
        assert machines[0].run("iptables", "-S") == _NO_RULES

    async def test_nodes_that_share_an_address(self, node: Node) -> None:
        other = Node(node.address.model_copy(update={"name": "n2"}), node.account, node.faults)
        with pytest.raises(UnsupportedError, match=r"n1, n2 share the address 127\.0\.0\.1: nodes with"):
            partition(node, other)


class TestEndOfTheCase:
    async def test_what_cannot_be_healed_is_tried_again(
        self, account: Account, address: NodeAddress, tmp_path: Path
    ) -> None:
        await account.run(f"mkdir .heal && echo 'test -e {tmp_path}/mended' > .heal/fault")
        connection = connect(address)
        assert await Guard(address, MARK, connection).end() == "node n1: cleaning up failed: exit code 1"
        await asyncio.to_thread((tmp_path / "mended").touch)
        assert await Guard(address, MARK, connection).end() == ""
        await connection.close()
        assert not os.listdir(address.folder)


class TestDegrade:
    async def test_delays_what_is_sent(self, nodes: list[Node], machines: list[Machine]) -> None:
        before = machines[0].run("tc", "qdisc", "show")
        if not _netem(machines[0]):
            with pytest.raises(
                UnsupportedError, match="node n1 has a kernel without netem: load the modules"
            ):
                async with degrade(nodes[0], delay=0.4):
                    pytest.fail("it has none")
        else:
            async with degrade(nodes[0], delay=0.4):
                assert (await _reach_each_other(nodes, machines, 0.3)) == [False, False]
                assert (await _reach_each_other(nodes, machines, 20)) == [True, True]
        assert machines[0].run("tc", "qdisc", "show") == before

    async def test_the_lab_still_gets_there(
        self, nodes: list[Node], machines: list[Machine], tmp_path: Path
    ) -> None:
        called = _stub_tc(nodes[0], tmp_path)
        async with degrade(nodes[0], delay=0.1, jitter=0.02, loss=0.05):
            calls = (await asyncio.to_thread(called.read_text)).splitlines()
        own = f"u32 match ip dst {machines[0].lab} match ip sport {machines[0].sshd.port} 0xffff"
        assert [one.removeprefix("dev eth0 ") for one in calls] == [
            "qdisc add dev eth0 root handle 7c1: prio bands 2 priomap 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "qdisc add dev eth0 parent 7c1:2 netem limit 100000 delay 100000us 20000us loss 5%",
            "filter add dev eth0 parent 7c1: protocol arp prio 1 u32 match u32 0 0 flowid 7c1:1",
            f"filter add dev eth0 parent 7c1: protocol ip prio 2 {own} flowid 7c1:1",
        ]
        assert "qdisc del dev eth0 root" in await asyncio.to_thread(called.read_text)

    async def test_this_machine_is_not_slowed_down(self, node: Node) -> None:
        if node.address.ssh is None:
            with pytest.raises(
                UnsupportedError, match="degrade n1: n1 is this machine: nodes with addresses"
            ):
                degrade(node, loss=0.1)
        elif os.geteuid() == 0:
            _need("tc")
            with pytest.raises(UnsupportedError, match=r"n1 is at the loopback address 127\.0\.0\.1"):
                async with degrade(node, loss=0.1):
                    pytest.fail("it is this machine")


_NO_RULES = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"


def _need(program: str) -> None:
    if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None:
        package = {"tc": "iproute2"}.get(program, program)
        pytest.skip(f"there is no {program}: apt-get install {package}")


async def _states(node: Node) -> set[str]:
    """Return the states of the processes in the group of the one in the background."""
    pid = node.account.pid("sleeper")
    shown = await node.account.run(f"cat /proc/[0-9]*/stat 2>/dev/null | awk '$5 == {pid} {{ print $3 }}'")
    return set(shown.stdout.split())


async def _reach_each_other(nodes: list[Node], machines: list[Machine], seconds: float) -> list[bool]:
    """Return whether the first one reaches the second one, and the other way round."""

    async def reaches(node: Node, other: Machine) -> bool:
        command = [sys.executable, "-c", _CONNECT, other.address, str(other.sshd.port), str(seconds)]
        return (await node.account.run(command, check=False)).code == 0

    return await asyncio.gather(*map(reaches, nodes, reversed(machines)))


def _netem(machine: Machine) -> bool:
    """Return whether the kernel can delay packets."""
    script = "tc qdisc add dev lo root netem delay 1ms 2> /dev/null && tc qdisc del dev lo root && echo can"
    return machine.run("sh", "-c", f"{script}; true") == "can\n"


def _stub_tc(node: Node, folder: Path) -> Path:
    """Put a `tc` in place of the node's own; return the file with its calls."""
    called = folder / "called"
    stub = folder / "bin" / "tc"
    stub.parent.mkdir()
    shown = 'case "$*" in "qdisc show dev eth0") echo qdisc prio 7c1: root; exit;; *show*) exit;; esac'
    stub.write_text(f'#!/bin/sh\n{shown}\necho "$@" >> {called}\n')
    stub.chmod(0o755)
    node.account.env = {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    return called
