import asyncio.tasks
import re
from pathlib import Path
from typing import TYPE_CHECKING

from trafficlight.results.events import CaseWaits, Expected, Problem
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.presentation import status_counts
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


def test_a_killed_session_counts_what_ran_as_its_page_does(lab: "Lab") -> None:
    lab.start(strict=True, warnings=("there is no test in x",))
    lab.run(lab.plan({"alice": "Good"}))
    lab.prepare(lab.plan({"alice": "Running"}))
    lab.plan({"alice": "Waiting"})
    lines = summary(lab.record, lab.folder.path)
    assert lines[-1].startswith("1 success · 0 failure · 0 error · 2 not run · 1 warning ")
    assert "error  1 warning in a strict session" in lines
    assert "not run  1 case: still running when this was written" in lines
    assert status_counts(lab.record.cases.values(), over=True) == {"success": 1, "not run": 2}


def test_what_several_failures_share_is_told_first(lab: "Lab") -> None:
    lab.start()
    for bob in ("Nio", "Hydrogen"):
        for number in range(4):
            case = lab.plan({"bob": bob}, parameters={"n": number})
            lab.run(case, *(("failure", f"bob: {number} messages are lost") if bob == "Hydrogen" else ()))
    lines = summary(lab.record, lab.folder.path)
    assert re.fullmatch(r"cause:[0-9a-f]{8}  4 x bob: 0 messages are lost", lines[0])
    assert lines[1] == "         bob=Hydrogen: 4 of 4 such cases"
    assert "bob=Hydrogen: 4 of 4 such cases" in report_html(lab.record).decode().replace(
        "<code>", ""
    ).replace("</code>", "")


def test_the_slowest_cases(lab: "Lab") -> None:
    lab.start()
    for name, seconds in (("Quick", 1.0), ("Slow", 75.0), ("Medium", 20.0)):
        lab.run(lab.plan({"alice": name}), seconds=seconds)
    lines = summary(lab.record, lab.folder.path, slowest=2)
    listed = [line.split("  ", 1)[1].strip() for line in lines if line.startswith("slowest")]
    assert [line.rpartition("  ")[0].strip() for line in listed] == ["1 min 15 s", "20.0 s"]
    assert "Slow" in listed[0]


TRACEBACK = f"""Traceback (most recent call last):
  File "/home/kim/my_test.py", line 21, in run
    await helper(alice)
  File "/home/kim/my_test.py", line 7, in helper
    await alice.send_message("hi\x07")
  File "{Path(summary.__code__.co_filename).parents[2]}/clients/matrix.py", line 80, in send_message
    await self.perform("send_message")
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
trafficlight.errors.ActionError: no room
"""


def test_a_failure_shows_the_line_of_the_test_its_traceback_and_its_output(lab: "Lab") -> None:
    lab.start()
    bad = lab.plan({"alice": "Bad"})
    folder = lab.folder.attempt(bad, 1)
    folder.create()
    printed = [f"2026-11-21 12:00:00,{number:03} INFO    output: line {number}\n" for number in range(30)]
    logged = "2026-11-21 12:00:01,000 WARNING test: now it comes\n"
    folder.log_info.write_text("".join(printed) + logged + "\n    0.000  alice: adapter leased  w\n")
    lab.run(bad, "failure", "no room", traceback=TRACEBACK)
    text = "\n".join(line.removeprefix(" " * 9) for line in summary(lab.record, lab.folder.path))
    assert "at /home/kim/my_test.py:7\nTraceback (most recent call last):\n" in text
    assert (
        '    await alice.send_message("hi#x07")\ntrafficlight.errors.ActionError: no room\noutput:\n' in text
    )
    assert "matrix.py" not in text
    assert text.count("  line ") == 9
    assert "  line 29\n  WARNING test: now it comes\n" in text
    assert "adapter leased" not in text


def test_an_adapters_traceback_without_a_frame_left_is_not_shown(lab: "Lab") -> None:
    own = Path(summary.__code__.co_filename).parents[2] / "adapters/nio/device.py"
    heading = "Traceback (most recent call last):\n"
    trace = (
        f'{TRACEBACK}\n{heading}  File "{own}", line 3, in until\n    raise ActionFailed("no room")\n'
        f"trafficlight.adapters.sdk.adapter.ActionFailed: no room\n [{own}:3]\n"
    )
    lab.start()
    lab.run(lab.plan({"alice": "Bad"}), "failure", "no room", traceback=trace)
    text = "\n".join(summary(lab.record, lab.folder.path))
    assert text.count(heading) == 1
    assert "ActionFailed" not in text
    # Of another's adapter it says where.
    lab.run(
        lab.plan({"alice": "Other"}), "failure", "no", traceback=trace.replace(str(own), "/home/kim/my.py")
    )
    text = "\n".join(summary(lab.record, lab.folder.path))
    assert text.count(heading) == 3
    assert "ActionFailed: no room" in text


def test_where_a_test_waited_is_a_line_of_the_test(lab: "Lab") -> None:
    trace = (
        'Traceback (most recent call last):\n  File "/home/kim/my_test.py", line 4, in run\n'
        f'    await asyncio.sleep(9)\n  File "{asyncio.tasks.__file__}", line 649, in sleep\n    await x\n'
    )
    lab.start()
    lab.run(lab.plan({"alice": "Slow"}), "error", "not done within 2 s", traceback=trace)
    text = "\n".join(summary(lab.record, lab.folder.path))
    assert "at /home/kim/my_test.py:4\n" in text


def test_what_is_shown_of_tracebacks_is_bounded(lab: "Lab") -> None:
    lab.start()
    for number in range(100):
        long = "Traceback:\n" + "".join(f"line {number}\n" for number in range(1000))
        lab.run(lab.plan({"alice": f"T{number}"}), "error", "long", traceback=long)
    lines = summary(lab.record, lab.folder.path)
    assert len(lines) < 50 * 3 + 10 * 20
    assert lines[4 + 8].strip() == "... 985 lines left out ..."


def test_a_broken_lab_does_not_fill_the_screen(lab: "Lab") -> None:
    lab.start()
    for number in range(500):
        lab.run(lab.plan({"alice": f"T{number}"}), "error", "no server")
    assert len(summary(lab.record, lab.folder.path)) < 200
