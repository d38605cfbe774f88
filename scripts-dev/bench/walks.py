"""How many files of the package the coordinator enters for one registration, action, case, upload and event.

Counts each function that the main thread of a coordinator enters. What threads and workers do is not counted.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from raw_http import Connection
from tables import show

import trafficlight
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.results.events import FINAL, State
from trafficlight.suites.selection import SessionRequest

_PACKAGE = Path(trafficlight.__file__).parent
# Seconds for what a request leaves to later turns of the loop, such as starting cases.
_QUIET = 0.2
_ROUNDS = 5
_TEST = """
from trafficlight.client_types import ClientType
from trafficlight.clients import MatrixClient
from trafficlight.test import Test


class Walker(ClientType):
    type = "walker"


class Walk(Test):
    clients = {"alice": [Walker]}

    async def run(self, alice: MatrixClient) -> None:
        await alice.perform("one")
        await alice.perform("two")
"""


@dataclass
class Walk:
    """The functions entered, in order, as (file, name)."""

    name: str
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """The files in the order in which they were first entered."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    def moves(self, depth: int | None = None) -> int:
        """Return how often the next function is in another file, or in another folder of this depth."""
        places = [file.split("/")[:depth] if depth else file for file, _ in self.calls]
        return sum(one != other for one, other in itertools.pairwise(places))

    @property
    def row(self) -> list[object]:
        """The walk as a line of the table."""
        rooms = {file.split("/")[0] for file in self.files if "/" in file}
        functions = len(set(self.calls))
        moves = self.moves(), self.moves(1)
        return [self.name, len(self.files), functions, len(self.calls), *moves, len(rooms)]


@contextmanager
def traced(walk: Walk) -> Iterator[Walk]:
    """Record the functions that this thread enters. A coroutine counts once, however often it resumes."""
    seen: dict[int, FrameType] = {}  # keeps the frames alive, so that their ids stay unique

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(f"{_PACKAGE}/") or id(frame) in seen:
            return
        seen[id(frame)] = frame
        if not frame.f_code.co_name.startswith("<"):  # comprehensions and lambdas
            walk.calls.append((path[len(str(_PACKAGE)) + 1 :], frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        yield walk
    finally:
        sys.setprofile(None)


@dataclass
class Bench:
    """A lab over HTTP with one adapter."""

    lab: Lab
    wire: Connection
    uuid: str
    folder: Path

    async def register(self) -> None:
        """Register an adapter under a new id."""
        self.uuid = str(uuid4())
        await self.wire.json("POST", f"/client/{self.uuid}/register", {"type": "walker"})

    async def action(self) -> dict[str, Any]:
        """Poll until an action comes."""
        while (found := await self.wire.json("GET", f"/client/{self.uuid}/poll"))["action"] == "idle":
            pass
        return dict(found)

    async def respond(self, action: dict[str, Any]) -> dict[str, Any]:
        """Answer an action, and return what to do next."""
        path = f"/client/{self.uuid}/respond?next=20"
        return dict((await self.wire.json("POST", path, {"id": action["id"]}))["next"])

    async def upload(self) -> None:
        """Upload a small file."""
        body = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="log.txt"\r\n\r\nhi\r\n--x--\r\n'
        )
        path = f"/client/{self.uuid}/upload"
        status, raw = await self.wire.request("POST", path, body, "multipart/form-data; boundary=x")
        if status != 200:
            raise RuntimeError(f"upload: {status} {raw[:200]!r}")


@asynccontextmanager
async def opened(workers: int) -> AsyncIterator[Bench]:
    """Run a lab without homeservers, in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "walk_test.py").write_text(_TEST)
        settings = {
            "results_folder": folder / "results",
            "workers": workers,
            "adapters": {},
            "grace": 0.1,
        }
        async with Lab.open(Settings.model_validate(settings)) as lab:
            async with serving(app_of(lab), bind("127.0.0.1", 0)) as url, Connection(url) as wire:
                yield Bench(lab, wire, "", folder)
                lab.engine.pool.close("the bench is over")


async def walks(workers: int) -> list[Walk]:
    """Return the shortest of several rounds of each walk: the first fills caches, and timers enter others."""
    async with opened(workers) as bench:
        rounds = [await _session(bench) for _ in range(_ROUNDS)]
    return [min(same, key=lambda walk: len(walk.files)) for same in zip(*rounds, strict=True)]


async def _session(bench: Bench) -> list[Walk]:
    registration, start, upload, action, end, event, page = (
        Walk("registration"),
        Walk("case: from the request to its start"),
        Walk("upload"),
        Walk("action: from an answer to the next action"),
        Walk("case: from the last answer to the end of the session"),
        Walk("event: from the attempt to a client of the stream"),
        Walk("event: the status page that a browser fetches after it"),
    )
    lab = bench.lab
    with traced(registration):
        await bench.register()
        await asyncio.sleep(_QUIET)
    request = SessionRequest(targets=[str(bench.folder / "walk_test.py")])
    with traced(start):
        session = await lab.start(request, command="walks")
        while [case.state for case in session.record.cases.values()] != [State.RUNNING]:
            await asyncio.sleep(0.001)
    first = await bench.action()
    await asyncio.sleep(_QUIET)
    with traced(upload):
        await bench.upload()
        await asyncio.sleep(_QUIET)
    async with _stream(bench, session.id, session.record.last_sequence) as line:
        with traced(event):
            waiting = asyncio.create_task(line())
            await asyncio.sleep(_QUIET / 10)
            lab.engine.pool.drain("a walk")
            await waiting
    with traced(page):
        await bench.wire.request("GET", f"/status/{session.id}")
    lab.engine.pool.undrain()
    await asyncio.sleep(_QUIET)
    with traced(action):
        second = await bench.respond(first)
    await asyncio.sleep(_QUIET)
    with traced(end):
        await bench.respond(second)
        await session.ended.wait()
    if [case.state in FINAL for case in session.record.cases.values()] != [True]:
        raise RuntimeError("the case did not end")
    return [registration, action, start, end, upload, event, page]


@asynccontextmanager
async def _stream(bench: Bench, session: str, after: int) -> AsyncIterator[Any]:
    host, port = bench.wire.address
    reader, writer = await asyncio.open_connection(host, port)
    path = f"/api/sessions/{session}/events?after={after}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")

    async def line() -> None:
        while b"drained" not in await reader.readline():
            pass

    yield line
    writer.close()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=None, help="0 or 1; both by default")
    parser.add_argument(
        "--files", action="store_true", help="also list the files of each walk, and their calls"
    )
    return parser.parse_args()


def main() -> None:
    """Print a table for each kind of lab."""
    options = _parsed()
    for workers in (0, 1) if options.workers is None else (options.workers,):
        found = asyncio.run(walks(workers))
        head = ["walk", "files", "functions", "calls", "file moves", "room moves", "rooms"]
        show(f"workers: {workers}", head, [walk.row for walk in found])
        for walk in found if options.files else ():
            print(f"\n{walk.name}, {len(walk.files)} files:")
            for file in walk.files:
                names = dict.fromkeys(name for where, name in walk.calls if where == file)
                print(f"  {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
