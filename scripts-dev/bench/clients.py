"""What a client costs: start-up, memory, and what the driver protocol adds to an action."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil
from tables import percentile, show

from trafficlight.adapters.conformance import ScriptedAdapter, ScriptedCoordinator
from trafficlight.drivers.recipes import RECIPES

# A client that does nothing, to be an adapter of its own or a driver.
ECHO = """
import asyncio, sys
from trafficlight.adapters.sdk import Adapter, JsonObject, action, drive, serve


class Echo(Adapter):
    type = "echo"

    @action()
    async def echo(self, text: str) -> JsonObject:
        return {"text": text}


asyncio.run(serve(Echo, sys.argv[1]) if sys.argv[1:] else drive(Echo))
"""
_HOST = (sys.executable, "-P", "-m", "trafficlight", "adapter", "run", "--url")
# Seconds to wait for a registration: the first may build a driver.
_PATIENCE = 600.0
_TURNS = 5
_BLOCK = 50


@dataclass
class Client:
    """A client that runs, and what it took.

    :ivar start: seconds from the start of its program until it registered.
    :ivar again: seconds from `exit` until it registered again, of several times.
    """

    process: psutil.Process
    coordinator: ScriptedCoordinator
    adapter: ScriptedAdapter
    start: float
    again: list[float] = field(default_factory=list)

    @property
    def memory(self) -> float:
        """MiB of its processes, with their share of what is shared."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(one.memory_full_info().pss for one in processes) / 2**20

    @property
    def cpu(self) -> float:
        """Seconds of CPU of its processes."""
        processes = [self.process, *self.process.children(recursive=True)]
        return float(sum(sum(one.cpu_times()[:2]) for one in processes))

    async def turn(self) -> None:
        """Have it register again."""
        number = len(self.coordinator.adapters) + 1
        began = time.perf_counter()
        await self.adapter.exit()
        self.adapter = await self.coordinator.registered(number, timeout=_PATIENCE)
        self.again.append(time.perf_counter() - began)

    async def echoes(self, count: int, text: str) -> list[float]:
        """Return the seconds that each of some actions took."""
        found = []
        for _ in range(count):
            began = time.perf_counter()
            reply = await self.adapter.act("echo", {"text": text}, timeout=_PATIENCE)
            found.append(time.perf_counter() - began)
            if reply is None or reply.body.get("text") != text:
                raise SystemExit(f"no echo: {reply}")
        return found


@asynccontextmanager
async def client(*command: str) -> AsyncIterator[Client]:
    """Run an adapter; the coordinator's URL is its last argument, or stands for ``{url}``."""
    async with ScriptedCoordinator() as coordinator:
        arguments = [part.replace("{url}", coordinator.url) for part in command]
        began = time.perf_counter()
        program = await asyncio.create_subprocess_exec(*arguments)
        try:
            adapter = await coordinator.registered(timeout=_PATIENCE)
            start = time.perf_counter() - began
            yield Client(psutil.Process(program.pid), coordinator, adapter, start)
        finally:
            program.terminate()
            await program.wait()


async def protocol(actions: int) -> list[tuple[object, ...]]:
    """Compare a client as an adapter with the same client as a driver; both are asked in turns."""
    driver = f"{sys.executable} -c '{ECHO}'"
    rows: list[tuple[object, ...]] = []
    for what, text in (("10 bytes", "x" * 10), ("100 kB", "x" * 100_000)):
        async with (
            client(sys.executable, "-c", ECHO, "{url}") as alone,
            client(*_HOST, "{url}", "--driver", driver) as hosted,
        ):
            times: tuple[list[float], list[float]] = ([], [])
            before = [one.cpu for one in (alone, hosted)]
            for _ in range(max(1, actions // _BLOCK)):
                for one, some in zip((alone, hosted), times, strict=True):
                    some += await one.echoes(_BLOCK, text)
            cpu = [
                1e6 * (one.cpu - used) / len(times[0])
                for one, used in zip((alone, hosted), before, strict=True)
            ]
        fast, medians = ([1000 * percentile(some, share) for some in times] for share in (0.1, 0.5))
        rows.append((what, *fast, fast[1] - fast[0], *medians, medians[1] - medians[0], *cpu))
    return rows


async def stacks(names: Sequence[str]) -> list[tuple[object, ...]]:
    """Measure start-up, the time between two registrations, and memory of the clients that come along."""
    rows: list[tuple[object, ...]] = []
    for name in names:
        async with client(*_HOST, "{url}", name) as one:
            for _ in range(_TURNS):
                await one.turn()
            rows.append((name, one.start, percentile(one.again, 0.5), one.memory, one.cpu))
    return rows


async def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="clients that come with trafficlight")
    parser.add_argument("--actions", type=int, default=1000)
    asked = parser.parse_args()
    rows = await protocol(asked.actions)
    both = ["adapter", "driver"]
    head = ["an action that does nothing", *both, "added", *both, "added", *both]
    show("The driver protocol: p10 and p50 in ms, then µs of CPU of its processes", head, rows)
    rows = await stacks(asked.names)
    head = ["client", "first s", "again s", "MiB", "CPU s"]
    show("Clients: until they register, and what they take", head, rows)


if __name__ == "__main__":
    asyncio.run(main())
