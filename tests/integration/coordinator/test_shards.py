"""Shards that are merged are the session that runs everything."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

from tests.integration.coordinator.conftest import Player
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import Session
from trafficlight.results.catalog import SessionCatalog, read_summary
from trafficlight.results.events import Upload
from trafficlight.results.folder import AttemptFolder, ResultsFolder
from trafficlight.results.history.index import History
from trafficlight.results.journal import read_events
from trafficlight.results.merge import Shard, check_shards, merge
from trafficlight.results.record import ExitCode, SessionRecord
from trafficlight.suites.selection import SessionRequest
from trafficlight.suites.yaml_files import ExpectedFailure

TESTS = """
from trafficlight import Test, ignore, matrix
from trafficlight.client_types import Nio
from trafficlight.server_types import SynapseStable

class Shows(Test):
    clients = {"alice": [Nio]}

    @matrix(size=[1, 2, 3])
    async def test_shows(self, alice, size):
        await alice.perform("show", size=size)
        self.attach("size.txt", b"%d" % size)
        self.record("size", size, "pixels")
        assert size != 3, f"{size} is too large"

class Flaky(Test):
    async def run(self):
        assert self.case.attempt == 2

class Breaks(Test):
    async def run(self):
        self.logger.warning("about to break")
        raise RuntimeError("broken")

class Known(Test):
    async def run(self):
        assert False

class Skips(Test):
    async def run(self):
        self.skip("not today")

class Unsupported(Test):
    servers = {"server": SynapseStable}

    async def run(self, server):
        pass

@ignore("not yet")
class Ignored(Test):
    async def run(self):
        pass
"""


class Uploader(Player):
    """Uploads what it shows."""

    async def play(self, adapter: Any) -> None:
        def show(action: str, data: Any) -> Any:
            folder = AttemptFolder(adapter.lease.folder.path).client("alice")
            (folder / "shown.txt").write_text(str(data["size"]))
            upload = Upload(name="shown.txt", path="shown.txt", size=1, media_type="text/plain")
            adapter.lease.uploaded("alice", adapter.uuid, upload, folder)
            return {"response": action}

        self.behaviour = show
        await super().play(adapter)


@asynccontextmanager
async def lab_in(folder: Path) -> AsyncIterator[Lab]:
    settings = Settings(
        results_folder=folder,
        workers=0,
        adapters={},
        server_providers={"*": "static"},
        server_overrides={"Other": {"server_name": "a", "cs_api": "http://a"}},
    )
    async with Lab.open(settings) as lab:
        playing = asyncio.create_task(Uploader(lab.engine).loop())
        try:
            yield lab
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


async def ran(folder: Path, request: SessionRequest) -> Session:
    async with lab_in(folder) as lab:
        session = await lab.start(request)
        async with asyncio.timeout(600):
            await session.ended.wait()
    return session


def request_of(tests: Path, **more: Any) -> SessionRequest:
    expected = [ExpectedFailure(case=f"*::{name}", reason="a bug") for name in ("Known", "Gone")]
    return SessionRequest(targets=[str(tests)], deflake=1, expected_failures=expected, **more)


# What differs between two sessions of the same cases: times, ids that are made up, what a busy machine adds.
_MADE_UP = [
    (r"; the coordinator stood still for \d+ s", ""),
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"),
    (r"\d{4}-\d\d-\d\d[T ][\d:]+[.,\d]*(\+00:00|Z)?", "TIME"),
    (r"\b\d+\.\d+\b( s)?", "0"),
    (r"0x[0-9a-f]+", "ADDRESS"),
    (r"\d{4}-\d\d-\d\d--\d{3}", "SESSION"),
]


def neutral(text: str, folder: Path) -> str:
    text = text.replace(str(folder.parent), "RESULTS")
    for pattern, name in _MADE_UP:
        text = re.sub(pattern, name, text)
    return re.sub(r" +", " ", text)


def report(folder: Path) -> Any:
    read = json.loads(neutral((folder / "report.json").read_text(), folder))
    del read["configuration"]  # where results go
    return read | {"seconds": 0, "adapters": []}


def junit(folder: Path) -> str:
    return neutral((folder / "junit.xml").read_text(), folder)


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): neutral(path.read_text(), folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.parent != folder or path.name == "rerun-failed.yml")
    }


async def test_four_shards_merged_are_one_session(tmp_path: Path) -> None:
    tests = tmp_path / "shown_test.py"
    tests.write_text(TESTS)
    one = await ran(tmp_path / "whole", request_of(tests))
    sessions = [await ran(tmp_path / f"shard-{n}", request_of(tests, shard=(n, 4))) for n in range(1, 5)]
    assert all(0 < len(session.record.cases) < 5 for session in sessions)

    def merged() -> tuple[SessionRecord, ResultsFolder]:
        shards = [Shard.read(session.folder.path) for session in sessions]
        check_shards(shards)
        with ResultsFolder.assembled(tmp_path / "merged", date(2026, 11, 21)) as folder:
            return merge(shards, folder, History(tmp_path / "merged"), ""), folder

    record, folder = await asyncio.to_thread(merged)

    whole = one.folder.path
    assert await asyncio.to_thread(report, folder.path) == await asyncio.to_thread(report, whole)
    assert await asyncio.to_thread(junit, folder.path) == await asyncio.to_thread(junit, whole)
    assert await asyncio.to_thread(files, folder.path) == await asyncio.to_thread(files, whole)
    assert record.exit_code == one.exit_code == ExitCode.FAILURE
    assert record.outcomes == one.record.outcomes
    assert record.warnings == ("the expected failure *::Gone matches no case",)
    asked = folder.read_request()
    assert asked is not None
    assert SessionRequest.read(asked) == request_of(tests)

    # Every reader takes it as any other session.
    replayed = await asyncio.to_thread(lambda: SessionRecord.replay(read_events(folder.events)))
    assert replayed.cases == record.cases
    summary = await asyncio.to_thread(read_summary, folder.path)
    assert summary is not None
    assert (summary.status, summary.cases) == ("ended", len(one.record.cases))
    catalog = SessionCatalog(tmp_path / "merged")
    try:
        assert await catalog.latest() == folder.id
        case = await catalog.case(folder.id, "shown_test.py::Flaky")
        assert case is not None
        assert (case.outcome, len(case.attempts)) == ("flaky", 2)
    finally:
        catalog.close()
