"""Which sessions are removed: by age, number and size; never a pinned, running or foreign one."""

import json
import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from trafficlight.cli.prepare import clean
from trafficlight.config import KeepResults
from trafficlight.errors import UsageError
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import EventLog
from trafficlight.results.retention import PIN, enforce, excess


def _session(root: Path, day: int, *, size: int = 100, days: float = 0.0) -> Path:
    folder = root / f"2026-11-{day:02d}--001"
    (folder / "cases").mkdir(parents=True)
    (folder / "events.jsonl").write_bytes(b"x" * (size // 2))
    (folder / "cases" / "log").write_bytes(b"x" * (size - size // 2))
    then = time.time() - days * 86_400
    os.utime(folder / "events.jsonl", (then, then))
    return folder


def _removed(root: Path, keep: KeepResults) -> list[str]:
    return [one.folder.name[8:10] for one in excess(root, keep)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for day in range(1, 7):
        _session(tmp_path, day, days=6 - day, size=100 * day)
    return tmp_path


def test_age_number_and_size_each_limit(root: Path) -> None:
    assert _removed(root, KeepResults()) == []
    assert _removed(root, KeepResults(days=3.5)) == ["02", "01"]
    assert _removed(root, KeepResults(sessions=4)) == ["02", "01"]
    # 600 + 500 fit; 400 does not, nor do 300 and 200; 100 does.
    assert _removed(root, KeepResults(bytes=1200)) == ["04", "03", "02"]
    assert _removed(root, KeepResults(days=3.5, sessions=1)) == ["05", "04", "03", "02", "01"]


def test_some_are_never_removed(root: Path) -> None:
    (root / "2026-11-05--001" / PIN).touch()
    (root / "2026-11-04--001" / "events.jsonl").unlink()  # half of it is missing
    ResultsFolder(root / "2026-11-03--001").write_request({"targets": []}, resumable=True)
    (root / "notes").mkdir()
    (root / "latest").symlink_to("2026-11-01--001")
    with closing(EventLog(root / "2026-11-02--001" / "events.jsonl")):  # it runs
        assert _removed(root, KeepResults(sessions=1)) == []
    assert _removed(root, KeepResults(sessions=1)) == ["02"]


def test_a_removal_that_was_killed_is_completed(root: Path) -> None:
    (root / ".removing-2026-10-01--001" / "cases").mkdir(parents=True)

    enforce(root, KeepResults(sessions=2))

    assert sorted(os.listdir(root)) == ["2026-11-05--001", "2026-11-06--001"]


def test_clean_lists_and_removes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = tmp_path_factory.mktemp("config") / "trafficlight.json"
    config.write_text(json.dumps({"RESULTS_FOLDER": str(root), "KEEP_RESULTS": {"sessions": 4}}))
    asked = ["--results", "--config", str(config)]

    dry = CliRunner().invoke(clean, [*asked, "--dry-run"], catch_exceptions=False)
    assert dry.stdout.splitlines() == [
        "would remove  2026-11-02--001  200 bytes  more than 4 sessions",
        "would remove  2026-11-01--001  100 bytes  more than 4 sessions",
        f"300 bytes would be freed in {root}",
    ]
    assert len(os.listdir(root)) == 6
    CliRunner().invoke(clean, asked, catch_exceptions=False)
    assert len(os.listdir(root)) == 4
    config.write_text(json.dumps({"RESULTS_FOLDER": str(root)}))
    with pytest.raises(UsageError, match="KEEP_RESULTS is not set: every session is kept"):
        CliRunner().invoke(clean, asked, catch_exceptions=False)
