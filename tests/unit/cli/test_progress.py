"""What the progress of a session looks like on a terminal, and where there is none."""

import asyncio
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from trafficlight.cli.progress import Progress, is_live, print_header, print_summary
from trafficlight.results.case import CaseRecord
from trafficlight.results.events import CaseEnded, CasePlanned, CaseState, CaseWaits, Event, Expected, State
from trafficlight.results.record import SessionRecord

SHORT = "chat_test.py::Short"
LONG = "services/chat/end_to_end/" + "a" * 60 + "_test.py::Conversation[alice=Nio,bob=Nio,server=Dendrite]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Session:
    """A session of two cases that is shown on a console."""

    def __init__(self, console: Console, *, live: bool = False) -> None:
        self.record = SessionRecord(id="1")
        for case in (SHORT, LONG):
            planned = CasePlanned(case=case, suite="", file="", line=1, class_name="", method="run")
            self._apply(planned)
        self.progress = Progress(self.record, console, live=live)

    def _apply(self, event: Event) -> None:
        self.record.apply(replace(event, session="1"), self.record.last_sequence + 1)

    def __call__(self, event: CaseState | CaseWaits | CaseEnded) -> None:
        self._apply(event)
        self.progress(event)


def visible(text: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).splitlines()


def test_a_case_is_one_line_of_a_terminal() -> None:
    file = Terminal()
    session = Session(Console(file=file, width=80, force_terminal=True))
    session(CaseState(case=LONG, attempt=1, state=State.RUNNING))
    session(CaseEnded(case=LONG, attempt=1, state=State.FAILURE, message="m" * 300, seconds=75.0))
    lines = visible(file.getvalue())
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[1] == "  failure   1 min 15 s  …Conversation[alice=Nio,bob=Nio,server=Dendrite]"


def test_a_failed_attempt_that_is_tried_again_says_so() -> None:
    file = io.StringIO()
    session = Session(Console(file=file, width=80))
    message = "no room\nat all"
    session(
        CaseEnded(case=SHORT, attempt=1, state=State.FAILURE, message=message, seconds=1.0, will_retry=True)
    )
    assert visible(file.getvalue()) == [f"  failure        1.0 s  {SHORT}", "      tried again: no room"]


def test_an_expected_failure_has_its_reason_in_place_of_its_message() -> None:
    file = io.StringIO()
    session = Session(Console(file=file, width=200, force_terminal=True, color_system="standard"))
    known = Expected(reason="It drops the start.", outcome="failure")
    session(CaseEnded(case=SHORT, attempt=1, state=State.FAILURE, message="no room", expected=known))
    assert visible(file.getvalue())[1:] == ["      expected: It drops the start."]
    assert "\x1b[2mfailure" in file.getvalue(), "it is dimmed, not red"
    session(CaseEnded(case=LONG, attempt=1, state=State.ERROR, message="no server", expected=known))
    assert visible(file.getvalue())[3:] == ["      no server"]
    assert "\x1b[1;35merror" in file.getvalue()


@pytest.mark.parametrize(
    ("case", "shown"),
    [
        ("a_test.py::Short", "a_test.py::Short"),
        (f"{'a' * 50}_test.py::Talks.test_one[alice=Nio]", "…Talks.test_one[alice=Nio]"),
        (f"a_test.py::{'A' * 50}.test_one[alice=Nio,bob=Nio]", "…test_one[alice=Nio,bob=Nio]"),
        (f"a_test.py::A.test_{'a' * 30}[{'b' * 40}]", f"…test_{'a' * 21}…{'b' * 27}]"),
    ],
)
def test_a_long_id_loses_first_what_distinguishes_least(case: str, shown: str) -> None:
    record = SessionRecord(cases={one: CaseRecord(one, "") for one in (LONG, case)})
    progress = Progress(record, Console(file=Terminal(), width=80), live=False)
    assert progress._name(case).rstrip() == shown


def test_a_live_display_fits_and_says_why_cases_wait() -> None:
    file = Terminal()
    console = Console(file=file, width=80, force_terminal=True)
    session = Session(console, live=True)
    session(CaseState(case=LONG, attempt=1, state=State.RUNNING))
    session(CaseWaits(cases=(SHORT,), reason="needs 2 x Nio (0 free, 0 registered)"))
    with session.progress.shown():
        pass
    lines = [line for line in visible(file.getvalue()) if line.strip()]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  0 of 2 ended · 1 running · 1 waiting · ") for line in lines)
    assert "  1 waiting: needs 2 x Nio (0 free, 0 registered)" in lines


async def test_forced_colours_are_no_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    assert not is_live(console)
    session = Session(console)
    session(CaseWaits(cases=(SHORT, LONG), reason="needs 2 x Nio"))
    await asyncio.sleep(0.001)
    session(CaseEnded(case=LONG, attempt=1, state=State.SUCCESS, seconds=1.0))
    assert visible(file.getvalue())[0] == "  2 cases waiting: needs 2 x Nio"
    assert LONG in file.getvalue()
    assert set(re.findall(r"\x1b\[[\d;?]*([A-Za-z])", file.getvalue())) == {"m"}


async def test_a_log_says_once_why_cases_wait() -> None:
    """However many events say so, with the number of all cases."""
    file = io.StringIO()
    session = Session(Console(file=file))
    with session.progress.shown():
        for case in (SHORT, LONG, SHORT):
            session(CaseWaits(cases=(case,), reason="needs 2 x Nio"))
        await asyncio.sleep(0.001)
        session(CaseWaits(cases=(SHORT,), reason="needs 2 x Nio"))
        await asyncio.sleep(0.001)
        session(CaseState(case=SHORT, attempt=1, state=State.RUNNING))
        session(CaseWaits(cases=(LONG,), reason="waiting for other cases to end"))
        await asyncio.sleep(0.001)
    assert [line.split()[0] for line in visible(file.getvalue())] == ["2", "running"]


async def test_a_log_says_again_why_cases_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafficlight.cli.progress._AGAIN", 0.01)
    file = io.StringIO()
    session = Session(Console(file=file))
    with session.progress.shown():
        session(CaseWaits(cases=(SHORT, LONG), reason="needs 2 x Nio"))
        async with asyncio.timeout(60):
            while len(visible(file.getvalue())) < 3:
                await asyncio.sleep(0.001)
    assert set(visible(file.getvalue())) == {"  2 cases waiting: needs 2 x Nio"}


def test_a_live_display_says_the_rate_and_what_runs_longest_first() -> None:
    file = Terminal()
    session = Session(Console(file=file, width=100, force_terminal=True), live=True)
    for case in (LONG, SHORT):
        session(CaseState(case=case, attempt=1, state=State.RUNNING))
    for _ in range(5):
        session(CaseEnded(case=LONG, attempt=1, state=State.SUCCESS, seconds=1.0, will_retry=True))
        session(CaseState(case=LONG, attempt=1, state=State.RUNNING))
    text = [str(line) for line in session.progress._now().renderables]
    assert [line.split()[0] for line in text[:2]] == ["running", "running"]
    assert (SHORT in text[0], SHORT in text[1]) == (True, False)
    assert re.search(r" · \d+/min · .* left$", text[2])


@pytest.mark.parametrize(("terminal", "linked"), [(True, True), (False, False)])
def test_the_path_of_the_report_is_a_link_on_a_terminal(*, terminal: bool, linked: bool) -> None:
    file = Terminal() if terminal else io.StringIO()
    console = Console(file=file, width=80, color_system="standard" if terminal else None)
    print_summary(console, ["report  r/report.html, after 3 s", "1 success   r"], Path("/tmp/r"))
    assert ("]8;" in file.getvalue() and "file:///tmp/r/report.html" in file.getvalue()) is linked
    assert file.getvalue().endswith("1 success   r\n")


@pytest.mark.parametrize(("columns", "lines"), [(80, 2), (120, 1)])
def test_a_url_is_not_broken(columns: int, lines: int) -> None:
    file = Terminal()
    text, url = "trafficlight 0.1.0 · session 2026-11-21--001 · 6 cases", "http://127.0.0.1:37989/status"
    print_header(Console(file=file, width=columns, highlight=False), text, url)
    shown = visible(file.getvalue())
    assert len(shown) == lines
    assert shown[-1].endswith(url)
