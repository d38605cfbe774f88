"""The history: an index that is derived from the folders of sessions, in SQLite."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.results.conftest import SUITE, Lab
from trafficlight.cli.diff import command as diff
from trafficlight.errors import UsageError
from trafficlight.http.pages.past import map_of
from trafficlight.results.case import Outcome
from trafficlight.results.events import Measurement, State
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.history.changes import changes_in, compare_folders, read_changes
from trafficlight.results.history.database import HistoryError, opened
from trafficlight.results.history.index import FILE, History
from trafficlight.results.history.statistics import CaseHistory, Past, wilson
from trafficlight.results.history.verdicts import CaseVerdict
from trafficlight.results.journal import read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.heatmap import View
from trafficlight.results.writer import ResultsWriter

CASE = f"{SUITE}[alice=Nio]"


class Days:
    """Runs a session each day, in one results folder."""

    def __init__(self, root: Path, lab_of: Callable[[ResultsFolder], Lab], history: History) -> None:
        self.root, self._lab_of, self.history = root, lab_of, history
        self.day = date(2026, 11, 1)

    def run(self, *states: str, values: list[float] | None = None, commit: str = "", **verdict: Any) -> Path:
        """Run a session with a case for each state; return its folder."""
        folder = ResultsFolder.create(self.root, self.day)
        lab = self._lab_of(folder)
        lab.clock.elapsed = 86_400.0 * self.day.toordinal()
        self.day += timedelta(days=1)
        writer = ResultsWriter(folder, SessionRecord(), history=self.history)
        lab.read_along(writer)
        lab.start(cases=len(states), commit=commit)
        cases = [lab.plan({"alice": name}, {}) for name in ("Nio", "Hydrogen", "Element")[: len(states)]]
        for case, state in zip(cases, states, strict=True):
            lab.prepare(case)
            for value in values or ():
                lab.append(Measurement(case=case, attempt=1, name="sync", value=value, unit="s"))
            message = "bob: no message within 5 s" if state != "success" else ""
            lab.end_case(case, state, **{"message": message, "seconds": 2.0, **verdict})
        lab.end()
        writer.close()
        return folder.path


@pytest.fixture
def days(tmp_path: Path, lab_of: Callable[[ResultsFolder], Lab]) -> Days:
    root = tmp_path / "results"
    return Days(root, lab_of, History(root))


def _outcomes(history: History) -> list[Outcome]:
    return [one.verdict.outcome for one in history.of_case(CASE).past]


def test_a_case_has_its_verdicts_newest_first(days: Days) -> None:
    for state in ("success", "failure", "error"):
        days.run(state)

    history = days.history.of_case(CASE)

    assert [one.verdict.outcome for one in history.past] == ["error", "failure", "success"]
    assert [one.session for one in history.past] == ["2026-11-03--001", "2026-11-02--001", "2026-11-01--001"]
    latest = history.past[0]
    assert latest.host == "lab-1"
    assert latest.verdict.signature == "bob: no message within <n> s"
    assert latest.verdict.versions == {"alice": "nio 0.26.0"}
    assert history.first_bad is not None
    assert history.first_bad.session == "2026-11-02--001"
    assert history.last_good is not None
    assert history.last_good.session == "2026-11-01--001"
    assert len(days.history.of_case(CASE, limit=1).past) == 1


def test_new_known_fixed_and_slower_are_told_apart(days: Days) -> None:
    assert read_changes(days.run("success", "failure", "success")) is None  # nothing to compare with

    changes = read_changes(days.run("failure", "failure", "success", seconds=9.0))

    assert changes is not None
    assert [(one.kind, one.case.partition("=")[2], one.since) for one in changes.cases] == [
        ("new", "Nio]", ""),
        ("known", "Hydrogen]", "2026-11-01--001"),
        ("slower", "Element]", ""),
    ]
    assert changes.sentence == "against 1 earlier session: 1 new failure · 1 known · 0 fixed · 1 slower"
    changes = read_changes(days.run("success", "failure", "success", message="something else"))
    assert changes is not None
    assert [(one.kind, one.sessions, one.other_failure) for one in changes.cases] == [
        ("known", 2, True),
        ("fixed", 1, False),
    ]


def test_other_versions_are_named_with_the_new_failures_that_have_them(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.run("success", "success")
    prepare = Lab.prepare

    def with_version(lab: Lab, case: str, attempt: int = 1) -> None:
        append = lab.append

        def changed(event: Any) -> Any:
            if getattr(event, "registration", None):
                event.registration["version"] = "0.27.0"
            return append(event)

        with monkeypatch.context() as patch:
            patch.setattr(lab, "append", changed)
            prepare(lab, case, attempt)

    monkeypatch.setattr(Lab, "prepare", with_version)
    changes = read_changes(days.run("failure", "success"))

    assert changes is not None
    (first, second) = changes.versions
    assert (first.type, first.before, first.after, first.new_failures) == (
        "hydrogen",
        ("0.26.0",),
        ("0.27.0",),
        0,
    )
    assert (second.type, second.new_failures) == ("nio", 1)


def test_a_session_that_runs_is_compared_with_earlier_ones(
    days: Days, lab_of: Callable[[ResultsFolder], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.results.history.index._AT_ONCE", 2)
    for _ in range(12):
        days.run("failure", "success", "success")
    lab = lab_of(ResultsFolder.create(days.root, days.day))
    lab.clock.elapsed = 86_400.0 * days.day.toordinal()
    lab.start()
    cases = [lab.plan({"alice": name}, {}) for name in ("Nio", "Hydrogen", "Element", "New")]
    lab.run(cases[0])

    before = days.history.before(lab.record)

    assert sorted(before) == sorted(cases[:3])
    assert [len(one.past) for one in before.values()] == [10] * 3
    assert {one.session for one in before[cases[0]].past} < {one.name for one in days.root.iterdir()}
    changes = changes_in(lab.record, before)
    assert changes is not None
    assert [(one.kind, one.case) for one in changes.cases] == [("fixed", cases[0])]
    (days.root / FILE).unlink()
    assert days.history.before(lab.record) == {}
    assert not (days.root / FILE).exists(), "it only reads"


def test_the_commit_of_the_tests_stands_beside_the_sessions(days: Days) -> None:
    good = days.run("success", "success", commit="a" * 40)
    days.run("failure", "success", commit="b" * 40)
    bad = days.run("failure", "failure", commit="c" * 40)

    changes = read_changes(bad)
    assert changes is not None
    (known,) = changes.of("known")
    assert known.text.endswith("since 2026-11-02--001 at bbbbbbbbbbbb (1 session)")
    assert changes.revisions == {"2026-11-02--001": "b" * 12}
    (tests,) = (one for one in changes.versions if one.type == "tests")
    assert (tests.before, tests.after, tests.new_failures) == (("b" * 12,), ("c" * 12,), 1)
    assert days.history.of_case(CASE).past[-1].revision == "a" * 12
    found = compare_folders(good, bad)
    assert found.sentence.startswith("against 2026-11-01--001 at aaaaaaaaaaaa: 2 new failures")
    assert ("tests", ("a" * 12,)) in [(one.type, one.before) for one in found.versions]


def test_a_measurement_that_is_off_all_earlier_ones_moved(days: Days) -> None:
    for number in range(6):
        days.run("success", values=[1.0 + number / 100] * 19 + [2.0])
    assert read_changes(days.run("success", values=[1.02] * 19 + [2.0])).shifts == ()  # type: ignore[union-attr]

    changes = read_changes(days.run("success", values=[1.02] * 18 + [4.0, 4.0]))

    assert changes is not None
    (shift,) = changes.shifts
    assert (shift.name, shift.what, shift.after, shift.unit) == ("sync", "p95", 4.0, "s")


def test_the_index_is_rebuilt_from_the_folders(days: Days) -> None:
    days.run("success")
    days.run("failure", values=[1.0, 3.0])
    known = days.history.of_case(CASE)
    (days.root / FILE).unlink()

    days.history.update()

    assert days.history.of_case(CASE) == known
    days.history.update()  # changes nothing
    assert days.history.of_case(CASE) == known


def test_the_session_before_is_the_newest_that_shares_most_cases(days: Days) -> None:
    days.run("success", "success")
    before = days.run("success", "failure")
    days.run("success")  # of one of them, again
    record = SessionRecord.replay(read_events(days.run("success", "success") / "events.jsonl"))
    assert days.history.session_before(record) == before.name
    record.cases.clear()
    assert days.history.session_before(record) == ""


def test_a_heat_map_follows_the_index(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    first = days.run("success")
    record = SessionRecord.replay(read_events(days.run("success") / "events.jsonl"))
    (days.root / FILE).unlink()

    def verdicts() -> str:
        cases = list(record.cases.values())
        shown = map_of(days.history, days.root, record, cases, View.of(["flaky"]), None, over=True)
        return next(iter(shown.tables[0].cells.values())).tip

    with monkeypatch.context() as patch:
        patch.setattr("trafficlight.http.pages.past.CATCHING_UP", -1.0)  # there is no time to read the first
        assert "in 1 verdict:" in verdicts()
    monkeypatch.setattr("trafficlight.http.pages.past.CATCHING_UP", float("inf"))
    assert "0 flakes in 2 verdicts:" in verdicts()

    known = days.history.before(record)
    assert days.history.before(record) is known
    again = SessionRecord.replay(read_events(first / "events.jsonl"))
    again.cases[CASE].attempts[-1].state = State.FAILURE
    again.cases[CASE].state = State.FAILURE
    days.history.take_in(again)  # its case ran again
    assert days.history.before(record)[CASE].past[0].verdict.outcome is Outcome.FAILURE
    history, days.history = days.history, History(days.root)  # that of another process
    days.day = date(2026, 10, 1)
    days.run("success")
    assert len(history.before(record)[CASE].past) == 2


def test_a_database_that_cannot_be_reached_is_not_asked_at_each_refresh(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case's page waited 3 s for it each time."""
    asked: list[str] = []

    def refuse(file: Path, url: str) -> None:
        asked.append(url)
        raise HistoryError(url, "cannot be used: no route")

    monkeypatch.setattr("trafficlight.results.history.index.opened", refuse)
    history = History(days.root, "postgresql://away/history")
    for _ in range(3):
        with pytest.raises(HistoryError, match="no route"):
            history.of_case(CASE)
    assert len(asked) == 1

    record = SessionRecord()
    with pytest.raises(HistoryError):  # the end of a session asks always
        history.take_in(record)
    assert len(asked) == 2

    monkeypatch.setattr("trafficlight.results.history.index._REMEMBERED", 0.0)
    with pytest.raises(HistoryError):
        history.take_in(record)
    with pytest.raises(HistoryError):
        history.of_case(CASE)
    assert len(asked) == 4


def test_a_damaged_index_is_replaced(days: Days) -> None:
    days.run("success")
    (days.root / FILE).write_bytes(b"no database" * 1000)

    days.history.update()

    assert _outcomes(days.history) == ["success"]


def test_an_index_that_refuses_a_row_is_left(days: Days) -> None:
    days.run("success")
    session = "INSERT INTO history_sessions (key) VALUES (1)"
    with pytest.raises(HistoryError, match="UNIQUE constraint"), opened(days.root / FILE) as database:
        database.rows(session)
        database.rows(session)

    assert _outcomes(days.history) == ["success"]


def test_an_index_of_an_earlier_version_is_replaced_and_one_of_a_later_is_left(days: Days) -> None:
    days.run("success")
    with sqlite3.connect(days.root / FILE) as connection:
        connection.execute("UPDATE history_version SET version = 0")
    connection.close()
    days.history.update()
    assert _outcomes(days.history) == ["success"]

    with sqlite3.connect(days.root / FILE) as connection:
        connection.execute("UPDATE history_version SET version = 99")
    connection.close()
    with pytest.raises(HistoryError, match=r"history\.sqlite is of version 99, and this trafficlight knows"):
        days.history.of_case(CASE)


def test_a_locked_index_costs_a_session_one_line(
    days: Days, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.run("success")
    monkeypatch.setattr("trafficlight.results.history.database._PATIENCE", 0)
    holder = sqlite3.connect(days.root / FILE)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        folder = days.run("failure")
    finally:
        holder.close()

    (record,) = caplog.records
    assert "history.sqlite cannot be used: database is locked" in record.getMessage()
    assert record.exc_info is None
    assert read_changes(folder) is None
    assert (folder / "report.html").is_file()
    days.history.update()  # it is not lost
    assert _outcomes(days.history) == ["failure", "success"]


def test_half_written_and_foreign_folders_are_left_out(days: Days) -> None:
    days.run("success")
    (days.root / "2026-11-05--001").mkdir()
    (days.root / "2026-11-06--001").mkdir()
    (days.root / "2026-11-06--001" / "events.jsonl").write_text("{}\nnot JSON\n")
    (days.root / "2026-11-06--001" / "session.json").write_text('{"ended": "yes"}')
    (days.root / "notes").mkdir()
    (days.root / FILE).unlink()

    days.history.update()

    assert _outcomes(days.history) == ["success"]


def test_verdicts_outlive_their_folder_and_an_empty_root_has_none(days: Days, tmp_path: Path) -> None:
    shutil.rmtree(days.run("success"))
    days.history.update()

    assert _outcomes(days.history) == ["success"]
    History(tmp_path / "none").update()
    assert not (tmp_path / "none").exists()


def _history(*outcomes: Outcome) -> CaseHistory:
    return CaseHistory([Past("", "", None, "", CaseVerdict("c", outcome)) for outcome in outcomes])


def test_a_flake_is_a_flaky_success_or_one_failure_between_successes() -> None:
    success, failure, flaky = Outcome.SUCCESS, Outcome.FAILURE, Outcome.FLAKY

    assert _history(success, failure, success, flaky).flakes == 2
    assert _history(success, failure, failure, success).flakes == 0  # broken for a while
    assert _history(failure, success).flakes == 0  # not known yet
    assert _history().flakes == 0


@given(st.integers(0, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_share(pair: tuple[int, int]) -> None:
    hits, total = pair
    low, high = wilson(hits, total)

    assert 0 <= low < high <= 1
    if total:
        assert low <= hits / total <= high
        wider = wilson(hits, total) if total < 2 else wilson(hits // 2, total // 2)
        assert wider.high - wider.low >= (high - low) * 0.9


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(1, 10)

    assert (round(low, 4), round(high, 4)) == (0.0179, 0.4042)


def test_diff_compares_sessions_by_id_or_folder(days: Days) -> None:
    before = days.run("success", "failure", seconds=1.0)
    after = days.run("failure", "success", "success", seconds=4.0)
    (days.root / "latest").unlink()
    (days.root / "latest").symlink_to(after.name)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(diff, arguments, standalone_mode=False)

    text = run(before.name, "--results", str(days.root))
    found = run(str(before), str(after), "--format", "json")

    assert text.return_value == found.return_value == 1
    lines = text.stdout.splitlines()
    assert lines[0] == f"new      {CASE}"
    assert lines[1] == "         bob: no message within <n> s, success before"
    assert lines[-1] == "against 2026-11-01--001: 1 new failure · 1 fixed · 1 case added"
    changes = json.loads(found.stdout)
    assert changes["added"] == [f"{SUITE}[alice=Element]"]
    assert [one["kind"] for one in changes["cases"]] == ["new", "fixed"]
    back = run(str(after), str(after))
    assert (back.return_value, back.stdout.splitlines()[0]) == (0, f"known    {CASE}")


def test_diff_names_what_is_no_session(days: Days, tmp_path: Path) -> None:
    good = days.run("success")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.jsonl").touch()
    for arguments, problem in (
        (["2026-01-01--001", str(good), "--results", str(days.root)], "results has no such session"),
        ([str(tmp_path), str(good), "--results", str(tmp_path / "no")], "there is no results folder"),
        ([str(tmp_path / "empty"), str(good)], "its events.jsonl has no events"),
    ):
        with pytest.raises(UsageError, match=problem):
            CliRunner().invoke(diff, arguments, catch_exceptions=False)
