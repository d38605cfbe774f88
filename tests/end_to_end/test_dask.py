"""A session on the workers of a Dask cluster: what it leaves, also when a part of the cluster is killed."""

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import junitparser
import pytest
import pytest_asyncio
from distributed import Client

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Running, Start

# A case of it waits in its first attempt until it is killed, and says in a file which process it is.
_WAITS = """
import asyncio
import os
from pathlib import Path

from trafficlight import Test, matrix

class Waits(Test):
    async def run(self):
        if self.case.attempt == 1:
            Path({folder!r}, "began").write_text(str(os.getpid()))
            await asyncio.sleep(600)

class Quick(Test):
    @matrix(number=[1, 2, 3])
    async def run(self, number):
        pass
"""
# A case of it waits until the others of the file have run.
_LONG = """
import asyncio
from pathlib import Path

from trafficlight import Test, matrix

FOLDER = Path({folder!r})

class Waits(Test):
    async def run(self):
        (FOLDER / "began").touch()
        while len(list(FOLDER.glob("quick-*"))) < 4:
            await asyncio.sleep(0.05)

class Quick(Test):
    @matrix(number=[1, 2, 3, 4])
    async def run(self, number):
        while not (FOLDER / "began").exists():
            await asyncio.sleep(0.05)
        (FOLDER / f"quick-{{number}}").touch()
"""
# The first case waits until it may end; then it fails.
_FIRST_FAILS = """
import asyncio
from pathlib import Path

from trafficlight import Test, matrix

class Cases(Test):
    @matrix(number=[1, 2, 3])
    async def run(self, number):
        Path({folder!r}, f"began-{{number}}").touch()
        while not Path({folder!r}, "go").exists():
            await asyncio.sleep(0.05)
        assert number != 1
"""
# A worker that takes long to find out its version, which is a wrong one.
_WRONG_VERSION = """
import threading
import time
from importlib import metadata
from pathlib import Path

version = metadata.version

def slow(name):
    if name != "matrix-trafficlight" or threading.current_thread() is threading.main_thread():
        return version(name)
    while not Path({folder!r}, "stolen").exists():
        time.sleep(0.05)
    return "99.0"

metadata.version = slow
"""
_OUTCOMES = """
import helper
from trafficlight import Test

class Attaches(Test):
    async def run(self):
        self.attach("answer.txt", helper.ANSWER)
        self.record("size", 3, "bytes")

class Fails(Test):
    async def run(self):
        self.logger.warning("about to fail")
        assert helper.ANSWER == b"no", "it is another one"

class Skips(Test):
    async def run(self):
        self.skip("not today")
"""


class Cluster:
    """A Dask scheduler and its workers, each a process, of one thread unless told otherwise."""

    def __init__(self, start: "Start", folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self.workers: list[Running] = []
        self.scheduler: Running | None = None
        self._start, self._folder = start, folder

    def how_to(self) -> list[list[str]]:
        """Return the arguments of the commands of the how-to, for this address."""
        page = (Path(__file__).parents[2] / "docs/how-to/run-on-a-cluster.md").read_text()
        port = self.address.rpartition(":")[2]
        return [
            [port if part == "8786" else part.replace(":8786", f":{port}") for part in command.split()]
            for command in re.findall(r"^\$ (?:dask|trafficlight) (.*)$", page, re.MULTILINE)
        ]

    async def open(self) -> "Running":
        port = self.address.rpartition(":")[2]
        arguments = ("--host", "127.0.0.1", "--port", port, "--no-dashboard")
        self.scheduler = await self._start(*arguments, module="distributed.cli.dask_scheduler")
        await self.scheduler.line("Scheduler at:")
        return self.scheduler

    async def grow(self, number: int = 1, *options: str, **environment: str) -> None:
        started = [await self.add(*options, **environment) for _ in range(number)]
        for worker in started:
            await worker.line("Registered to:")

    async def add(self, *options: str, **environment: str) -> "Running":
        """Start a worker, without waiting until it can run cases."""
        folder = self._folder / "dask"
        arguments = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", folder)
        worker = await self._start(
            *(self.address, "--host", "127.0.0.1", *arguments, *options),
            module="distributed.cli.dask_worker",
            environment=environment,
        )
        self.workers.append(worker)
        return worker

    async def holds(self, number: int) -> None:
        """Wait until the workers have so many cases in all, running and held ready."""
        async with asyncio.timeout(120), Client(self.address, asynchronous=True) as client:
            held = -1
            while held != number:
                await asyncio.sleep(0.05)
                held = sum((await client.run(lambda dask_worker: len(dask_worker.state.tasks))).values())

    async def shares(self) -> None:
        """Wait until Dask has given a case to each of two workers, also to one that is still starting."""
        async with asyncio.timeout(120), Client(self.address, asynchronous=True) as client:
            while [len(keys) for keys in (await client.processing()).values()] != [1, 1]:
                await asyncio.sleep(0.05)

    async def worker_of(self, began: Path) -> "Running":
        """Wait until a case says which process it is, and return the worker that runs it."""
        async with asyncio.timeout(120):
            while not (text := _read(began)):
                await asyncio.sleep(0.05)
        (worker,) = (one for one in self.workers if int(text) in {process.pid for process in one.started()})
        return worker


@pytest_asyncio.fixture
async def cluster(start: "Start", tmp_path: Path) -> AsyncIterator[Cluster]:
    yield Cluster(start, tmp_path)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# What differs between two attempts of a case, in reports.
_MADE_UP = {
    *("seconds", "offset", "started", "ended", "running_since", "uuid", "instance", "cs_api", "server_name"),
    *("detail", "answer", "at"),
}


def _lasting(value: Any) -> Any:
    """Return a part of a report without what is made up; what happened at the same time in no order."""
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _MADE_UP}
    if isinstance(value, list):
        return sorted((_lasting(item) for item in value if not _logs(item)), key=str)
    return value


def _logs(item: Any) -> bool:
    """Return whether an item is about the log of a client, which has one only if it logged something."""
    return isinstance(item, dict) and any(
        isinstance(value, str) and value.endswith("driver.log") for value in item.values()
    )


def _content(folder: Path) -> dict[str, Any]:
    """Return what a session left, without times and what is made up."""
    events = [one for one in _events(folder) if not _logs(one.get("data"))]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    logs = {file for file in files if file.startswith("adapters/") or file.endswith("driver.log")}
    ends = [one for one in events if one["kind"] == "case_ended"]
    junit = [case for suite in junitparser.JUnitXml.fromfile(str(folder / "junit.xml")) for case in suite]
    return {
        "files": files - logs,
        "ends": {one["case"]: (one["attempt"], _lasting(one["data"])) for one in ends},
        "kinds": {(one["case"], one["kind"]) for one in events if "case" in one},
        "junit": {
            (case.classname, case.name): [(type(one), one.type, one.message) for one in case.result]
            for case in junit
        },
        "report": _lasting(json.loads((folder / "report.json").read_text())["cases"]),
    }


async def _only(worker: "Running") -> None:
    """Wait until nothing is left of what a Dask worker started."""
    await worker.gone([process for process in worker.started() if process.pid != worker.pid], timeout=30)


async def test_a_session_leaves_what_it_leaves_on_one_machine(
    start: "Start", cluster: Cluster, chat: Path, tmp_path: Path
) -> None:
    targets = [f"{chat / 'send_messages_test.py'}::SendMessages"]
    local = await start("run", "--results", "local", *targets)
    assert await local.ended(timeout=280) == 0, local.output + local.errors
    expected = _content(tmp_path / "local" / "latest")
    await cluster.open()
    await cluster.grow(2)

    running = await start("run", "--dask", cluster.address, *targets)

    assert await running.ended(timeout=280) == 0, running.output + running.errors
    assert _content(running.session()) == expected
    assert {path.name for path in running.session().glob("adapters/*/*")} == {"nio-1.log"}
    for worker in cluster.workers:
        await _only(worker)
    assert running.started() == []


async def test_the_commands_of_the_how_to(start: "Start", cluster: Cluster, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "helper.py").write_text('ANSWER = b"yes"\n')
    (tests / "outcomes_test.py").write_text(_OUTCOMES)
    local = await start("run", "--results", "local", "tests")
    assert await local.ended() == 1
    expected = _content(tmp_path / "local" / "latest")
    scheduler, worker, session = cluster.how_to()
    await (await start(*scheduler, module="dask")).line("Scheduler at:")
    environment = {"DASK_TEMPORARY_DIRECTORY": str(tmp_path / "dask")}
    await (await start(*worker, module="dask", environment=environment)).line("Registered to:")

    running = await start(*session)

    assert await running.ended() == 1, running.output + running.errors
    assert _content(running.session()) == expected
    (attached,) = running.session().rglob("answer.txt")
    assert attached.read_bytes() == b"yes"


async def test_the_cases_of_a_killed_worker_run_again_elsewhere(
    start: "Start", cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "waits_test.py").write_text(_WAITS.format(folder=str(tmp_path)))
    await cluster.open()
    await cluster.grow(2)
    running = await start("run", "--dask", cluster.address, "waits_test.py")
    worker = await cluster.worker_of(tmp_path / "began")
    await running.line("Waits", "running")
    left = worker.started()

    worker.kill()

    await worker.gone(left, timeout=30)
    assert await running.ended() == 0, running.output + running.errors
    ends = [one for one in _events(running.session()) if one["kind"] == "case_ended"]
    (first, second) = (one for one in ends if "::Waits" in one["case"])
    assert (first["attempt"], first["data"]["phase"], first["data"]["will_retry"]) == (1, "interrupted", True)
    assert re.fullmatch(r"interrupted: the machine .* is gone \(Dask worker .*\)", first["data"]["message"])
    assert (second["attempt"], second["data"]["state"]) == (2, "success")
    assert len(ends) == 5
    assert worker.started() == []


@pytest.mark.parametrize("options", [(), ("--nthreads", "4", "--resources", "trafficlight=1")])
async def test_no_case_waits_behind_a_long_one_while_another_worker_idles(
    start: "Start", cluster: Cluster, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "long_test.py").write_text(_LONG.format(folder=str(tmp_path)))
    await cluster.open()
    await cluster.grow(2, *options)

    running = await start("run", "--dask", cluster.address, "long_test.py")

    assert await running.ended() == 0, running.output + running.errors


async def test_a_case_that_a_refused_worker_holds_runs_elsewhere(
    start: "Start", cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "held_test.py").write_text(_FIRST_FAILS.format(folder=str(tmp_path)))
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(_WRONG_VERSION.format(folder=str(tmp_path)))
    await cluster.open()
    await cluster.grow()
    running = await start("run", "--dask", cluster.address, "held_test.py")
    await running.line("number=1", "running")
    await cluster.holds(2)
    await cluster.add("--resources", "trafficlight=1", PYTHONPATH=str(tmp_path / "slow"))
    await cluster.shares()

    (tmp_path / "stolen").touch()
    await running.line("gets no cases: the Dask worker")
    (tmp_path / "go").touch()

    assert await running.ended() == 1, running.output + running.errors
    ends = [one["data"]["state"] for one in _events(running.session()) if one["kind"] == "case_ended"]
    assert Counter(ends) == {"failure": 1, "success": 2}


@pytest.mark.parametrize("interrupted", [True, False])
async def test_no_case_begins_once_the_session_stops(
    start: "Start", cluster: Cluster, tmp_path: Path, interrupted: bool
) -> None:
    (tmp_path / "held_test.py").write_text(_FIRST_FAILS.format(folder=str(tmp_path)))
    await cluster.open()
    await cluster.grow()
    options = () if interrupted else ("-x",)
    grace = {"TRAFFICLIGHT_GRACE": "600"}
    running = await start("run", *options, "--dask", cluster.address, "held_test.py", environment=grace)
    await running.line("number=1", "running")

    if interrupted:
        await cluster.holds(2)
        async with asyncio.timeout(60):
            while "held ready on a Dask worker" not in _read(running.session() / "events.jsonl"):
                await asyncio.sleep(0.05)
        running.interrupt()
        await cluster.holds(1)
    (tmp_path / "go").touch()

    assert await running.ended() == (130 if interrupted else 1), running.output + running.errors
    (ended,) = [one for one in _events(running.session()) if one["kind"] == "case_ended"]
    assert "number=1" in ended["case"]
    assert ended["data"]["state"] == "failure"
    assert not (tmp_path / "began-2").exists()
    assert not (tmp_path / "began-3").exists()


async def test_the_scheduler_is_killed_and_started_again(
    start: "Start", cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "waits_test.py").write_text(_WAITS.format(folder=str(tmp_path)))
    scheduler = await cluster.open()
    await cluster.grow()
    running = await start("run", "--dask", cluster.address, "waits_test.py")
    await cluster.worker_of(tmp_path / "began")
    await running.line("Waits", "running")

    scheduler.kill()

    await running.line("the Dask scheduler at", "is gone")
    (worker,) = cluster.workers
    await worker.gone(worker.started(), timeout=60)
    await cluster.open()
    await cluster.grow()
    assert await running.ended() == 0, running.output + running.errors
    outcomes = Counter(
        one["data"]["state"] for one in _events(running.session()) if one["kind"] == "case_ended"
    )
    assert outcomes == {"success": 4, "error": 1}


async def test_a_session_that_is_killed_leaves_no_case_running(
    start: "Start", cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "waits_test.py").write_text(_WAITS.format(folder=str(tmp_path)))
    await cluster.open()
    await cluster.grow()
    running = await start("run", "--dask", cluster.address, "waits_test.py::Waits")
    worker = await cluster.worker_of(tmp_path / "began")
    pid = int((tmp_path / "began").read_text())
    (case,) = (process for process in worker.started() if process.pid == pid)

    running.kill()

    await worker.gone([case], timeout=60)


async def test_what_cannot_work_is_refused_with_the_reason(
    start: "Start", cluster: Cluster, chat: Path, tmp_path: Path
) -> None:
    nowhere = await start("run", "--dask", cluster.address, chat)
    assert await nowhere.ended() == 2
    assert f"no Dask scheduler at {cluster.address}" in nowhere.errors[-1]
    other = tmp_path / "other" / "matrix_trafficlight-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: matrix-trafficlight\nVersion: 99.0\n")
    await cluster.open()
    await cluster.grow(PYTHONPATH=str(other.parent))

    running = await start("run", "--dask", cluster.address, chat)

    assert await running.ended() == 2
    pattern = (
        r".*the Dask worker tcp://\S+ has matrix-trafficlight 99\.0, the coordinator has \S+: install .*"
    )
    assert re.fullmatch(pattern, running.errors[-1])
    settings = {"TRAFFICLIGHT_DASK": cluster.address, "TRAFFICLIGHT_SERVER_PROVIDERS": '{"*": "static"}'}
    doctor = await start("doctor", "--json", environment=settings)
    assert await doctor.ended() == 1
    (row,) = (one for one in json.loads("".join(doctor.output)) if one["subject"] == "Dask")
    assert (row["state"], row["detail"]) == ("problem", running.errors[-1].removeprefix("trafficlight: "))
