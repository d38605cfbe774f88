"""What a case costs beside the same flow without a lab: CPU time by kind of process, and wall time.

The flow is that of the built-in `SendMessages`. Bare, drivers of matrix-nio get their actions straight from
this program, on one Synapse that runs already. The ways take turns. What is printed is what one of the last
cases takes, each way after the same number of others: what a session costs once is left out, and what a first
request costs too. A factor is the median of those of the rounds, each against bare right before and after
it, or beside it.
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
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
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
_FEW = 16  # cases before those that count: clients and homeservers are warm by then
_ENDED = b'"kind":"case_ended"'
_LOOK = 0.02  # seconds between two looks at a session's events
_FORK_SERVER = "synapse_fork_server.py"
# A part of the command line, the kind of such a process, and that of those which it has waited for.
_KINDS = (
    (_FORK_SERVER, "fork server", "homeservers"),
    ("trafficlight.worker", "workers", "workers"),
    ("adapter run", "hosts", "clients"),
    ("trafficlight.adapters.nio.adapter", "clients", "clients"),
    ("trafficlight.network", "proxy", "proxy"),
    ("trafficlight run", "coordinator", "others"),
)
_ROWS = ["homeservers", "fork server", "clients", "hosts", "coordinator", "workers", "proxy", "others"]


@dataclass
class Cost:
    """Seconds of CPU by kind of process, and of wall time."""

    wall: float
    cpu: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds of CPU of all processes."""
        return sum(self.cpu.values())

    def since(self, before: "Cost", cases: int) -> "Cost":
        """Return what each of some cases took."""
        cpu = {kind: (self.cpu[kind] - before.cpu[kind]) / cases for kind in _ROWS}
        return Cost((self.wall - before.wall) / cases, cpu)


def used(processes: Iterable[psutil.Process]) -> Cost:
    """Return what processes have used up to now, with those that they have started and waited for."""
    cpu: dict[str, float] = defaultdict(float)
    for process in processes:
        try:
            with process.oneshot():
                line, times, parent = " ".join(process.cmdline()), process.cpu_times(), process.parent()
            is_forked = parent is not None and _FORK_SERVER in line and _FORK_SERVER in parent.cmdline()[-2]
        except psutil.Error:
            continue  # it has ended: its parent has its times
        own, waited = next((tuple(kinds) for part, *kinds in _KINDS if part in line), ("others", "others"))
        cpu["homeservers" if is_forked else own] += times.user + times.system
        cpu[waited] += times.children_user + times.children_system
    return Cost(time.perf_counter(), cpu)


async def session(cases: int, at_once: int, *options: str) -> Cost:
    """Run a session of the same case, and return what one of the last cases took."""
    with tempfile.TemporaryDirectory() as folder:
        more = ["--repeat", str(_FEW + cases), "-n", str(at_once), "--results", folder, *options]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trafficlight", "run", str(_CASE), *more), stdout=subprocess.DEVNULL
        )
        root = psutil.Process(process.pid)
        ended = asyncio.ensure_future(process.wait())
        costs: list[tuple[int, Cost]] = []
        while not ended.done():
            there = await asyncio.to_thread(_ended, Path(folder))
            if there >= (_FEW, _FEW + cases, sys.maxsize)[len(costs)]:
                costs.append((there, used([root, *root.children(recursive=True)])))
            await asyncio.wait([ended], timeout=_LOOK)
        if ended.result() != 0 or len(costs) < 2:
            raise SystemExit(f"trafficlight run {' '.join(more)}: exit code {ended.result()}")
        (few, before), (many, after) = costs
        return after.since(before, many - few)


def _ended(results: Path) -> int:
    """Return how many cases of a session have ended."""
    return sum(events.read_bytes().count(_ENDED) for events in results.glob("2*/events.jsonl"))


async def bare(cases: int, at_once: int) -> Cost:
    """Run the flow on one homeserver with drivers that stay, and return what one of the last cases took."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = LocalProvider()
        stack.push_async_callback(provider.close)
        (spec,) = SynapseStable().homeservers()
        request = ServerRequest("server", spec, folder / "homeserver.log")
        await stack.enter_async_context(provider.deploy("bare", [request]))
        (server,) = provider.servers
        assert server.pid is not None
        pairs = [
            (await stack.enter_async_context(Driver()), await stack.enter_async_context(Driver()))
            for _ in range(at_once)
        ]
        processes = [psutil.Process(server.pid), *(driver.process for pair in pairs for driver in pair)]
        before = used(processes)
        for count in (_FEW, cases):
            before, left = used(processes), iter(range(count))
            await asyncio.gather(*(_flows(server, pair, left) for pair in pairs))
        return used(processes).since(before, cases)


async def _flows(server: LocalServer, pair: "tuple[Driver, Driver]", left: Iterable[int]) -> None:
    alice, bob = pair
    for _ in left:
        for client in pair:
            await client.do(RESET)
            url = {"local": server.cs_api, "local_docker": server.cs_api}
            client.name = f"user-{secrets.token_hex(5)}"
            await client.do("register", username=client.name, password="secret", homeserver_url=url)
        await alice.do("create_room", name="A room for two")
        await alice.do("invite_user", userId=f"@{bob.name}:{server.server_name}")
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


async def measure(cases: int, rounds: int, numbers: Sequence[int], together: bool) -> None:
    """Run all ways, and print a table for each number of cases at once."""
    for at_once in numbers:
        found: dict[str, list[Cost]] = {"bare": [], "fresh": [], "shared": []}
        factors: dict[str, list[float]] = {"fresh": [], "shared": []}
        ways: dict[str, Callable[[], Coroutine[Any, Any, Cost]]] = {
            "bare": partial(bare, cases, at_once),
            "fresh": partial(session, cases, at_once),
            "shared": partial(session, cases, at_once, "--share-servers"),
        }
        for _ in range(rounds):
            # Bare before and after each of the others: the speed of a machine drifts.
            order = ["bare", "fresh", "shared"] if together else ["bare", "fresh", "bare", "shared", "bare"]
            if together:
                costs = await asyncio.gather(*(ways[way]() for way in order))
            else:
                costs = [await ways[way]() for way in order]
            for place, (way, cost) in enumerate(zip(order, costs, strict=True)):
                found[way].append(cost)
                if way in factors:
                    beside = costs[:1] if together else (costs[place - 1], costs[place + 1])
                    factors[way].append(cost.total / mean(one.total for one in beside))
        _print(at_once, found, factors)
    print(f"\n  load of the machine: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


def _print(at_once: int, found: dict[str, list[Cost]], factors: dict[str, list[float]]) -> None:
    def middle(way: str, kind: str) -> float:
        return median(one.cpu[kind] for one in found[way])

    rows: list[tuple[object, ...]] = [(kind, *(middle(way, kind) for way in found)) for kind in _ROWS]
    rows.append(("all", *(median(one.total for one in costs) for costs in found.values())))
    rows.append(("factor", 1.0, *(median(one) for one in factors.values())))
    rows.append(("  lowest", "", *(min(one) for one in factors.values())))
    rows.append(("  highest", "", *(max(one) for one in factors.values())))
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
    parser.add_argument(
        "--together", action="store_true", help="all ways at the same time: for a machine that is busy"
    )
    options = parser.parse_args()
    asyncio.run(measure(options.cases, options.rounds, options.at_once, options.together))


if __name__ == "__main__":
    main()
