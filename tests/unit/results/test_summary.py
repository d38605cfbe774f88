from typing import TYPE_CHECKING

from trafficlight.results.events import CaseWaits, Expected, Problem
from trafficlight.results.reports.summary import summary

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def test_the_last_lines(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan({"alice": "Good"}))
    bad = lab.plan({"alice": "Bad"})
    lab.run(bad, "failure", "\n  expected 1\x07 to be 2\nmore")
    flaky = lab.plan({"alice": "Flaky"})
    lab.run(flaky, "error", "server did not start", will_retry=True)
    lab.run(flaky, attempt=2)
    fixed = lab.plan({"alice": "Fixed"}, expected=Expected("known bug"))
    lab.run(fixed)
    for number in range(3):
        lab.append(CaseWaits(case=lab.plan({"alice": f"W{number}"}), reason="no adapter"))
    lab.append(Problem(file="x_test.py", line=4, problem="does not import", hint="install foo"))
    lines = summary(lab.record, lab.folder.path)
    text = "\n".join(lines)
    where = str(lab.folder.path)
    assert lines[0] == "problem  x_test.py:4  does not import (install foo)"
    assert f"failure  {bad}\n         expected 1#x07 to be 2\n         {where}/cases/" in text
    assert "succeeded in attempt 2, before: server did not start" in text
    assert "expected to fail: known bug" in text
    assert "not run  3 cases: no adapter" in text
    assert lines[-1] == (
        "1 success · 1 flaky · 1 unexpected success · 1 failure · 0 error · 3 not run · 1 problem   " + where
    )


def test_a_broken_lab_does_not_fill_the_screen(lab: "Lab") -> None:
    lab.start()
    for number in range(500):
        lab.run(lab.plan({"alice": f"T{number}"}), "error", "no server")
    assert len(summary(lab.record, lab.folder.path)) < 200
