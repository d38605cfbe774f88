"""What an ended session costs: in memory, and when it is read out of its folder while adapters poll."""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from raw_http import Connection
from tables import percentile, show

from trafficlight.cli.runtime import lab_serving
from trafficlight.clock import SystemClock
from trafficlight.config import Settings
from trafficlight.results.catalog import read_record
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionSent,
    AdapterLeased,
    AdapterReleased,
    CaseEnded,
    CasePlanned,
    CaseState,
    Event,
    ServerReady,
    SessionEnded,
    SessionStarted,
    State,
)
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

ADAPTERS = 50
REGISTRATION = {"type": "element-web", "version": "1.12.4", "instance": "lab-2 seat 4", "labels": ["desk"]}


def played(root: Path, cases: int, actions: int) -> tuple[ResultsFolder, SessionRecord, ResultsWriter]:
    """Write a session of two-client cases as the lab does, and return it as it is in memory then."""
    clock = SystemClock()
    journal, record = Journal(clock), SessionRecord()
    folder = ResultsFolder.create(root, clock.now().date())
    writer = ResultsWriter(folder, record)
    journal.subscribe(writer)
    journal.append(SessionStarted(session=folder.id, command="bench", host="bench", cases=cases))
    ids = [
        f"chat/many_test.py::Many.talk[alice=Nio,bob=Nio,server=SynapseStable,n={n}]" for n in range(cases)
    ]
    for id in ids:
        clients = {"alice": "Nio", "bob": "Nio"}
        journal.append(
            CasePlanned(
                session=folder.id,
                case=id,
                suite="chat/many_test.py::Many.talk",
                file="chat/many_test.py",
                line=7,
                class_name="Many",
                method="talk",
                clients=clients,
                servers={"server": "SynapseStable"},
                parameters={},
                skip=None,
            )
        )
    for number, id in enumerate(ids):
        play(journal, folder.id, id, number, actions)
    journal.append(SessionEnded(session=folder.id, exit_code=1, interrupted=False))
    writer.close()
    folder.finish()
    return folder, record, writer


def play(journal: Journal, session: str, case: str, number: int, actions: int) -> None:
    """Append the events of a case of two clients; every tenth one fails."""

    def emit(event: Event) -> None:
        journal.append(replace(event, session=session, case=case, attempt=1))

    adapters = {role: f"{number:08x}-{role}" for role in ("alice", "bob")}
    emit(CaseState(case=case, state=State.PREPARING))
    for role, adapter in adapters.items():
        emit(AdapterLeased(role=role, adapter=adapter, registration=REGISTRATION))
    emit(ServerReady(role="server", server_name="hs1", cs_api="http://127.0.0.1:8008", seconds=0.9))
    emit(CaseState(case=case, state=State.RUNNING))
    for step in range(actions):
        role, id = ("alice", "bob")[step % 2], f"{number:08x}{step:08x}"
        said = {"message": f"hello {step} from a case", "room_id": "!abcdefghijklmnop:hs1"}
        about: dict[str, Any] = {"role": role, "adapter": adapters[role], "id": id, "action": "send_message"}
        emit(ActionSent(**about, data=said))
        emit(ActionDelivered(**about))
        answer = {"response": "sent", "event_id": f"${id}"}
        emit(ActionAnswered(**about, response=answer, seconds=0.1))
    failed = number % 10 == 0
    state, message = (State.FAILURE, "AssertionError: bob has not got it") if failed else (State.SUCCESS, "")
    traceback = "Traceback (most recent call last):\n" + "  a line of it\n" * 20 if failed else ""
    emit(CaseEnded(case=case, state=state, message=message, traceback=traceback, seconds=1.5, phase="run"))
    for role, adapter in adapters.items():
        emit(AdapterReleased(role=role, adapter=adapter, reason="the case has ended"))


def memory(root: Path, cases: int, actions: int) -> None:
    """Print what an ended session takes in memory, whole and in short."""
    process = psutil.Process()

    def used() -> int:
        gc.collect()
        return int(process.memory_info().rss)

    before = used()
    folder, record, writer = played(root, cases, actions)
    whole = used() - before
    assert len(record.cases) == cases
    del record, writer
    between = used()
    began = time.perf_counter()
    short, weight = read_record(folder.events)
    seconds = time.perf_counter() - began
    size = folder.events.stat().st_size
    show(
        f"{cases:,} ended cases, two clients, {actions} actions each",
        ["", "bytes per case", "MB"],
        [
            ["in memory", whole // cases, whole / 1e6],
            ["events.jsonl", size // cases, size / 1e6],
            ["read in short (at most)", max(0, used() - between) // cases, max(0, used() - between) / 1e6],
            ["its weight", weight // cases, weight / 1e6],
        ],
    )
    assert len(short.cases) == cases
    print(f"\n  read in short in {seconds:.1f} s")


class Server:
    """A lab over a results folder, in a process of its own."""

    def __init__(self, root: Path) -> None:
        arguments = [sys.executable, __file__, "--serve", str(root)]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._line()

    def lags(self) -> list[float]:
        """Return for how long its loop was kept from its work, each time since this was asked last."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: list[float] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


async def serve(root: Path) -> None:
    """Serve until the process is ended, and tell the lags of the loop at every line of the input."""
    settings = Settings(results_folder=root, workers=0, adapters={})
    lags: list[float] = []

    def told() -> None:
        sys.stdin.readline()
        print(json.dumps(lags), flush=True)
        lags.clear()

    async with lab_serving(settings) as (_, url):
        print(url, flush=True)
        asyncio.get_running_loop().add_reader(sys.stdin, told)
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            lags.append(time.perf_counter() - began - 0.002)


async def polls(server: Server, root: Path, seconds: float) -> None:
    """Print how long polls take while people look at what is not in memory."""
    folder = ResultsFolder.open(root / "latest").path
    case = next(iter(read_record(folder / "events.jsonl")[0].cases))
    asked = {
        "nothing": "",
        "read the session": f"/status/{folder.name}",
        "the status page, read already": f"/status/{folder.name}",
        "1,000 cases over the API": f"/api/sessions/{folder.name}/cases",
        "a case's page": f"/status/{folder.name}/case?id={quote(case)}",
        "all events": f"/api/sessions/{folder.name}/events",
    }
    rows = []
    for what, path in asked.items():
        server.lags()
        times, answers = await _polls_while(server.url, folder, path, what, seconds)
        lags = server.lags()
        rows.append(
            [
                what,
                len(times),
                1000 * percentile(times, 0.5),
                1000 * percentile(times, 0.99),
                1000 * max(times),
                1000 * percentile(lags, 0.99),
                1000 * max(lags),
                1000 * percentile(answers, 0.5) if answers else "-",
            ]
        )
    show(
        f"polls of {ADAPTERS} adapters during this (ms)",
        ["people ask for", "polls", "p50", "p99", "max", "loop late p99", "max", "their answer p50"],
        rows,
    )


async def _polls_while(
    url: str, folder: Path, path: str, what: str, seconds: float
) -> tuple[list[float], list[float]]:
    times: list[float] = []
    answers: list[float] = []
    until = time.perf_counter() + seconds

    async def adapter(number: int) -> None:
        async with Connection(url) as connection:
            uuid = f"{what.replace(' ', '-').replace(',', '').replace(chr(39), '')}-{number}"
            await connection.json("POST", f"/client/{uuid}/register", {"type": "nio"})
            await asyncio.sleep(0.5 * number / ADAPTERS)  # they do not poll in step
            while time.perf_counter() < until:
                began = time.perf_counter()
                await connection.json("GET", f"/client/{uuid}/poll?wait=0")
                times.append(time.perf_counter() - began)
                await asyncio.sleep(0.5)

    async def person() -> None:
        while path and time.perf_counter() < until:
            if what == "read the session":
                (folder / "events.jsonl").touch()  # so that it must be read again
            began = time.perf_counter()
            await _answer(url, path)
            answers.append(time.perf_counter() - began)

    await asyncio.gather(*(adapter(number) for number in range(ADAPTERS)), person())
    return times, answers


async def _answer(url: str, path: str) -> None:
    """Ask, and read to the end; a redirect is followed."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    while await reader.read(1 << 20):
        pass
    writer.close()
    for line in head.split("\r\n"):
        if line.lower().startswith("location: "):
            await _answer(url, line[10:])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--actions", type=int, default=5, help="actions of each case (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (10)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder), options.cases, options.actions)
        with closing(Server(Path(folder))) as server:
            asyncio.run(polls(server, Path(folder), options.seconds))


if __name__ == "__main__":
    main()
