"""What the network proxy costs, beside no proxy and mitmproxy, in the same run; and what it takes of memory.

mitmproxy is installed in an environment of its own, below the user's cache.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import platformdirs
import psutil
from raw_http import Connection
from tables import percentile, show

import trafficlight
from trafficlight.coordinator.network import NetworkProxy
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.network.connection import CaseNetwork

_CHAT = Path(trafficlight.__file__).parent / "tests" / "chat"
_TURNS = 10
_CONNECTIONS = 16
_BIG = 200 << 20
_PART = 256 << 10


class Backend(asyncio.Protocol):
    """A server that costs next to nothing: with small answers, a large one, and some that it holds."""

    small = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n%1000d"
    big = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % _BIG
    held: list[asyncio.WriteTransport] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport, self._buffer, self._writable = transport, b"", asyncio.Event()
        self._writable.set()
        self._sending: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(b"\r\n\r\n"):
            return
        path, self._buffer = self._buffer.split(b" ", 2)[1], b""
        if path == b"/held":
            self.held.append(self._transport)
        elif path == b"/big":
            self._sending = asyncio.get_running_loop().create_task(self._send())
        else:
            self._transport.write(self.small % len(self.held))
            if path == b"/release":
                for waiting in self.held:
                    waiting.write(self.small % 0)
                self.held.clear()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _send(self) -> None:
        self._transport.write(self.big)
        for _ in range(_BIG // _PART):
            await self._writable.wait()
            self._transport.write(b"x" * _PART)

    @classmethod
    async def serve(cls) -> None:
        server = await asyncio.get_running_loop().create_server(cls, "127.0.0.1", 0, backlog=2000)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


@dataclass
class Way:
    """A way from the client to the server, and what it took."""

    name: str
    url: str
    process: psutil.Process | None
    times: list[float] = field(default_factory=list)
    cpu: float = 0.0
    rates: list[float] = field(default_factory=list)

    def used(self) -> float:
        """Return the seconds of CPU of its process."""
        return sum(self.process.cpu_times()[:2]) if self.process else 0.0

    @property
    def memory(self) -> float:
        """MiB of its process."""
        return self.process.memory_info().rss / 2**20 if self.process else 0.0


@asynccontextmanager
async def backend() -> AsyncIterator[str]:
    """Run the server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--backend", stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def ours(target: str, folder: Path, recording: str) -> AsyncIterator[Way]:
    """Run the lab's proxy."""
    lab = NetworkProxy()

    async def socket() -> Path:
        return (await lab.running()).socket

    case = CaseNetwork(
        socket, record=True, recording=lambda role: folder / recording, on_change=lambda *_: None
    )
    try:
        if recording:
            url = await case.open("alice", target)
        else:
            url = str((await case.call("open", "alice", target=target, recording=""))["url"])
        arguments = ["trafficlight.network", str(await socket())]
        (process,) = (one for one in psutil.Process().children() if one.cmdline()[-2:] == arguments)
        yield Way("ours, recording" if recording else "ours", url, process)
    finally:
        await case.close()
        await lab.close()


def _mitmdump() -> Path:
    """Return the program; install it first if need be."""
    folder = platformdirs.user_cache_path("trafficlight") / "bench" / "mitmproxy"
    program = folder / "bin" / "mitmdump"
    if not program.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", "mitmproxy"], check=True)
    return program


@asynccontextmanager
async def mitmproxy(program: Path, target: str, folder: Path, options: Sequence[str]) -> AsyncIterator[Way]:
    """Run mitmproxy as a reverse proxy, without its output."""
    port = PortPicker().pick()
    arguments = ["-q", "--mode", f"reverse:{target}", "--listen-host", "127.0.0.1", "-p", str(port), *options]
    environment = {**os.environ, "HOME": str(folder)}
    process = await asyncio.create_subprocess_exec(program, *arguments, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(60):
            while True:
                try:
                    async with Connection(url) as connection:
                        await connection.request("GET", "/small")
                        break
                except OSError:
                    await asyncio.sleep(0.1)
        name = "mitmproxy, recording" if options else "mitmproxy"
        yield Way(name, url, psutil.Process(process.pid))
    finally:
        process.terminate()
        await process.wait()


async def compare(requests: int) -> None:
    """Send small requests over all ways, in turns."""
    program = await asyncio.to_thread(_mitmdump)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = await stack.enter_async_context(backend())
        flows = ["-w", str(folder / "flows")]
        ways = [
            Way("none", target, None),
            await stack.enter_async_context(ours(target, folder, "")),
            await stack.enter_async_context(ours(target, folder, "a.har")),
            await stack.enter_async_context(mitmproxy(program, target, folder, [])),
            await stack.enter_async_context(mitmproxy(program, target, folder, flows)),
        ]
        for _ in range(_TURNS):
            for way in ways:
                await _load(way, requests // _TURNS)
        direct = percentile(ways[0].times, 0.5)
        rows = []
        for way in ways:
            sent = 2 * len(way.times)
            rows.append(
                (
                    way.name,
                    1000 * percentile(way.times, 0.5),
                    1000 * (percentile(way.times, 0.5) - direct),
                    1e6 * way.cpu / sent,
                    percentile(way.rates, 0.5),
                    way.memory,
                )
            )
    head = ("proxy", "p50 ms", "added ms", "CPU µs", f"requests/s, {_CONNECTIONS} at once", "MiB")
    show(f"A request whose answer has 1,000 bytes, {requests:,} one by one and as many at once", head, rows)
    print(f"\n  load of the machine: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


async def _load(way: Way, requests: int) -> None:
    async with Connection(way.url) as connection:
        await connection.request("GET", "/small")
        before = way.used()
        for _ in range(requests):
            began = time.perf_counter()
            await connection.request("GET", "/small")
            way.times.append(time.perf_counter() - began)

    async def some() -> None:
        async with Connection(way.url) as connection:
            for _ in range(requests // _CONNECTIONS):
                await connection.request("GET", "/small")

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(_CONNECTIONS)))
    way.rates.append(requests / (time.perf_counter() - began))
    way.cpu += way.used() - before


async def burden(polls: int) -> None:
    """Send a large download and held polls through one process of ours, recording."""
    rows: list[tuple[object, ...]] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = await stack.enter_async_context(backend())
        way = await stack.enter_async_context(ours(target, folder, "a.har"))
        first, used = way.memory, way.used()

        def measured(name: str, memory: float) -> None:
            nonlocal used
            before, used = used, way.used()
            rows.append((name, memory, memory - first, used - before))

        measured("at first", first)
        connections = [await stack.enter_async_context(Connection(way.url)) for _ in range(polls)]
        asked = [asyncio.create_task(one.request("GET", "/held")) for one in connections]
        control = await stack.enter_async_context(Connection(target))
        while int((await control.request("GET", "/small"))[1]) < polls:
            await asyncio.sleep(0.1)
        measured(f"{polls:,} polls are held", way.memory)
        began, peak = time.perf_counter(), 0.0
        reader, writer = await asyncio.open_connection(*Connection(way.url).address)
        writer.write(b"GET /big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        left = _BIG + len(Backend.big)
        while left:
            left -= len(await reader.read(min(left, _PART)))
            peak = max(peak, way.memory)
        seconds = time.perf_counter() - began
        writer.close()
        measured("and a download of 200 MiB, peak", peak)
        await control.request("GET", "/release")
        await asyncio.gather(*asked)
        measured("all are answered", way.memory)
    show("Memory of our process", ("", "MiB", "grown by", "CPU s"), rows)
    print(f"\n  the download: {_BIG / 2**20 / seconds:,.0f} MiB/s")


def recording(turns: int, repeat: int) -> None:
    """Run each case of the chat suite with recordings and without, in turns."""
    listed = subprocess.run(
        [sys.executable, "-m", "trafficlight", "collect", _CHAT, "--json"], stdout=subprocess.PIPE, check=True
    )
    names = [case["id"].partition("[")[0] for case in json.loads(listed.stdout)["cases"]]
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    rows: list[tuple[object, ...]] = []
    for name in names:
        ran: dict[str, list[tuple[float, float]]] = {"never": [], "failures": []}
        for turn in range(turns):
            for kept in sorted(ran, reverse=bool(turn % 2)):
                ran[kept].append(_ran(_CHAT.parent / name, repeat, kept))
        for (plain, used), (recorded, more) in zip(ran["never"], ran["failures"], strict=True):
            wall[name].append(recorded / plain - 1)
            cpu[name].append(more / used - 1)
        columns = [median(column) for one in ran.values() for column in zip(*one, strict=True)]
        rows.append(
            (
                name,
                columns[1],
                columns[3],
                _between([cpu[name]]),
                columns[0],
                columns[2],
                _between([wall[name]]),
            )
        )
    rows.append(("the median case", "", "", _between([*cpu.values()]), "", "", _between([*wall.values()])))
    head = ("case", "CPU s", "recorded", "more", "wall s", "recorded", "more")
    show(
        f"The chat suite, one case at a time, {turns} pairs of sessions with {repeat} of each case",
        head,
        rows,
    )
    print("\n  more: the median of the pairs, and the interval in which it lies with 95 %")


def _ran(case: Path, repeat: int, kept: str) -> tuple[float, float]:
    """Run a case in a session; return the seconds that it took, and those of CPU of all processes."""
    before = sum(os.times()[2:4])
    with tempfile.TemporaryDirectory() as folder:
        options = ["-n", "1", "--repeat", str(repeat), "--results", folder]
        subprocess.run(
            [sys.executable, "-m", "trafficlight", "run", case, *options],
            env={**os.environ, "TRAFFICLIGHT_RECORD_TRAFFIC": kept},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        cases = [*ElementTree.parse(Path(folder, "latest", "junit.xml")).iter("testcase")]
    return median(float(case.attrib["time"]) for case in cases), (sum(os.times()[2:4]) - before) / repeat


def _between(groups: Sequence[Sequence[float]]) -> str:
    """Return the median of the groups' medians, and its interval by bootstrap."""
    chance = random.Random(1)

    def resampled() -> float:
        return median(median(chance.choices(group, k=len(group))) for group in groups)

    found = [resampled() for _ in range(1000)]
    low, high = percentile(found, 0.025), percentile(found, 0.975)
    return f"{median(map(median, groups)):+.1%} ({low:+.1%} to {high:+.1%})"


def main() -> None:
    """Compare, and measure the memory; or run the chat suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="on one connection (default 5,000)")
    parser.add_argument("--polls", type=int, default=1000, help="that are held at once (default 1,000)")
    parser.add_argument("--suite", type=int, help="only: this many pairs of sessions of each chat case")
    parser.add_argument("--repeat", type=int, default=5, help="how often a session runs it (default 5)")
    parser.add_argument("--backend", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        asyncio.run(Backend.serve())
        return
    if options.suite:
        recording(options.suite, options.repeat)
        return
    asyncio.run(burden(options.polls))
    asyncio.run(compare(options.requests))


if __name__ == "__main__":
    main()
