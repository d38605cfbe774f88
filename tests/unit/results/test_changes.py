"""What changed, as it is shown: terminal, report, summary of a step."""

from pathlib import Path

import pytest

from tests.unit.results.conftest import Lab
from trafficlight.results.case import Outcome
from trafficlight.results.history.changes import FILE, Change, Changes, Shift, VersionChange, write_changes
from trafficlight.results.reports.changes import step_summary
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.json_files import report_json
from trafficlight.results.reports.summary import summary


def _lab_with_changes(lab: Lab) -> Changes:
    lab.start()
    new, known, fixed = (lab.plan({"alice": name}, {}) for name in ("Nio", "Hydrogen", "Element"))
    lab.run(new, "failure", "expected `a|b` <script>")
    lab.run(known, "error", "exited")
    lab.run(fixed)
    lab.end()
    changes = Changes(
        against="3 earlier sessions",
        cases=(
            Change(kind="new", case=new, outcome=Outcome.FAILURE, signature="expected `a|b` <script>"),
            Change(
                kind="known",
                case=known,
                outcome=Outcome.ERROR,
                signature="exited",
                since="2026-11-01--001",
                sessions=3,
                other_failure=True,
            ),
            Change(
                kind="fixed",
                case=fixed,
                outcome=Outcome.SUCCESS,
                signature="no message",
                since="2026-11-02--001",
                sessions=1,
            ),
        ),
        versions=(VersionChange(type="nio", before=("0.25",), after=("0.26", "0.27"), new_failures=1),),
        shifts=(Shift(case=fixed, name="sync", what="p95", before=1, after=2.5, unit="s"),),
    )
    write_changes(lab.folder.path, changes)
    return changes


def test_the_summary_says_what_changed(lab: Lab) -> None:
    _lab_with_changes(lab)

    lines = "\n".join(summary(lab.record, lab.folder.path)).splitlines()

    assert "against 3 earlier sessions: 1 new failure · 1 known · 1 fixed · 1 measurement moved" in lines
    assert "version  nio 0.25 → 0.26, 0.27   in 1 new failure" in lines
    fixed = lines.index("fixed    chat/send_messages_test.py::SendMessages[alice=Element]")
    assert lines[fixed + 1] == "         failed since 2026-11-02--001 (1 session): no message"
    assert "         sync p95 2.5 s, 1 s before" in lines
    assert not [line for line in lines if line.startswith("known")]  # it is among the failures already
    known = lines.index("         exited")
    assert (
        lines[known + 2] == "         known, since 2026-11-01--001 (3 sessions), before with another message"
    )


def test_the_report_says_what_changed(lab: Lab) -> None:
    changes = _lab_with_changes(lab)

    page = report_html(lab.record, changes).decode()

    assert "<h2>What changed</h2>" in page
    assert "failure · new</p>" in page
    assert "error · since 2026-11-01--001</p>" in page
    assert "exited, since 2026-11-01--001 (3 sessions), before with another message" in page
    assert "&lt;script&gt;, not there before" in page
    assert "<script>" not in page
    assert "What changed" not in report_html(lab.record).decode()


def test_causes_in_report_json_say_since_when(lab: Lab) -> None:
    changes = _lab_with_changes(lab)

    found = {cause["message"]: cause["since"] for cause in report_json(lab.record, changes)["causes"]}

    assert found == {"expected `a|b` <script>": "new", "exited": "2026-11-01--001"}


def test_a_step_of_github_shows_verdict_changes_and_failures(lab: Lab) -> None:
    changes = _lab_with_changes(lab)

    text = step_summary(lab.record, changes, Path("results/x"))

    assert text.startswith("### ✗ 1 of 3 cases failed, 1 ended in error\n")
    assert "**against 3 earlier sessions: 1 new failure" in text
    assert "| `chat/send_messages_test.py::SendMessages` | 1 | 1 | 1 |" in text
    assert "| version | `nio` | `0.25 → 0.26, 0.27   in 1 new failure` |" in text
    # Cells that no message can leave.
    assert r"[alice=Nio]` | `expected 'a\|b' <script>, not there before` |" in text
    without = step_summary(lab.record, None, Path("results/x"))
    assert (
        r"| failure | `chat/send_messages_test.py::SendMessages[alice=Nio]` | `expected 'a\|b' <script>` |"
        in without
    )


def test_a_step_of_github_shows_some_of_many_tests(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafficlight.results.reports.changes._MOST_TESTS", 2)
    lab.start()
    for number in range(5):
        lab.plan({}, {}, suite=f"a_test.py::Test{number}")

    lines = step_summary(lab.record, None, Path("results/x")).splitlines()

    assert lines[-3:] == ["| `a_test.py::Test0` | 1 |", "| `a_test.py::Test1` | 1 |", "| 3 more |"]


def test_changes_of_another_version_are_ignored(lab: Lab) -> None:
    lab.start()
    (lab.folder.path / FILE).write_text('{"cases": 1}')

    assert summary(lab.record, lab.folder.path)[-1].startswith("0 success")
