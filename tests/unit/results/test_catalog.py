"""Sessions out of their folders: in short, in full, and no more of them than there is room for."""

import fcntl
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import (
    SessionCatalog,
    SessionSummary,
    read_case,
    read_record,
    read_summary,
    session_ids,
    session_sort_key,
)
from trafficlight.results.events import CaseWaits, Log, Problem, ServerReady, SessionEnded, State, Upload
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import EventLog, is_written, read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import LATE, LateEventRecorder, ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def _until(condition: Callable[[], bool]) -> None:
    """Wait for another thread's writing."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


def play(lab: "Lab") -> list[str]:
    """Write a session with a bit of everything; return the ids of its cases."""
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    lab.start()
    lab.append(Problem(file="x_test.py", line=3, problem="no", hint="why"))
    good, bad, odd, none = (
        lab.plan({"alice": "A"}),
        lab.plan({"alice": "B"}),
        lab.plan({"alice": "C"}, case='odd "\\ \ud800 é'),
        lab.plan({"alice": "D"}, skip="not here"),
    )
    lab.append(CaseWaits(case=good, reason="nobody is there"))
    lab.prepare(good)
    lab.act(good, "alice", "login")
    lab.append(Log(case=good, attempt=1, level="info", logger="test", message=f'"case":"{bad}"'))
    lab.end_case(good, "success", seconds=2.0)
    lab.run(bad, "failure", "no", traceback="Traceback: long", will_retry=True)
    lab.run(bad, "success", attempt=2)
    lab.run(odd, "error", "broken")
    lab.end(exit_code=3)
    writer.close()
    return [good, bad, odd, none]


def without_stories(case: CaseRecord) -> CaseRecord:
    attempts = [
        replace(
            one,
            traceback="",
            timeline=[],
            uploads=[],
            attachments=[],
            measurements=[],
            adapters={
                role: {key: fields.get(key, "") for key in ("type", "version", "instance")}
                for role, fields in one.adapters.items()
            },
            adapter_ids={},
            servers={
                role: ServerReady(server_name="", cs_api="", type=server.type, version=server.version)
                for role, server in one.servers.items()
            },
        )
        for one in case.attempts
    ]
    return replace(case, attempts=attempts)


def test_a_session_in_short_has_all_but_the_stories(lab: "Lab") -> None:
    play(lab)
    short, whole = read_record(lab.folder.events)[0], lab.record
    assert without_stories(whole.cases[next(iter(whole.cases))]).attempts[0].servers
    assert list(map(without_stories, short.cases.values())) == list(
        map(without_stories, whole.cases.values())
    )
    for attempt in (one for case in short.cases.values() for one in case.attempts):
        assert (attempt.timeline, attempt.uploads, attempt.traceback, attempt.adapter_ids) == ([], [], "", {})
    for name in (
        "id",
        "started",
        "ended",
        "exit_code",
        "interrupted",
        "problems",
        "command",
        "seed",
        "counts",
    ):
        assert getattr(short, name) == getattr(whole, name), name


def test_a_case_in_full_is_the_very_case(lab: "Lab") -> None:
    for case in play(lab):
        assert read_case(lab.folder.events, case) == lab.record.cases[case]
    assert read_case(lab.folder.events, "no such case") is None


def test_a_session_that_was_cut_off_ends_with_its_last_event(lab: "Lab") -> None:
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    lab.start()
    case = lab.plan({"alice": "A"})
    lab.prepare(case)
    lab.act(case, "alice", "login", 40.0)
    writer.close()
    with lab.folder.events.open("ab") as file:
        file.write(b'{"sequence":99,"time":"2026')
    short = read_record(lab.folder.events)[0]
    assert short.ended is None
    assert short.cases[case].state is State.RUNNING
    assert short.seconds == pytest.approx(lab.record.seconds)


def test_lists_read_only_the_small_file(lab: "Lab") -> None:
    play(lab)
    lab.folder.events.write_bytes(b"")
    summary = read_summary(lab.folder.path)
    assert summary is not None
    assert (summary.status, summary.exit_code, summary.command) == ("ended", 3, "trafficlight run chat")
    assert (summary.counts, summary.outcomes) == (lab.record.counts, lab.record.outcomes)
    assert summary == SessionSummary.of(lab.record, "ended")


def test_how_a_session_stood_is_known_although_it_was_cut_off(lab: "Lab") -> None:
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    lab.start()
    lab.run(lab.plan({"alice": "A"}))

    def counted() -> bool:
        summary = read_summary(lab.folder.path)
        return summary is not None and summary.counts[State.SUCCESS] == 1 and summary.status == "running"

    _until(counted)
    writer.close()
    cut_off = read_summary(lab.folder.path)
    assert cut_off is not None
    assert (cut_off.status, cut_off.counts[State.SUCCESS]) == ("abandoned", 1)


def test_the_ids_come_newest_first(tmp_path: Path) -> None:
    for name in ("2026-11-21--002", "2026-11-21--1000", "2026-11-21--999", "2025-01-01--001"):
        (tmp_path / name).mkdir()
    for name in ("adapters", "2026-11-21", "latest", ".2026-11-21--003"):
        (tmp_path / name).mkdir()
    ids = session_ids(tmp_path)
    assert ids == ["2026-11-21--1000", "2026-11-21--999", "2026-11-21--002", "2025-01-01--001"]
    assert sorted(ids, key=session_sort_key) == ids[::-1]
    assert session_ids(tmp_path / "nowhere") == []


async def test_only_so_much_is_cached(tmp_path: Path, lab_of: Callable[[ResultsFolder], "Lab"]) -> None:
    ids = [ResultsFolder.create(tmp_path, date(2026, 11, 21)).id for _ in range(4)]
    for id in ids:
        play(lab_of(ResultsFolder(tmp_path / id)))
    _, weight = read_record(tmp_path / ids[0] / "events.jsonl")

    async def record(catalog: SessionCatalog, id: str) -> SessionRecord:
        async with catalog.record(id) as view:
            return view.record

    for keep, cache_bytes in ((20, 2 * weight), (2, 1 << 30)):
        with closing(SessionCatalog(tmp_path, keep=keep, cache_bytes=cache_bytes)) as catalog:
            first, second = await record(catalog, ids[0]), await record(catalog, ids[1])
            assert await record(catalog, ids[0]) is first  # used last
            await record(catalog, ids[2])
            assert await record(catalog, ids[0]) is first
            assert await record(catalog, ids[1]) is not second
    with closing(SessionCatalog(tmp_path, cache_bytes=1)) as catalog:
        assert await record(catalog, ids[3]) is await record(catalog, ids[3])  # the last one in any case
    with closing(SessionCatalog(tmp_path, keep=0)) as catalog:
        assert await record(catalog, ids[3]) is not await record(catalog, ids[3])


async def test_a_session_that_runs_is_in_memory(lab: "Lab") -> None:
    play(lab)
    id, root = lab.folder.id, lab.folder.path.parent
    with closing(SessionCatalog(root, lambda: {id: lab.record})) as catalog:
        async with catalog.record(id) as view:
            assert (view.record, view.status, view.over) == (lab.record, "running", False)
        assert await catalog.summary(id) == SessionSummary.of(lab.record, "running")
        (case, *_) = lab.record.cases
        assert await catalog.case(id, case) is lab.record.cases[case]


@pytest.mark.parametrize("id", ["2026-11-21--999", "..", "", "latest", "2026-11-21--001/.."])
async def test_what_is_no_session_is_not_found(lab: "Lab", id: str) -> None:
    play(lab)
    with closing(SessionCatalog(lab.folder.path.parent)) as catalog:
        assert await catalog.folder(id) is None
        assert await catalog.summary(id) is None
        with pytest.raises(FileNotFoundError):
            async with catalog.record(id):
                pass


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"counts": 3}', '{"counts": {}, "ended": "x"}', "\xff"]
)
def test_a_small_file_that_is_broken_says_nothing(lab: "Lab", content: str) -> None:
    play(lab)
    (lab.folder.path / "session.json").write_text(content, encoding="latin-1")
    assert read_summary(lab.folder.path) is None


@pytest.fixture(params=["queries", "turns"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go by the locks of Linux, and by those that all systems have."""
    if request.param == "turns":
        monkeypatch.delattr(fcntl, "F_OFD_GETLK")
    elif not hasattr(fcntl, "F_OFD_GETLK"):
        pytest.skip("this system has no such locks")


@pytest.mark.usefixtures("locks")
def test_whoever_writes_a_log_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert not is_written(path)
    path.write_bytes(b'{"half')
    first, second = EventLog(path), EventLog(path)
    assert path.read_bytes() == b'{"half\n'
    first.close()
    assert is_written(path)
    second.close()
    assert not is_written(path)


@pytest.mark.usefixtures("locks")
def test_whoever_looks_at_a_log_is_not_taken_for_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.touch()
    together = threading.Barrier(8)

    def looks() -> int:
        together.wait()
        return sum(is_written(path) for _ in range(1000))

    with ThreadPoolExecutor(8) as threads:
        assert sum(one.result() for one in [threads.submit(looks) for _ in range(8)]) == 0


def test_what_arrives_late_reaches_the_log_and_the_reports(lab: "Lab") -> None:
    writer = ResultsWriter(lab.folder, SessionRecord())
    unsubscribe = lab.journal.subscribe(writer)
    late = LateEventRecorder(lab.folder.path.parent, lambda id: not over)
    lab.journal.subscribe(late, LATE)
    over = False
    lab.start()
    case = lab.plan({"alice": "A"})
    lab.run(case)
    lab.end()
    unsubscribe()
    over = True
    for number in range(20):
        if number == 10:
            writer.close()  # until then, it still writes its own reports
        path = f"clients/alice/{number}.log"
        lab.append(Upload(case=case, attempt=1, role="alice", name=path, path=path, size=1))
    late.close()
    events = list(read_events(lab.folder.events))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [type(event) for event in events[-21:]] == [SessionEnded, *[Upload] * 20]
    report = json.loads((lab.folder.path / "report.json").read_bytes())
    assert len(report["cases"][0]["attempts"][0]["uploads"]) == 20
    assert b"clients/alice/19.log" in lab.folder.junit.read_bytes()
