import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import yaml

from trafficlight.results import writer as writer_module
from trafficlight.results.events import (
    AdapterRegistered,
    Attachment,
    CasePlanned,
    Measurement,
    Problem,
    SessionStarted,
    Upload,
)
from trafficlight.results.journal import read_events, session_end
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


@pytest.fixture
def writer(lab: "Lab") -> Iterator[ResultsWriter]:
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    yield writer
    writer.close()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


def _verdicts(path: Path) -> int:
    if not path.exists():
        return 0
    root = ElementTree.fromstring(path.read_bytes())
    return sum(case.find("skipped") is None and case.find("error") is None for case in root.iter("testcase"))


def test_the_file_is_valid_and_up_to_date_after_every_case(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    cases = [lab.plan({"alice": f"T{number}"}) for number in range(5)]
    for number, case_id in enumerate(cases, 1):
        lab.run(case_id)
        _until(lambda wanted=number: _verdicts(lab.folder.junit) == wanted)  # type: ignore[misc]


def test_the_file_is_never_seen_half_written(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(_verdicts(lab.folder.junit))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        lab.run(lab.plan({"alice": f"T{number}"}))
    writer.close()
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert _verdicts(lab.folder.junit) == 100


def test_junit_returns_the_bytes_of_the_file(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    lab.run(lab.plan())
    content = writer.junit()
    assert content == lab.folder.junit.read_bytes()
    assert b'tests="1"' in content


def test_a_late_upload_reaches_the_file(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    case_id = lab.plan()
    lab.run(case_id, "failure", "no")
    writer.junit()
    lab.append(Upload(case=case_id, attempt=1, role="bob", name="v.mp4", path="clients/bob/v.mp4", size=1))
    assert b"clients/bob/v.mp4" in writer.junit()


def test_all_files_are_there_at_the_end(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    good, bad = lab.plan({"alice": "A"}), lab.plan({"alice": "B"})
    lab.run(good)
    lab.prepare(bad)
    lab.append(Measurement(case=bad, attempt=1, name="delay", value=2, unit="ms"))
    lab.end_case(bad, "failure", "no")
    lab.append(Problem(file="chat/broken_test.py", problem="does not import"))
    summary = lab.folder.path / "session.json"
    _until(lambda: summary.exists() and json.loads(summary.read_text())["ended"] is None)
    lab.end(exit_code=1)
    writer.close()
    path = lab.folder.path
    session = json.loads((path / "session.json").read_text())
    assert (session["id"], session["host"], session["user"], session["seed"]) == (
        lab.folder.id,
        "lab-1",
        "kim",
        7,
    )
    assert session["exit_code"] == 1
    report = json.loads((path / "report.json").read_text())
    assert [case["outcome"] for case in report["cases"]] == ["success", "failure"]
    assert yaml.safe_load((path / "rerun-failed.yml").read_text()) == {"failed": [bad, "chat/broken_test.py"]}
    assert "1 of 2 cases failed" in (path / "report.html").read_text()
    attempt = path / report["cases"][1]["attempts"][0]["folder"]
    assert json.loads((attempt / "measurements.json").read_text()) == [
        {
            "name": "delay",
            "value": 2,
            "unit": "ms",
            "at": lab.record.cases[bad].attempts[0].measurements[0].time.timestamp(),
        }
    ]
    assert "adapter leased" in (attempt / "log.info").read_text()
    assert list(read_events(lab.folder.events)) == lab.events


def test_what_the_test_said_stands_before_what_happened(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    case_id = lab.plan()
    lab.folder.attempt(case_id, 1).create()
    lab.folder.attempt(case_id, 1).log_info.write_text("mine\n")
    lab.run(case_id)
    writer.close()
    said, _, happened = lab.folder.attempt(case_id, 1).log_info.read_text().partition("\n\n")
    assert said == "mine"
    assert "adapter leased" in happened


def test_logs_of_an_attempt_end_with_the_traceback(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    case_id = lab.plan()
    trace = 'Traceback (most recent call last):\n  File "a_test.py", line 2, in run\n    x[0]\nIndexError: no'
    lab.run(case_id, "error", "IndexError: no", traceback=trace)
    writer.close()
    attempt = lab.folder.attempt(case_id, 1)
    for log in (attempt.log_info, attempt.log_debug):
        assert log.read_text().endswith(f"\n\nIndexError: no\n\n{trace}\n")


def test_logs_of_attempts_that_a_killed_coordinator_had_not_written(
    lab: "Lab", writer: ResultsWriter
) -> None:
    """They are written once, by whichever coordinator comes to it."""
    lab.start()
    first, second = lab.plan({"alice": "A"}), lab.plan({"alice": "B"})
    lab.run(first)
    lab.run(second)
    writer.close()
    logs = [lab.folder.attempt(case, 1) for case in (first, second)]
    complete = [log.log_debug.read_text() for log in logs]
    logs[1].log_debug.write_text("mine\n")
    record = SessionRecord.replay(read_events(lab.folder.events))
    again = ResultsWriter(lab.folder, record)
    again.resume()
    again.close()
    assert [log.log_debug.read_text() for log in logs] == [complete[0], f"mine\n\n{complete[1]}"]


def test_a_session_that_was_stopped_early_is_complete(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    lab.prepare(lab.plan({"alice": "B"}))
    writer.close()
    report = json.loads((lab.folder.path / "report.json").read_text())
    assert [case["outcome"] for case in report["cases"]] == ["success", "running"]
    writer.close()  # once more harms nothing


def test_other_sessions_are_left_alone(lab: "Lab", writer: ResultsWriter) -> None:
    lab.start()
    lab.journal.append(CasePlanned(session="2026-11-21--002", case="x", suite="x"))
    lab.journal.append(AdapterRegistered(adapter="u", registration={"type": "nio"}))
    kinds = [event.kind for event in read_events(lab.folder.events)]
    assert kinds == [SessionStarted.kind, AdapterRegistered.kind]


def test_a_report_that_cannot_be_written_costs_no_other(
    lab: "Lab", writer: ResultsWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr(writer_module, "report_html", broken)
    lab.start()
    lab.run(lab.plan())
    lab.end()
    writer.close()
    assert writer.incomplete == "report.html cannot be written: no ink"
    _says_incomplete(lab, "report.html cannot be written: no ink")
    assert "cannot write report.html" in caplog.text
    assert (lab.folder.path / "report.json").exists()
    assert (lab.folder.path / "rerun-failed.yml").exists()


def test_a_disk_that_refuses_events_costs_no_verdict(
    lab: "Lab", writer: ResultsWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(event: object, sequence: int) -> None:
        raise OSError("disk full")

    lab.start()
    case_id = lab.plan()
    monkeypatch.setattr(writer._log, "append", refuse)
    lab.run(case_id)
    assert "disk full" in caplog.text  # the journal logged it
    assert writer.incomplete.endswith("events.jsonl cannot be written: disk full")
    assert _verdicts(lab.folder.junit) == 1 or b'errors="0"' in writer.junit()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_is_moved_away_is_incomplete(lab: "Lab", writer: ResultsWriter, replaced: bool) -> None:
    lab.start()
    lab.run(lab.plan())
    lab.folder.path.rename(lab.folder.path.with_name("elsewhere"))
    if replaced:
        lab.folder.path.mkdir(exist_ok=True)  # its thread may have made it, for another file
        lab.folder.events.touch()
    lab.end()
    writer.close()
    assert writer.incomplete.endswith("events.jsonl was removed or replaced while it was written")
    assert _verdicts(lab.folder.junit) == 1


@pytest.mark.parametrize("name", ["log.info", "attachments/a.txt", "clients/alice/b.txt", ""])
def test_files_of_cases_that_are_removed_are_incomplete(lab: "Lab", writer: ResultsWriter, name: str) -> None:
    """A clean-up job removed `cases`, and the exit code was 0."""
    lab.start()
    case_id = lab.plan()
    lab.run(case_id)
    folder = lab.folder.attempt(case_id, 1).path
    for event in (
        Attachment(name="a.txt", path="attachments/a.txt", size=0, media_type="text/plain"),
        Upload(name="b.txt", path="clients/alice/b.txt", size=0, sha256="", media_type="text/plain"),
    ):
        (folder / event.path).parent.mkdir(parents=True)
        (folder / event.path).touch()
        lab.journal.append(event, session=lab.folder.id, case=case_id, attempt=1)
    _until((folder / "log.debug").exists)
    if name:
        (folder / name).unlink()
    else:
        shutil.rmtree(lab.folder.path / "cases")
    lab.end()
    writer.close()
    number = "1 file" if name else "3 files"
    _says_incomplete(lab, f"{number} of cases removed while the session ran, such as {folder}")


@pytest.mark.parametrize("name", ["adapters", "adapters/nio-1.log"])
def test_a_folder_of_the_session_that_is_removed_is_incomplete(
    lab: "Lab", writer: ResultsWriter, name: str
) -> None:
    log = lab.folder.path / "adapters" / "nio-1.log"
    log.parent.mkdir()
    log.touch()
    lab.start()
    lab.run(lab.plan())
    _until(lambda: log in writer._seen)
    if name == "adapters":
        shutil.rmtree(log.parent)
    else:
        log.unlink()
    lab.end()
    writer.close()
    _says_incomplete(lab, f"{lab.folder.path / name} was removed while the session ran")


def _says_incomplete(lab: "Lab", why: str) -> None:
    """Every file says it: pages, CI and followers of the session read different ones."""
    session = json.loads((lab.folder.path / "session.json").read_bytes())
    assert session["incomplete"].startswith(why)
    assert session["exit_code"] == 3
    end = session_end(lab.folder.events)
    assert end is not None
    assert (end.exit_code, end.incomplete) == (3, session["incomplete"])
    (error,) = ElementTree.fromstring(lab.folder.junit.read_bytes()).iter("error")
    assert (error.get("type"), error.get("message")) == ("trafficlight.incomplete", session["incomplete"])


def test_a_thousand_cases_are_cheap(lab: "Lab", writer: ResultsWriter) -> None:
    """Far from a benchmark: it tells linear from quadratic, and would see a writing for every case."""
    lab.start()
    cases = [lab.plan({}, {}, suite=f"a_test.py::T{number}") for number in range(1_000)]
    began = time.process_time()
    for case_id in cases:
        lab.folder.attempt(case_id, 1).create()
        lab.end_case(case_id, "success", seconds=0.001)
    writer.junit()
    assert (time.process_time() - began) / len(cases) < 0.002


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from trafficlight.clock import SystemClock
from trafficlight.results.events import CaseEnded, CasePlanned, SessionStarted, State
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

folder = ResultsFolder.create(Path(sys.argv[1]), date(2026, 11, 21))
journal = Journal(SystemClock())
journal.subscribe(ResultsWriter(folder, SessionRecord()), session=folder.id)
journal.append(SessionStarted(session=folder.id))
for number in range(50):
    case = f"a_test.py::T[n={number}]"
    journal.append(CasePlanned(session=folder.id, case=case, suite="a_test.py::T"))
    journal.append(CaseEnded(session=folder.id, case=case, attempt=1, state=State.SUCCESS))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert process.returncode == -9
    folder = tmp_path / "2026-11-21--001"
    record = SessionRecord.replay(read_events(folder / "events.jsonl"))
    assert len(record.cases) == 50
    assert all(case.state == "success" for case in record.cases.values())
    assert record.ended is None
    if (folder / "junit.xml").exists():
        ElementTree.fromstring((folder / "junit.xml").read_bytes())
