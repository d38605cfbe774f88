import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from trafficlight.cli.report import command
from trafficlight.errors import UsageError
from trafficlight.results.journal import read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


@pytest.fixture
def finished(lab: "Lab") -> Path:
    writer = ResultsWriter(lab.folder, SessionRecord())
    lab.read_along(writer)
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    lab.run(lab.plan({"alice": "B"}), "failure", "no")
    lab.end(exit_code=1)
    writer.close()
    lab.folder.finish()
    return lab.folder.path


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_file_is_rebuilt_as_it_was(finished: Path) -> None:
    names = ("session.json", "report.json", "report.html", "report.css", "junit.xml", "rerun-failed.yml")
    before = {name: (finished / name).read_bytes() for name in names}
    for name in names:
        (finished / name).unlink()
    late = finished / ".0123456789abcdef.part"
    late.touch()
    assert "1 success · 1 failure" in _run(str(finished))
    assert late.exists(), "it may be under way"
    assert {name: (finished / name).read_bytes() for name in names} == before


def test_formats_go_to_standard_output(finished: Path) -> None:
    latest = str(finished.parent)
    assert json.loads(_run(latest, "--format", "json"))["outcomes"]["failure"] == 1
    assert _run(latest, "--format", "junit").startswith("<?xml")
    assert _run(latest, "--format", "html").startswith("<!doctype html>")
    assert "failure  chat/" in _run(latest, "--format", "text")


def test_a_filter_selects_cases_and_leaves_the_files(finished: Path) -> None:
    before = (finished / "report.json").read_bytes()
    only = _run(str(finished), "--filter", "state:failure alice:B")
    assert "0 success · 1 failure" in only
    report = json.loads(_run(str(finished), "--filter", "alice:A", "--format", "json"))
    assert [case["clients"] for case in report["cases"]] == [{"alice": "A"}]
    assert (finished / "report.json").read_bytes() == before
    with pytest.raises(UsageError, match="column 7: expected one of running"):
        CliRunner().invoke(command, [str(finished), "--filter", "state:failed"], catch_exceptions=False)


def test_requests_of_clients(finished: Path) -> None:
    cases = (SessionRecord.replay(read_events(finished / "events.jsonl"))).cases.values()
    (attempt,) = next(case for case in cases if case.message == "no").attempts
    folder = finished / attempt.folder / "clients" / "alice"
    folder.mkdir(parents=True)
    assert attempt.started is not None
    for_alice = {
        "startedDateTime": (attempt.started + timedelta(seconds=2)).isoformat(),
        "time": 1,
        "request": {"method": "GET", "url": "http://127.0.0.1:1/sync", "bodySize": 0},
        "response": {"status": 200, "bodySize": 5},
    }
    (folder / "network.har").write_text(json.dumps({"log": {"entries": [for_alice]}}))

    options = ("--format", "requests", "--role", "alice")
    shown = _run(str(finished), *options, "--between", "1:3").splitlines()
    assert shown[0].endswith("[alice=B,server=SynapseStable], attempt 1")
    assert shown[1].split() == ["2.000", "alice", "200", "0.001", "s", "5", "bytes", "GET", "/sync"]
    with pytest.raises(UsageError, match="there are no such requests"):
        CliRunner().invoke(command, [str(finished), *options, "--between", "3:"], catch_exceptions=False)


def test_a_killed_session_is_reported_as_far_as_it_got(finished: Path) -> None:
    events = finished / "events.jsonl"
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(lines[:-4]) + b'{"torn')
    uploads = [finished / name for name in (".0123456789abcdef.part", ".mine.part")]
    for path in uploads:
        path.touch()
    assert "not run" in _run(str(finished)) or "running" in _run(str(finished))
    assert json.loads((finished / "report.json").read_text())["ended"] is None
    assert [path.exists() for path in uploads] == [False, True], "an upload ended with its coordinator"


def test_without_a_folder_the_latest_is_meant(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent.parent)
    assert "2026-11-21--001" in _run("--format", "text")


def test_a_session_is_named_as_for_diff(finished: Path) -> None:
    """`report latest` said that the directory 'latest' does not exist."""
    results = ("--results", str(finished.parent))
    for name in ("latest", finished.name, str(finished), str(finished.parent)):
        shown = _run(name, *results, "--filter", "state:failure")
        assert "0 success · 1 failure" in shown, name
        assert shown.rstrip().endswith("2026-11-21--001"), name


def test_what_is_not_a_session(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the folder of a session, and there is no results folder"):
        CliRunner().invoke(
            command, [str(tmp_path), "--results", str(tmp_path / "none")], catch_exceptions=False
        )
    (tmp_path / "events.jsonl").touch()
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert result.exit_code == 1
    assert "has no events" in result.output
