"""A coordinator after one that was killed: it goes on, begins nothing twice, and says what ended."""

import asyncio
import errno
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.coordinator.conftest import EventRecorder
from trafficlight.cli.runtime import stopping_on_signals
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.recovery import RecoveredState
from trafficlight.errors import ConfigError
from trafficlight.protocol import Registration
from trafficlight.results.case import INTERRUPTED, Outcome
from trafficlight.results.events import (
    ActionSent,
    CaseEnded,
    CasePlanned,
    CaseRerun,
    CaseState,
    Event,
    SessionStarted,
    State,
)
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import read_events
from trafficlight.results.record import ExitCode
from trafficlight.suites.selection import SessionRequest

TEST = """
import asyncio
import errno
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

MANY = """
from trafficlight import Test, matrix
from trafficlight.server_types import ServerType


class Unknown(ServerType):
    recipe = "unknown"
    version = "1"


class Many(Test):
    @matrix(n=range(5))
    async def run(self, n):
        pass


class NotHere(Test):
    servers = {"server": Unknown}

    async def run(self, server):
        pass
"""

Opener = Callable[..., AbstractAsyncContextManager[Lab]]


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
            "case_limit": 8,
            "adapters": {},
            "grace": 0.01,
        }
    )

    @asynccontextmanager
    async def opened(*, resumable: bool = True, **other: Any) -> AsyncIterator[Lab]:
        async with Lab.open(settings.model_copy(update=other), resumable=resumable) as lab:
            yield lab

    return opened


async def test_it_goes_on_where_the_other_one_was(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        async with opened() as lab:
            told = EventRecorder(lab.journal)
            sessions, ended = await lab.resume_or_start(SessionRequest(), command="first")
            assert (len(sessions), ended) == (1, [])
            first = sessions[0]
            alice = lab.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
            await told.until(CaseEnded, case="Plain")
            assert (await alice.channel.poll(20)).action == "one"
            killed = Killed(tmp_path / "results")
            raise KilledError
    killed.restore()

    async with opened() as lab:
        sessions, ended = await lab.resume_or_start(SessionRequest(), command="second")
        assert ([session.id for session in sessions], ended) == ([first.id], [])
        again = lab.engine.pool.register("alice again", Registration.model_validate({"type": "nio"}))
        assert (await again.channel.poll(20)).action == "one"
        again.channel.respond(None, {"response": "done"})
        async with asyncio.timeout(60):
            await sessions[0].ended.wait()
        cases = {id.partition("::")[2]: case for id, case in sessions[0].record.cases.items()}
        assert cases["Plain"].state is State.SUCCESS
        assert len(cases["Plain"].attempts) == 1
        waits = cases["Waits[alice=Nio]"]
        assert waits.state is State.SUCCESS
        assert [attempt.phase for attempt in waits.attempts] == [INTERRUPTED, "run"]
        assert not waits.flaky
    events = list(read_events(tmp_path / "results" / first.id / "events.jsonl"))
    final = Counter(event.case for event in events if isinstance(event, CaseEnded) and not event.will_retry)
    assert set(final.values()) == {1}
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_what_ended_before_the_kill_is_told_and_not_begun_again(opened: Opener, tmp_path: Path) -> None:
    request = SessionRequest(targets=[f"{tmp_path}/some_test.py::Plain"])
    with pytest.raises(KilledError):
        async with opened() as lab:
            ((session,), _) = await lab.resume_or_start(request, command="first")
            async with asyncio.timeout(60):
                await session.ended.wait()
            # It did not come to write its reports.
            folder = tmp_path / "results" / session.id
            for name in ("junit.xml", "report.html", "session.json"):
                (folder / name).unlink()
            (tmp_path / "results" / "latest").unlink()
            raise KilledError
    async with opened() as lab:
        sessions, ended = await lab.resume_or_start(request, command="second")
        assert sessions == []
        assert [(one.folder.id, one.exit_code) for one in ended] == [(session.id, 0)]
        assert json.loads((folder / "session.json").read_text())["exit_code"] == 0
        assert (folder / "junit.xml").is_file()
        assert (tmp_path / "results" / "latest").resolve() == folder
        # Something else is begun.
        (other,), _ = await lab.resume_or_start(SessionRequest(targets=[str(tmp_path)]), command="third")
        assert other.id != session.id
    # This one shut down cleanly, so the next one starts a new session.
    async with opened() as lab:
        ((again,), ended) = await lab.resume_or_start(request, command="fourth")
        assert ended == []
        assert again.id not in (session.id, other.id)


async def test_a_session_that_was_stopped_in_good_order_is_not_taken_up(opened: Opener) -> None:
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="first")
    assert session.ended.is_set()
    async with opened() as lab:
        assert lab.recovered == RecoveredState()
        ((other,), ended) = await lab.resume_or_start(SessionRequest(), command="second")
        assert (other.id == session.id, ended) == (False, [])


FLAKY = """
from trafficlight import Test
from trafficlight.client_types import Nio


class Flaky(Test):
    async def run(self):
        assert self.case.attempt > 1


class Waits(Test):
    clients = {"alice": Nio}

    async def run(self, alice):
        await alice.perform("one")
"""


class Killed:
    """What is on the disk at one moment, which a coordinator that ends in good order would change yet."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._files = {
            path: path.read_bytes()
            for path in results.rglob("*")
            if path.is_file() and not path.is_symlink() and path.name != "lab.lock"
        }

    def restore(self) -> None:
        for path, content in self._files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


async def test_files_that_were_added_since_are_not_run(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        async with opened() as lab:
            told = EventRecorder(lab.journal)
            ((first,), _) = await lab.resume_or_start(SessionRequest(), command="first")
            await told.until(CaseEnded, case="Plain")
            killed = Killed(tmp_path / "results")
            raise KilledError
    killed.restore()
    (tmp_path / "added_test.py").write_text(TEST)
    (tmp_path / "broken_test.py").write_text("1 / 0")
    path = first.folder.path / "request.json"
    written = json.loads(path.read_bytes())
    del written["request"]["deflake"]  # an earlier version that had no such option wrote it
    path.write_text(json.dumps(written))

    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="second")
        assert set(session.record.cases) == set(first.record.cases)
        assert not [case for case in session.waiting if "added" in case]
        assert not session.record.problems


async def test_a_case_that_succeeded_on_a_retry_does_not_run_again(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "some_test.py").write_text(FLAKY)
    request = SessionRequest(deflake=1)
    async with opened() as lab:
        told = EventRecorder(lab.journal)
        await lab.resume_or_start(request, command="first")
        await told.until(CaseEnded, case="Flaky", state="success")
        killed = Killed(tmp_path / "results")
    killed.restore()
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(request, command="second")
        flaky = next(case for id, case in session.record.cases.items() if "Flaky" in id)
        assert (flaky.state, flaky.flaky, len(flaky.attempts)) == (State.SUCCESS, True, 2)
        assert [case for case in session.waiting if "Flaky" in case] == []


async def test_a_retry_that_had_not_begun_comes_after_the_restart(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "some_test.py").write_text(FLAKY)
    request = SessionRequest(deflake=1)
    kills: list[Killed] = []
    async with opened() as lab:
        told = EventRecorder(lab.journal)

        def look(event: Event) -> None:
            if isinstance(event, CaseEnded) and event.will_retry:
                kills.append(Killed(tmp_path / "results"))

        def begin_to_look(event: Event) -> None:
            if isinstance(event, CaseState) and not looking:  # now the log reads before `look` does
                looking.append(lab.journal.subscribe(look))

        looking: list[object] = []
        lab.journal.subscribe(begin_to_look)
        await lab.resume_or_start(request, command="first")
        await told.until(CaseEnded, case="Flaky", state="success")
    kills[0].restore()
    async with opened() as lab:
        told = EventRecorder(lab.journal)
        ((session,), _) = await lab.resume_or_start(request, command="second")
        await told.until(CaseEnded, case="Flaky", state="success")
        flaky = next(case for id, case in session.record.cases.items() if "Flaky" in id)
        assert [attempt.state for attempt in flaky.attempts] == [State.FAILURE, State.SUCCESS]


async def test_what_was_cut_off_can_be_left_at_that(opened: Opener, tmp_path: Path) -> None:
    async with opened() as lab:
        told = EventRecorder(lab.journal)
        ((first,), _) = await lab.resume_or_start(SessionRequest(), command="first")
        await told.until(CaseEnded, case="Plain")
        lab.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        await told.until(ActionSent)
        killed = Killed(tmp_path / "results")
    killed.restore()
    uploads = [
        folder / ".0123456789abcdef.part"
        for folder in (first.folder.path, tmp_path / "results" / "adapters" / "a")
    ]
    for path in uploads:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    async with opened(rerun_interrupted=False) as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="second")
        assert not [path for path in uploads if path.exists()], "uploads ended with the coordinator"
        async with asyncio.timeout(60):
            await session.ended.wait()
        waits = next(case for id, case in session.record.cases.items() if "Waits" in id)
        assert (waits.state, len(waits.attempts)) == (State.ERROR, 1)
        assert waits.message == "interrupted: the coordinator exited while the case ran"
        assert waits.outcome is Outcome.ERROR
        assert session.exit_code == ExitCode.LAB_ERROR


async def test_what_a_user_asked_for_comes_after_the_restart(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "some_test.py").write_text(FLAKY)
    kills: list[Killed] = []
    async with opened() as lab:
        told = EventRecorder(lab.journal)
        ((first,), _) = await lab.resume_or_start(SessionRequest(), command="first")
        lab.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        await told.until(ActionSent)
        await told.until(CaseEnded, case="Flaky", state="failure")
        (waits,) = first.running

        def kill(_: Event) -> None:  # after the log
            assert lab.engine.cancel_case(first, waits, "enough")
            kills.append(Killed(tmp_path / "results"))

        lab.journal.subscribe(kill, (CaseRerun,))
        assert await lab.engine.rerun_case(first, "some_test.py::Flaky", "again")
        await told.until(CaseEnded, case="Flaky", state="success")
    kills[0].restore()
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="second")
        async with asyncio.timeout(60):
            await session.ended.wait()
        flaky, cancelled = session.record.cases["some_test.py::Flaky"], session.record.cases[waits]
        assert [one.state for one in flaky.attempts] == [State.FAILURE, State.SUCCESS]
        assert (flaky.outcome, len(cancelled.attempts)) == (Outcome.FLAKY, 1)
        assert cancelled.message.startswith("cancelled while running: enough")


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_case_that_may_kill_the_coordinator_is_not_run_a_fourth_time(
    opened: Opener, tmp_path: Path, workers: int
) -> None:
    """With workers it was run for ever."""
    for adapter in ("first", "second", "third"):
        async with opened(workers=workers) as lab:
            told = EventRecorder(lab.journal)
            await lab.resume_or_start(SessionRequest(), command=adapter)
            lab.engine.pool.register(adapter, Registration.model_validate({"type": "nio"}))
            await told.until(ActionSent)
            killed = Killed(tmp_path / "results")
        killed.restore()
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="fourth")
        async with asyncio.timeout(60):
            await session.ended.wait()
        waits = next(case for id, case in session.record.cases.items() if "Waits" in id)
        assert [attempt.state for attempt in waits.attempts] == [State.ERROR] * 3
        assert "3 times in a row: the case may be what kills it" in waits.message


async def test_a_paused_program_stays_paused(opened: Opener, tmp_path: Path) -> None:
    phone = Registration.model_validate({"type": "nio", "labels": ["rack-7"]})
    for why, after in (("new battery", "new battery"), ("", "")):
        async with opened() as lab:
            pool = lab.engine.pool
            adapter = pool.register("one", phone, program="nio rack-7")
            if why:
                pool.pause(adapter, why)
                pool.pause(pool.register("two", phone, program="1a2b"), "only here")
                pool.started_here = frozenset({"1a2b"})
            else:
                pool.resume(adapter)
            await lab.keep_paused()
        async with opened() as lab:
            assert lab.engine.pool.register("again", phone, program="nio rack-7").paused == after
            assert not lab.engine.pool.register("other", phone, program="1a2b").paused
    (tmp_path / "results" / "lab.paused").write_text("[1")
    async with opened() as lab:
        assert not lab.engine.pool.paused


async def test_a_drained_lab_stays_drained(opened: Opener) -> None:
    phone = Registration.model_validate({"type": "nio"})
    for why in ("new cables", ""):
        async with opened() as lab:
            pool = lab.engine.pool
            pool.pause(pool.register("one", phone, program="nio"), "new battery")
            if why:
                pool.drain(why)
            else:
                pool.undrain()
            await lab.keep_paused()
        async with opened() as lab:
            assert (lab.engine.pool.drained, lab.engine.pool.paused) == (why, {"nio": "new battery"})


async def test_a_session_that_was_cancelled_does_not_go_on(opened: Opener, tmp_path: Path) -> None:
    async with opened() as lab:
        told = EventRecorder(lab.journal)
        ((first,), _) = await lab.resume_or_start(SessionRequest(), command="first")
        await told.until(CaseEnded, case="Plain")
        alice = lab.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
        await told.until(ActionSent)
        assert alice.cases == 1
        lab.engine.cancel(first, "not needed any more")
        killed = Killed(tmp_path / "results")  # in this very turn: what runs is not called off yet
    killed.restore()
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="second")
        lab.engine.pool.register("another", Registration.model_validate({"type": "nio"}))
        async with asyncio.timeout(60):
            await session.ended.wait()
        assert (session.id, session.stopped, session.cancelled) == (first.id, "not needed any more", True)
        waits = next(case for id, case in session.record.cases.items() if "Waits" in id)
        assert (waits.state, len(waits.attempts)) == (State.ERROR, 1)
        assert session.record.interrupted


async def test_what_is_asked_for_during_a_restart_is_not_taken_up_twice(
    opened: Opener, tmp_path: Path
) -> None:
    async with opened() as lab:
        early = await lab.start(SessionRequest(targets=[f"{tmp_path}/some_test.py::Waits"]))
        sessions, _ = await lab.resume_or_start(SessionRequest(), command="serve")
        assert early.id not in [session.id for session in sessions]
        assert lab.engine.sessions[early.id] is early


async def test_what_was_refused_does_not_begin_after_a_restart(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async with opened() as lab:
        with monkeypatch.context() as patch:
            patch.setattr("trafficlight.coordinator.session.ResultsWriter", full)
            with pytest.raises(OSError, match="no space"):
                await lab.start(SessionRequest())
    async with opened() as lab:
        assert lab.recovered.unfinished == ()


async def test_reports_that_are_complete_are_left_alone(opened: Opener, tmp_path: Path) -> None:
    request = SessionRequest(targets=[f"{tmp_path}/some_test.py::Plain"])
    with pytest.raises(KilledError):
        async with opened() as lab:
            ((session,), _) = await lab.resume_or_start(request, command="first")
            async with asyncio.timeout(60):
                await session.ended.wait()
            report = tmp_path / "results" / session.id / "report.html"
            written = report.stat().st_mtime_ns
            raise KilledError
    async with opened() as lab:
        await lab.resume_or_start(request, command="second")
    assert report.stat().st_mtime_ns == written


async def test_a_coordinator_can_be_killed_while_it_plans(opened: Opener, tmp_path: Path) -> None:
    """The next one plans the rest, also that a case is unsupported, and runs every case once."""
    (tmp_path / "some_test.py").write_text(MANY)
    kills: list[Killed] = []
    async with opened() as lab:

        def look(event: Event) -> None:
            if isinstance(event, CasePlanned) and "n=2" in str(event.case):
                kills.append(Killed(tmp_path / "results"))  # without this event: it is not in the log yet

        lab.journal.subscribe(look)
        ((first,), _) = await lab.resume_or_start(SessionRequest(), command="first")
    kills[0].restore()
    log = tmp_path / "results" / first.id / "events.jsonl"
    assert [event.case for event in read_events(log)][-1] == "some_test.py::Many[n=1]"
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(SessionRequest(), command="second")
        assert session.id == first.id
        async with asyncio.timeout(60):
            await session.ended.wait()
    states = {
        id.partition("::")[2]: (case.state, case.skip_type) for id, case in session.record.cases.items()
    }
    assert states == {
        **{f"Many[n={n}]": (State.SUCCESS, "") for n in range(5)},
        "NotHere[server=Unknown]": (State.SKIPPED, "unsupported"),
    }
    events = list(read_events(log))
    ran = Counter(event.case for event in events if isinstance(event, CaseEnded))
    assert set(ran.values()) == {1}
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_coordinator_can_be_killed_before_the_first_event(opened: Opener, tmp_path: Path) -> None:
    kills: list[Killed] = []
    async with opened() as lab:

        def look(event: Event) -> None:
            if isinstance(event, SessionStarted):
                kills.append(Killed(tmp_path / "results"))

        lab.journal.subscribe(look)
        request = SessionRequest(targets=[f"{tmp_path}/some_test.py::Plain"])
        ((first,), _) = await lab.resume_or_start(request, command="first")
    kills[0].restore()
    assert (tmp_path / "results" / first.id / "events.jsonl").read_bytes() == b""
    async with opened() as lab:
        ((session,), _) = await lab.resume_or_start(request, command="second")
        async with asyncio.timeout(60):
            await session.ended.wait()
    assert (session.id, session.exit_code) == (first.id, ExitCode.SUCCESS)
    assert session.record.started is not None


async def test_a_killed_run_is_not_resumed_by_a_coordinator(opened: Opener, tmp_path: Path) -> None:
    async with opened(resumable=False) as lab:
        session = await lab.start(SessionRequest())
        killed = Killed(tmp_path / "results")
    killed.restore()
    async with opened() as lab:
        assert lab.recovered == RecoveredState()
        assert (await lab.request_of(session.id)) == SessionRequest()


async def test_the_database_of_an_earlier_version_is_named_and_left_alone(
    opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results"
    old, new = (results / f"2026-11-21--00{number}" for number in (1, 2))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "events.jsonl").touch()
    ResultsFolder(new).write_request({}, resumable=False)
    with closing(sqlite3.connect(results / "lab.sqlite")) as database:
        database.execute("CREATE TABLE sessions (id VARCHAR, folder TEXT, request TEXT, ended BOOLEAN)")
        for id in (old.name, new.name, "2026-11-21--003"):
            database.execute("INSERT INTO sessions VALUES (?, '', '{}', 0)", [id])
        database.commit()
    before = (results / "lab.sqlite").read_bytes()
    async with opened() as lab:
        assert lab.recovered == RecoveredState()
    (line,) = [record.message for record in caplog.records if "cannot be resumed" in record.message]
    assert line.startswith("2026-11-21--001 of an earlier version cannot be resumed")
    assert (results / "lab.sqlite").read_bytes() == before
    (results / "lab.sqlite").write_bytes(b"no database at all")
    async with opened():
        pass


async def test_a_results_folder_that_cannot_be_locked(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("trafficlight.processes.fcntl.flock", no_locks)
    with pytest.raises(ConfigError, match="cannot be locked: No locks available"):
        async with opened():
            pass


async def test_a_session_that_cannot_be_closed_keeps_no_other_open(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as lab:
        first, second = [await lab.start(SessionRequest()) for _ in range(2)]

        def broken() -> None:
            raise RuntimeError("its folder is gone")

        monkeypatch.setattr(first, "_unsubscribe", broken)
    assert first.ended.is_set()
    assert first.writer.incomplete == "its folder is gone"
    assert second.ended.is_set()
    first.writer.close()


@pytest.fixture
def default_action(number: signal.Signals) -> Iterator[None]:
    """Have this process not ignore a signal, as it does under nohup."""
    before = signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_a_signal_ends_sessions_with_complete_results(
    opened: Opener, number: signal.Signals, default_action: None
) -> None:
    async with opened() as lab:
        with stopping_on_signals(lab):
            session = await lab.start(SessionRequest())  # one case waits for a client
            os.kill(os.getpid(), number)
            async with asyncio.timeout(60):
                await session.ended.wait()
    assert session.record.interrupted
    assert session.folder.junit.is_file()
