"""What the adapter wire costs, as a ratio to a bare Quart application on the same server, in the same run."""

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
from raw_http import Connection
from tables import percentile, show

RESPONSE = {"response": "done"}
# How often both servers are loaded in turn.
_TURNS = 4


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    url: str
    process: psutil.Process

    @property
    def cpu(self) -> float:
        """The seconds of CPU that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass
class Load:
    """What came of sending requests for a while."""

    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return len(self.times) / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of the server's CPU for each request; says most on a machine that has other work."""
        return 1e6 * self.cpu / len(self.times)

    def ms(self, share: float) -> float:
        """Return a percentile of the answer times, in milliseconds."""
        return 1000 * percentile(self.times, share)


@contextmanager
def server(kind: str, program: str = "hypercorn") -> Iterator[Server]:
    """Run a server.

    :param kind: `lab` or `bare`.
    :param program: the ASGI server.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "url"
        script = Path(__file__).parent / "serving.py"
        process = subprocess.Popen([sys.executable, str(script), kind, str(told), program])
        try:
            while not told.exists() or not told.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"the {kind} server did not start")
                time.sleep(0.05)
            url = told.read_text()
            asyncio.run(_answers(url))
            yield Server(url, psutil.Process(process.pid))
        finally:
            process.kill()
            process.wait()


async def _answers(url: str) -> None:
    """Wait until a server answers."""
    async with asyncio.timeout(10):
        while True:
            try:
                async with Connection(url) as connection:
                    await connection.request("GET", "/")
                    return
            except OSError:
                await asyncio.sleep(0.05)


async def register(url: str, count: int) -> list[str]:
    """Register adapters; return their paths."""
    paths = [f"/client/{uuid4()}" for _ in range(count)]
    left = iter(paths)

    async def some() -> None:
        async with Connection(url) as connection:
            for path in left:
                await connection.json("POST", f"{path}/register", {"type": "nio"})

    await asyncio.gather(*(some() for _ in range(16)))
    return paths


async def load(
    at: Server, paths: list[str], what: str, seconds: float, into: Load, connections: int = 64
) -> None:
    """Send requests for some seconds."""
    turn = itertools.cycle(paths)
    end = time.perf_counter() + seconds

    async def some() -> None:
        async with Connection(at.url) as connection:
            while (began := time.perf_counter()) < end:
                if what == "poll":
                    await connection.json("GET", f"{next(turn)}/poll?wait=0")
                elif what == "register":
                    await connection.json("POST", f"/client/{uuid4()}/register", {"type": "nio"})
                else:
                    await connection.json("POST", f"{next(turn)}/respond", RESPONSE)
                into.times.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), at.cpu
    await asyncio.gather(*(some() for _ in range(connections)))
    into.seconds += time.perf_counter() - began
    into.cpu += at.cpu - cpu


async def compared(
    lab: Server, plain: Server, paths: list[str], what: str, seconds: float
) -> tuple[object, ...]:
    """Load both servers in turns; return the row."""
    ours, base = Load(), Load()
    for _ in range(_TURNS):
        await load(plain, paths, what, seconds / _TURNS, base)
        await load(lab, paths, what, seconds / _TURNS, ours)
    return (
        f"{what}, {len(paths):,} adapters",
        ours.rate,
        base.rate,
        ours.rate / base.rate,
        ours.cost,
        base.cost,
        base.cost / ours.cost,
        ours.ms(0.5),
        ours.ms(0.99),
        base.ms(0.5),
        base.ms(0.99),
    )


async def rounds(lab: Server, cases: int, actions: int) -> Load:
    """Return what action round trips took, with as many cases at once."""
    url = lab.url
    paths = await register(url, cases)

    async def adapter(path: str) -> None:
        async with Connection(url) as connection:
            while (message := await connection.json("GET", f"{path}/poll"))["action"] != "exit":
                if message["action"] != "idle":
                    await connection.json("POST", f"{path}/respond", {"id": message["id"], **RESPONSE})

    adapters = [asyncio.create_task(adapter(path)) for path in paths]
    await asyncio.sleep(1 + cases / 1000)
    async with Connection(url) as connection:
        await connection.json("GET", "/bench/rounds/3")  # warms up
        cpu = lab.cpu
        found = Load(await connection.json("GET", f"/bench/rounds/{actions}"))
        found.cpu = lab.cpu - cpu
    for task in adapters:
        task.cancel()
    await asyncio.gather(*adapters, return_exceptions=True)
    return found


async def held(url: str, process: psutil.Process, count: int) -> float:
    """Return the bytes of memory that a held poll takes, connection and adapter included."""
    paths = await register(url, 1)
    before = process.memory_info().rss
    paths = await register(url, count)
    async with AsyncExitStack() as stack:
        polls = []
        for path in paths:
            connection = await stack.enter_async_context(Connection(url))
            polls.append(asyncio.create_task(connection.request("GET", f"{path}/poll")))
            if len(polls) % 100 == 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(2)
        after = process.memory_info().rss
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
    return (after - before) / count


async def upload(url: str, path: str, size: int) -> float:
    """Return the megabytes in a second of one upload."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="video.mp4"\r\n\r\n'
    body = head + bytes(size) + b"\r\n--x--\r\n"
    async with Connection(url) as connection:
        began = time.perf_counter()
        status, answer = await connection.request(
            "POST", f"{path}/upload", body, 'multipart/form-data; boundary="x"'
        )
        if status != 200:
            raise SystemExit(f"upload: {status} {answer[:200]!r}")
        return size / 1e6 / (time.perf_counter() - began)


async def measure(lab: Server, plain: Server, options: argparse.Namespace) -> None:
    """Measure everything and show it."""
    rows: list[tuple[object, ...]] = []
    paths: list[str] = []
    for count in options.adapters:
        paths += await register(lab.url, count - len(paths))
        rows += [await compared(lab, plain, paths, what, options.seconds) for what in ("poll", "respond")]
    rows.append(await compared(lab, plain, paths, "register", options.seconds))
    head = (
        "requests/s",
        "bare",
        "ratio",
        "CPU us",
        "bare",
        "ratio",
        "p50 ms",
        "p99 ms",
        "bare p50",
        "bare p99",
    )
    show("Throughput, 64 connections", ("endpoint", *head), rows)
    memory = await held(lab.url, lab.process, options.held)
    size = options.megabytes * 1_000_000
    speeds = [await upload(at.url, paths[0], size) for at in (lab, plain)]
    show(
        "The rest",
        ("what", "ours", "bare", "ratio"),
        [
            (f"bytes for each of {options.held:,} held polls", memory, "-", "-"),
            (f"upload of {options.megabytes} MB, MB/s", *speeds, speeds[0] / speeds[1]),
        ],
    )


async def measure_rounds(
    lab: Server, plain: Server, cases: int, options: argparse.Namespace
) -> tuple[object, ...]:
    """Return the row of action round trips with as many cases at once."""
    base = Load()
    await load(plain, ["/client/x"], "poll", options.seconds, base, connections=cases)
    ours = await rounds(lab, cases, max(5, 1000 // cases))
    await load(plain, ["/client/x"], "poll", options.seconds, base, connections=cases)
    return (
        f"{cases:,} cases at once",
        *(ours.ms(0.5), base.ms(0.5), ours.ms(0.5) / base.ms(0.5)),
        *(ours.ms(0.99), base.ms(0.99), ours.ms(0.99) / base.ms(0.99)),
        *(ours.cost, base.cost, ours.cost / base.cost),
    )


def main() -> None:
    """Run the servers and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--adapters", type=int, nargs="*", default=[100, 1000, 10_000], help="how many are registered"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each throughput (default 3)")
    parser.add_argument("--held", type=int, default=2000, help="polls held at the same time (default 2,000)")
    parser.add_argument("--megabytes", type=int, default=200, help="of one upload (default 200)")
    parser.add_argument("--cases", type=int, nargs="*", default=[1, 100, 1000], help="cases at once")
    parser.add_argument("--server", default="hypercorn", help="or uvicorn, granian: installed by yourself")
    options = parser.parse_args()
    with server("bare", options.server) as plain:
        with server("lab", options.server) as lab:
            asyncio.run(measure(lab, plain, options))
        rows = []
        for cases in options.cases:
            with server("lab", options.server) as lab:
                rows.append(asyncio.run(measure_rounds(lab, plain, cases, options)))
    head = ("p50 ms", "bare", "ratio", "p99 ms", "bare", "ratio", "CPU us", "bare", "ratio")
    show("Action round trip against one bare request, as many connections", ("round trip", *head), rows)


if __name__ == "__main__":
    main()
