"""Sessions out of their folders: in short, in full, and no more of them than there is room for."""

import fcntl
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import Archive, in_order
from trafficlight.results.event_log import EventLog, is_written
from trafficlight.results.events import CaseWaits, Log, Problem, State, Upload
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.outline import case_in_full, outline
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def _until(condition: Callable[[], bool]) -> None:
    """Wait for another thread's writing."""
    end = time.monotonic() + 20
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
            adapters={},
            adapter_ids={},
            servers={},
        )
        for one in case.attempts
    ]
    return replace(case, attempts=attempts)


def test_a_session_in_short_has_all_but_the_stories(lab: "Lab") -> None:
    play(lab)
    short, whole = outline(lab.folder.events).record, lab.record
    assert list(short.cases.values()) == [without_stories(case) for case in whole.cases.values()]
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
        assert case_in_full(lab.folder.events, case) == lab.record.cases[case]
    assert case_in_full(lab.folder.events, "no such case") is None


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
    short = outline(lab.folder.events).record
    assert short.ended is None
    assert short.cases[case].state is State.RUNNING
    assert short.seconds == pytest.approx(lab.record.seconds)


def test_lists_read_only_the_small_file(lab: "Lab") -> None:
    play(lab)
    archive = Archive(lab.folder.path.parent)
    head = archive.head(lab.folder.id)
    assert head is not None
    assert (head.standing, head.exit_code, head.command) == ("ended", 3, "trafficlight run chat")
    assert (head.counts, head.outcomes) == (lab.record.counts, lab.record.outcomes)
    assert archive.kept(lab.folder.id) is None


def test_how_a_session_stood_is_known_although_it_was_cut_off(lab: "Lab") -> None:
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    archive = Archive(lab.folder.path.parent)

    def counted() -> bool:
        head = archive.head(lab.folder.id)
        return head is not None and head.counts[State.SUCCESS] == 1 and head.standing == "running"

    _until(counted)
    writer.close()
    cut_off = archive.head(lab.folder.id)
    assert cut_off is not None
    assert (cut_off.standing, cut_off.counts[State.SUCCESS]) == ("abandoned", 1)


def test_the_ids_come_newest_first(tmp_path: Path) -> None:
    for name in ("2026-11-21--002", "2026-11-21--1000", "2026-11-21--999", "2025-01-01--001"):
        (tmp_path / name).mkdir()
    for name in ("adapters", "2026-11-21", "latest", ".2026-11-21--003"):
        (tmp_path / name).mkdir()
    ids = Archive(tmp_path).ids()
    assert ids == ["2026-11-21--1000", "2026-11-21--999", "2026-11-21--002", "2025-01-01--001"]
    assert sorted(ids, key=in_order) == ids[::-1]
    assert Archive(tmp_path / "nowhere").ids() == []


def test_only_so_much_is_kept(tmp_path: Path, lab_of: Callable[[ResultsFolder], "Lab"]) -> None:
    folders = [ResultsFolder.create(tmp_path, date(2026, 11, 21)) for _ in range(4)]
    for folder in folders:
        play(lab_of(folder))
    weight = outline(folders[0].events).weight
    archive = Archive(tmp_path, most=2 * weight)
    records = {folder.id: archive.record(folder.id) for folder in folders[:2]}
    assert archive.record(folders[0].id) is records[folders[0].id]  # used last
    archive.record(folders[2].id)
    assert archive.kept(folders[0].id) is records[folders[0].id]
    assert archive.kept(folders[1].id) is None
    small = Archive(tmp_path, most=1)
    assert small.record(folders[3].id) is small.record(folders[3].id)  # the latest one in any case


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"counts": 3}', '{"counts": {}, "ended": "x"}', "\xff"]
)
def test_a_small_file_that_is_broken_says_nothing(lab: "Lab", content: str) -> None:
    play(lab)
    (lab.folder.path / "session.json").write_text(content, encoding="latin-1")
    assert Archive(lab.folder.path.parent).head(lab.folder.id) is None


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


def test_what_comes_late_reaches_the_log_and_the_reports(lab: "Lab") -> None:
    record = SessionRecord()
    writer = ResultsWriter(lab.folder, record)
    lab.read_along(writer)
    lab.start()
    case = lab.plan({"alice": "A"})
    lab.run(case)
    lab.end()
    writer.close()
    for number in range(20):
        path = f"clients/alice/{number}.log"
        writer.late(lab.append(Upload(case=case, attempt=1, role="alice", name=path, path=path, size=1)))
    assert len(record.cases[case].attempts[0].uploads) == 20
    assert case_in_full(lab.folder.events, case) == record.cases[case]
    report = lab.folder.path / "report.json"
    _until(lambda: len(json.loads(report.read_bytes())["cases"][0]["attempts"][0]["uploads"]) == 20)
    _until(lambda: b"clients/alice/19.log" in lab.folder.junit.read_bytes())
