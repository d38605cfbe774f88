"""Progress of a session: live on a terminal, plain lines otherwise."""

import asyncio
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.style import Style
from rich.text import Text

from trafficlight.results.case import INTERRUPTED, CaseRecord
from trafficlight.results.events import FINAL, CaseEnded, CaseState, CaseWaits, State
from trafficlight.results.history.changes import read_changes
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.changes import step_summary
from trafficlight.text import count, duration, escape_control, single_line

_STYLES = {
    State.SUCCESS: "green",
    State.FAILURE: "bold red",
    State.ERROR: "bold magenta",
    State.SKIPPED: "dim",
    State.PREPARING: "cyan",
    State.RUNNING: "blue",
    State.WAITING: "dim",
}
# Cases and reasons shown live at the same time; the rest is counted.
_SHOWN, _REASONS = 12, 3
# Seconds after which a log says again why cases wait.
_AGAIN = 60.0
# Columns of the state and the time in front of an id, and the least that is shown of one.
_BESIDES, _NARROWEST = 24, 26
_MINUTE = 60.0
# Cases that must have ended before a rate says something.
_FEW = 5


def is_live(console: Console) -> bool:
    """Return whether a console can show a live display: colours that are forced do not make it a terminal."""
    return console.is_interactive and console.file.isatty() and not os.environ.get("CI")


def print_header(console: Console, text: str, url: str) -> None:
    """Print the first line of a session; on a terminal, a URL that does not fit gets its own line."""
    between = "\n" if console.file.isatty() and cell_len(f"{text} · {url}") > console.width else " · "
    console.print(f"{text}{between}{url}", soft_wrap=True, markup=False)


def print_summary(console: Console, lines: Iterable[str], folder: Path) -> None:
    """Print the summary of a session; a terminal that can opens the report on a click.

    :param folder: the session's folder.
    """
    for line in lines:
        link = (folder.absolute() / "report.html").as_uri() if line.startswith("report  ") else None
        console.print(Text(line, Style(link=link)), soft_wrap=True)


def append_step_summary(record: SessionRecord, folder: Path) -> None:
    """Append the summary of a session to that of a step of GitHub Actions, if this runs in one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        text = step_summary(record, read_changes(folder), folder)
        with suppress(OSError), open(path, "a", encoding="utf-8", errors="replace") as file:
            file.write(text)


@contextmanager
def show_work(console: Console, what: str, *, live: bool) -> Iterator[None]:
    """Show what is being done, and that it goes on."""
    if not live:
        yield
        return
    spinner = Spinner("dots", Text(what, "dim"))
    with _live(console, lambda: spinner):
        yield


def _live(console: Console, render: Callable[[], RenderableType]) -> Live:
    return Live(
        get_renderable=render,
        console=console,
        refresh_per_second=8,
        transient=True,
        redirect_stderr=sys.stderr.isatty(),
    )


class Progress:
    """Prints the progress of a session, as a reader of the journal.

    :param record: the session's record; it is up to date before this reader is called.
    :param live: whether to show running cases live.
    """

    def __init__(self, record: SessionRecord, console: Console, *, live: bool) -> None:
        self._record = record
        self._console = console
        self._live = live
        self._since: dict[str, float] = {}
        self._began = time.monotonic()
        # Why cases waited when that was last printed, and when.
        self._printed: frozenset[str] = frozenset()
        self._printed_at = self._began
        self._timer: asyncio.TimerHandle | None = None
        self._width = max(_NARROWEST, console.width - _BESIDES)
        self._ends: deque[float] = deque()  # of the last minute

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show running cases live, if that was asked for."""
        if not self._live:
            try:
                yield
            finally:
                if self._timer is not None:
                    self._timer.cancel()
            return
        with _live(self._console, self._now):
            yield

    def __call__(self, event: CaseState | CaseWaits | CaseEnded) -> None:
        """Show that a case started or ended, or why cases wait while none runs."""
        if isinstance(event, CaseWaits):
            if not self._live:
                self._print_reasons_in(0)  # after the events about the other cases
            return
        if (case := self._record.cases.get(event.case)) is None:
            return
        if isinstance(event, CaseState):
            self._since.setdefault(case.id, time.monotonic())
            if not self._live and case.state is State.RUNNING:
                self._line(case, case.state, "")
        else:
            self._since.pop(case.id, None)
            self._ends.append(time.monotonic())
            if event.phase == INTERRUPTED and event.will_retry:
                self._print(Text(f"  {'interrupted':<20}  {self._name(case.id)}", style="dim"))
                why = single_line(event.message.removeprefix("interrupted: "))
                self._print(Text(f"      {why}; the case runs again", style="dim"))
            else:
                self._line(case, event.state, duration(event.seconds), again=event.will_retry)

    def _print_reasons_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._print_reasons)

    def _print_reasons(self) -> None:
        """Print why cases wait while none runs: when that has changed, and again when it stays so."""
        self._print_reasons_in(_AGAIN)
        reasons, now = dict(self._reasons()), time.monotonic()
        if self._since or self._record.stopped:
            return
        if self._printed.issuperset(reasons) and now - self._printed_at < _AGAIN:
            return
        self._printed, self._printed_at = frozenset(reasons), now
        for reason, number in reasons.items():
            self._print(Text(f"  {count(number, 'case')} waiting: {reason}", "dim"))

    def _line(self, case: CaseRecord, state: State, took: str, *, again: bool = False) -> None:
        if state not in (State.FAILURE, State.ERROR):
            self._print(self._row(case.id, state, took, _STYLES[state]))
            return
        known = case.expected if case.expected is not None and case.expected.covers(state) else None
        self._print(self._row(case.id, state, took, "dim" if known else _STYLES[state]))
        why = single_line(escape_control(known.reason if known else case.message))
        note = "expected: " if known else "tried again: " if again else ""
        if why or note:
            self._print(Text(f"      {note}{why}", style="dim"))

    def _row(self, case_id: str, state: State, took: str, style: str) -> Text:
        """Return a case in one line, state and time first."""
        return Text.assemble("  ", (f"{state:<9}", style), f" {took:>10}  {self._name(case_id)}")

    def _print(self, line: Text) -> None:
        """Print one line; a terminal shows what fits, the summary has the rest."""
        if self._console.file.isatty():
            line.truncate(self._console.width, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)

    def _name(self, case_id: str) -> str:
        """Return an id as it is shown.

        On a terminal, a longer one loses its path, then its class, and is then cut in its middle.
        """
        name, width = escape_control(case_id), self._width
        if self._console.file.isatty() and cell_len(name) > width:
            test = name.rpartition("::")[2]
            head, bracket, cell = test.partition("[")
            method = f"…{head.rpartition('.')[2]}{bracket}{cell}"
            name = f"…{test}" if cell_len(test) < width else method
            if cell_len(name) > width:
                end = width // 2
                name = set_cell_size(name, width - end - 1) + "…" + name[-end:]
        return name

    def _now(self) -> Group:
        """Return the running cases, the counts, and why cases wait."""
        now = time.monotonic()
        lines = []
        # What has run longest is in front: they are in the order in which they started.
        for case_id, since in list(self._since.items())[:_SHOWN]:
            state = self._record.cases[case_id].state
            lines.append(self._row(case_id, state, duration(now - since), _STYLES[state]))
        counts = self._record.counts
        ended = sum(counts[state] for state in FINAL)
        parts = [f"{ended} of {len(self._record.cases)} ended"]
        parts += [
            f"{counts[state]} {state}"
            for state in (State.PREPARING, State.RUNNING, State.WAITING)
            if counts[state]
        ]
        parts += [duration(now - self._began), *self._rate(now, len(self._record.cases) - ended)]
        lines.append(Text(f"  {' · '.join(parts)}", "dim"))
        lines += [Text(f"  {number} waiting: {reason}", "dim") for reason, number in self._reasons()]
        for line in lines:
            line.truncate(self._console.width, overflow="ellipsis")
        return Group(*lines)

    def _rate(self, now: float, left: int) -> list[str]:
        """Return how many cases end in a minute, and how long the others take at that rate."""
        while self._ends and self._ends[0] < now - _MINUTE:
            self._ends.popleft()
        if len(self._ends) < _FEW:
            return []
        seconds = max(1.0, min(_MINUTE, now - self._began))
        rate = len(self._ends) / seconds
        return [f"{rate * 60:.0f}/min", *([f"{duration(left / rate)} left"] if left else [])]

    def _reasons(self) -> list[tuple[str, int]]:
        waiting = (case for case in self._record.cases.values() if case.state is State.WAITING)
        reasons = Counter(single_line(escape_control(case.reason)) for case in waiting if case.reason)
        return reasons.most_common(_REASONS)
