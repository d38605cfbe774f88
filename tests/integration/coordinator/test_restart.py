"""A coordinator after one that was killed: it goes on, begins nothing twice, and says what ended."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.coordinator.conftest import Told
from trafficlight.config import Settings
from trafficlight.coordinator.adapter import AdapterState
from trafficlight.coordinator.lab import Lab
from trafficlight.results.case import INTERRUPTED
from trafficlight.results.event_log import read_events
from trafficlight.results.events import EventKind, State
from trafficlight.results.store import SqlStore
from trafficlight.suites.request import SessionRequest

TEST = """
import asyncio
from trafficlight import Test, matrix
from trafficlight.client_types import Nio


class Plain(Test):
    async def run(self):
        pass


class Waits(Test):
    clients = {"alice": Nio}

    async def run(self, alice):
        await alice.perform("one")
"""

Opener = Callable[[], AbstractAsyncContextManager[Lab]]


class KilledError(Exception):
    """Stands for the end of the coordinator: it gets no chance to settle anything."""


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Open the lab of one folder, again and again."""
    (tmp_path / "some_test.py").write_text(TEST)
    settings = Settings.model_validate(
        {
            "results_folder": tmp_path / "results",
            "tests": [str(tmp_path)],
            "workers": 0,
            "warm_servers": 0,
            "adapters": {},
            "grace": 0.01,
        }
    )

    @asynccontextmanager
    async def opened() -> AsyncIterator[Lab]:
        async with Lab.open(settings, remember=True) as lab:
            yield lab

    return opened


async def test_it_goes_on_where_the_other_one_was(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        async with opened() as lab:
            told = Told(lab.journal)
            sessions, ended = await lab.take_up(SessionRequest(), command="first")
            assert (len(sessions), ended) == (1, [])
            first = sessions[0]
            alice = lab.engine.pool.register("alice", {"type": "nio"})
            await told.until(EventKind.CASE_ENDED, case="Plain")
            assert (await alice.channel.poll(20)).action == "one"
            assert lab.store is not None
            await lab.store.flushed()
            # What is written from here on is thrown away.
            kept = (tmp_path / "results" / first.id / "events.jsonl").read_bytes()
            database = {path: path.read_bytes() for path in (tmp_path / "results").glob("lab.sqlite*")}
            raise KilledError
    (tmp_path / "results" / first.id / "events.jsonl").write_bytes(kept)
    for path in (tmp_path / "results").glob("lab.sqlite*"):
        path.unlink()
    for path, content in database.items():
        path.write_bytes(content)

    async with opened() as lab:
        sessions, ended = await lab.take_up(SessionRequest(), command="second")
        assert ([session.id for session in sessions], ended) == ([first.id], [])
        known = lab.engine.pool.known("alice")
        assert known is not None
        assert known.state is AdapterState.ENDED
        assert known.reason == "the coordinator was restarted"
        again = lab.engine.pool.register("alice again", {"type": "nio"})
        assert (await again.channel.poll(20)).action == "one"
        again.channel.respond(None, {"response": "done"})
        async with asyncio.timeout(20):
            await sessions[0].ended.wait()
        cases = {id.partition("::")[2]: case for id, case in sessions[0].record.cases.items()}
        assert cases["Plain"].state is State.SUCCESS
        assert len(cases["Plain"].attempts) == 1
        waits = cases["Waits[alice=Nio]"]
        assert waits.state is State.SUCCESS
        assert [attempt.phase for attempt in waits.attempts] == [INTERRUPTED, "run"]
        assert not waits.flaky
    events = list(read_events(tmp_path / "results" / first.id / "events.jsonl"))
    final = Counter(
        event.case
        for event in events
        if event.kind is EventKind.CASE_ENDED and not event.data.get("will_retry")
    )
    assert set(final.values()) == {1}
    assert len({event.sequence for event in events}) == len(events)


async def test_what_ended_before_the_kill_is_told_and_not_begun_again(opened: Opener, tmp_path: Path) -> None:
    request = SessionRequest(targets=[f"{tmp_path}/some_test.py::Plain"])
    with pytest.raises(KilledError):
        async with opened() as lab:
            ((session,), _) = await lab.take_up(request, command="first")
            async with asyncio.timeout(20):
                await session.ended.wait()
            # It did not come to write its reports.
            folder = tmp_path / "results" / session.id
            for name in ("junit.xml", "report.html", "session.json"):
                (folder / name).unlink()
            (tmp_path / "results" / "latest").unlink()
            raise KilledError
    async with opened() as lab:
        sessions, ended = await lab.take_up(request, command="second")
        assert sessions == []
        assert [(one.session.id, one.exit_code) for one in ended] == [(session.id, 0)]
        assert json.loads((folder / "session.json").read_text())["exit_code"] == 0
        assert (folder / "junit.xml").is_file()
        assert (tmp_path / "results" / "latest").resolve() == folder
        # Something else is begun.
        (other,), _ = await lab.take_up(SessionRequest(targets=[str(tmp_path)]), command="third")
        assert other.id != session.id
    # This one came to its own end, so the next one begins anew.
    async with opened() as lab:
        ((again,), ended) = await lab.take_up(request, command="fourth")
        assert ended == []
        assert again.id not in (session.id, other.id)


async def test_a_session_that_was_stopped_in_good_order_is_not_taken_up(opened: Opener) -> None:
    async with opened() as lab:
        ((session,), _) = await lab.take_up(SessionRequest(), command="first")
    assert session.ended.is_set()
    async with opened() as lab:
        assert isinstance(lab.store, SqlStore)
        assert lab.store.unfinished() == []
        ((other,), ended) = await lab.take_up(SessionRequest(), command="second")
        assert (other.id == session.id, ended) == (False, [])
