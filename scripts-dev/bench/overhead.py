"""What a case costs beside the same flow without a lab: CPU time by kind of process, and wall time.

The flow is that of the built-in `SendMessages`. Bare, drivers of matrix-nio get their actions straight from
this program, on one Synapse that runs already. The ways take turns. A row is what one more case takes: a
session with many cases less one with few, so that what a session costs once is left out.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from tables import show

import trafficlight
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.protocol import RESET
from trafficlight.server_types import SynapseStable

_CASE = Path(trafficlight.__file__).parent / "tests" / "chat" / "send_messages_test.py::SendMessages"
_DRIVER = [sys.executable, "-P", "-m", "trafficlight.adapters.nio.adapter"]
_FEW = 8  # cases after which all clients have started
_SAMPLE = 0.05  # seconds between two looks at the processes
# A part of the command line, the kind of a process, and that of its children with the same command line.
_KINDS = (
    ("synapse_fork_server.py", "fork parents", "homeservers"),
    ("synapse.app.homeserver", "homeservers", "homeservers"),
    ("trafficlight.worker", "workers", "processes of cases"),
    ("adapter run", "hosts", "hosts"),
    ("trafficlight.adapters.nio.adapter", "clients", "clients"),
    ("trafficlight.network", "proxy", "proxy"),
)
_ROWS = ["homeservers", "clients", "fork parents", "hosts", "coordinator", "workers", "processes of cases"]
_ROWS += ["proxy", "others"]


@dataclass
class Seen:
    """What was last seen of a process."""

    kind: str
    parent: int
    own: float = 0.0
    children: float = 0.0
    reaped: bool = False


@dataclass
class Cost:
    """Seconds of CPU by kind of process, and of wall time."""

    wall: float = 0.0
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def less(self, other: "Cost", cases: int) -> "Cost":
        """Return what each of some cases costs that only this one has."""
        kinds = {*self.cpu, *other.cpu}
        cpu = {kind: (self.cpu[kind] - other.cpu[kind]) / cases for kind in kinds}
        return Cost((self.wall - other.wall) / cases, defaultdict(float, cpu))


class Tree:
    """The CPU time of a process and of all that it starts, by kind.

    Homeservers and the processes of cases are counted by their parents once they have ended.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: dict[tuple[int, float], Seen] = {}
        self._by_pid: dict[int, Seen] = {}

    def look(self) -> None:
        """Note what the processes have taken up to now."""
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        there = set()
        for process in processes:
            try:
                with process.oneshot():
                    times, parent = process.cpu_times(), process.ppid()
                    key = (process.pid, process.create_time())
                    if key not in self._seen:
                        self._seen[key] = Seen(self._kind_of(process, parent), parent)
            except psutil.Error:
                continue
            there.add(key)
            one = self._by_pid[process.pid] = self._seen[key]
            one.own = times.user + times.system
            one.children = times.children_user + times.children_system
        alive = {pid for pid, _ in there}
        for key, one in self._seen.items():
            if key not in there and one.parent in alive:
                one.reaped = True

    def _kind_of(self, process: psutil.Process, parent: int) -> str:
        if process.pid == self._root.pid:
            return "coordinator"
        line = " ".join(process.cmdline())
        for part, kind, of_children in _KINDS:
            if part in line:
                above = self._by_pid.get(parent)
                return of_children if above is not None and above.kind == kind else kind
        return "others"

    def cost(self) -> dict[str, float]:
        """Return seconds by kind."""
        cpu: dict[str, float] = defaultdict(float)
        children = {kind: of_children for _, kind, of_children in _KINDS}
        for one in self._seen.values():
            forks = one.kind in ("fork parents", "workers")
            if forks:
                cpu[children[one.kind]] += one.children
            above = self._by_pid.get(one.parent)
            counted = one.reaped and above is not None and above.kind in ("fork parents", "workers")
            if not counted:
                cpu[one.kind] += one.own
        return cpu


async def session(cases: int, at_once: int, *options: str) -> Cost:
    """Run a session of the same case."""
    with tempfile.TemporaryDirectory() as folder:
        more = ["--repeat", str(cases), "-n", str(at_once), "--results", folder, *options]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trafficlight", "run", str(_CASE), *more), stdout=subprocess.DEVNULL
        )
        tree = Tree(process.pid)
        ended = asyncio.ensure_future(process.wait())
        while not ended.done():
            tree.look()
            await asyncio.wait([ended], timeout=_SAMPLE)
        if ended.result() != 0:
            raise SystemExit(f"trafficlight run {' '.join(more)}: exit code {ended.result()}")
        return Cost(time.perf_counter() - began, defaultdict(float, tree.cost()))


class Bare:
    """Pairs of drivers that stay, on a homeserver that runs already."""

    def __init__(self, server: LocalServer) -> None:
        assert server.pid is not None
        self._url, self._server_name = server.cs_api, server.server_name
        self._server = psutil.Process(server.pid)
        self._pairs: list[tuple[Driver, Driver]] = []

    async def start(self, stack: AsyncExitStack, pairs: int) -> None:
        """Start the drivers."""
        for _ in range(pairs):
            pair = [await stack.enter_async_context(Driver()) for _ in range(2)]
            self._pairs.append((pair[0], pair[1]))

    async def run(self, cases: int, at_once: int) -> Cost:
        """Run the flow so many times."""
        clients = [driver.process for pair in self._pairs[:at_once] for driver in pair]
        before, began = [*map(_used, (self._server, *clients))], time.perf_counter()
        left = iter(range(cases))
        await asyncio.gather(*(self._flows(pair, left) for pair in self._pairs[:at_once]))
        wall = time.perf_counter() - began
        server, *others = (
            now - then for now, then in zip(map(_used, (self._server, *clients)), before, strict=True)
        )
        return Cost(wall, defaultdict(float, {"homeservers": server, "clients": sum(others)}))

    async def _flows(self, pair: "tuple[Driver, Driver]", left: Any) -> None:
        alice, bob = pair
        for _ in left:
            for client in pair:
                await client.do(RESET)
                url = {"local": self._url, "local_docker": self._url}
                client.name = f"user-{secrets.token_hex(5)}"
                await client.do("register", username=client.name, password="secret", homeserver_url=url)
            await alice.do("create_room", name="A room for two")
            await alice.do("invite_user", userId=f"@{bob.name}:{self._server_name}")
            await bob.do("accept_invite")
            for writer, reader, text in ((alice, bob, "Hello Bob"), (bob, alice, "Hello Alice")):
                await writer.do("send_message", message=text)
                await reader.do("verify_message_in_timeline", message=text)


class Driver:
    """A driver of matrix-nio, without a host."""

    name = ""

    async def __aenter__(self) -> "Driver":
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        storage, evidence = folder / "storage", folder / "evidence"
        storage.mkdir()
        evidence.mkdir()
        paths = {"TRAFFICLIGHT_STORAGE": str(storage), "TRAFFICLIGHT_EVIDENCE": str(evidence)}
        self._process = await asyncio.create_subprocess_exec(
            *_DRIVER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **paths},
        )
        self.process = psutil.Process(self._process.pid)
        await self._line()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._folder.cleanup()

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(await self._process.stdout.readline()))

    async def do(self, action: str, **data: object) -> None:
        """Perform an action."""
        assert self._process.stdin is not None
        line = {"id": secrets.token_hex(4), "action": action, "data": data}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        if "error" in (answer := await self._line()):
            raise SystemExit(f"{action}: {answer['error']}")


def _used(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


async def measure(cases: int, rounds: int, numbers: Sequence[int]) -> None:
    """Run all ways in turns, and print a table for each number of cases at once."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = LocalProvider()
        stack.push_async_callback(provider.close)
        (spec,) = SynapseStable().homeservers()
        request = ServerRequest("server", spec, folder / "homeserver.log")
        await stack.enter_async_context(provider.deploy("bare", [request]))
        (server,) = provider.servers
        bare = Bare(server)
        await bare.start(stack, max(numbers))
        for at_once in numbers:
            found: dict[str, list[Cost]] = defaultdict(list)
            for _ in range(rounds):
                few, many = _FEW, _FEW + cases
                found["bare"].append(
                    (await bare.run(many, at_once)).less(await bare.run(few, at_once), cases)
                )
                for way, options in (("fresh", ()), ("shared", ("--share-servers",))):
                    start = await session(few, at_once, *options)
                    found[way].append((await session(many, at_once, *options)).less(start, cases))
            _print(at_once, found)
    print(f"\n  load of the machine: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


def _print(at_once: int, found: dict[str, list[Cost]]) -> None:
    def middle(way: str, kind: str) -> float:
        return median(one.cpu[kind] for one in found[way])

    rows: list[tuple[object, ...]] = [(kind, *(middle(way, kind) for way in found)) for kind in _ROWS]
    sums = {way: median(sum(one.cpu.values()) for one in costs) for way, costs in found.items()}
    rows.append(("all", *sums.values()))
    rows.append(("factor", *(total / sums["bare"] for total in sums.values())))
    rows.append(("wall", *(median(one.wall for one in costs) for costs in found.values())))
    show(f"Seconds of CPU for a case, {at_once} at once", ("", *found), rows)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20, help="cases that are compared (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways (default 3)")
    numbers = sorted({1, os.cpu_count() or 1})
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=numbers, help=f"cases at once (default {numbers})"
    )
    options = parser.parse_args()
    asyncio.run(measure(options.cases, options.rounds, options.at_once))


if __name__ == "__main__":
    main()
