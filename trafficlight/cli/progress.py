"""Progress of a session: live on a terminal, plain lines otherwise."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from trafficlight.results.case import INTERRUPTED, CaseRecord
from trafficlight.results.events import FINAL, CaseEnded, CaseState, State
from trafficlight.results.record import SessionRecord
from trafficlight.text import duration, escape_control

_STYLES = {
    State.SUCCESS: "green",
    State.FAILURE: "bold red",
    State.ERROR: "bold magenta",
    State.SKIPPED: "dim",
    State.PREPARING: "cyan",
    State.RUNNING: "blue",
    State.WAITING: "dim",
}
# Cases shown live at the same time; the rest is counted.
_SHOWN = 12
# Columns that ids are padded to.
_WIDEST = 100


class Progress:
    """Prints the progress of a session, as a reader of the journal.

    :param record: the session's record; it is up to date before this reader is called.
    :param console: receives the output.
    """

    def __init__(self, record: SessionRecord, console: Console) -> None:
        self._record = record
        self._console = console
        self._live: Live | None = None
        self._since: dict[str, float] = {}
        self._width = min(_WIDEST, max((len(case) for case in record.cases), default=0))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show running cases live, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._now, console=self._console, refresh_per_second=8, transient=True
        ) as live:
            self._live = live
            yield
        self._live = None

    def __call__(self, event: CaseState | CaseEnded) -> None:
        """Show that a case started or ended."""
        if (case := self._record.cases.get(event.case)) is None:
            return
        if isinstance(event, CaseState):
            self._since.setdefault(case.id, time.monotonic())
            if not self._console.is_terminal and case.state is State.RUNNING:
                self._line(case, case.state, "")
        else:
            self._since.pop(case.id, None)
            if event.phase == INTERRUPTED and event.will_retry:
                text = (
                    f"  {case.id:<{self._width}}   interrupted: the coordinator exited; the case runs again"
                )
                self._console.print(Text(text, style="dim"), soft_wrap=True)
            else:
                self._line(case, event.state, duration(event.seconds))

    def _line(self, case: CaseRecord, state: State, took: str) -> None:
        line = Text.assemble(f"  {case.id:<{self._width}}   ", (f"{state:<9}", _STYLES[state]), took)
        self._console.print(line, soft_wrap=True)
        if state in (State.FAILURE, State.ERROR) and case.message:
            self._console.print(
                Text(f"      {escape_control(case.message.splitlines()[0])}", style="dim"), soft_wrap=True
            )

    def _now(self) -> Group:
        """Return the running cases and the counts."""
        now = time.monotonic()
        lines = []
        for case_id, since in list(self._since.items())[:_SHOWN]:
            case = self._record.cases[case_id]
            age = f"{duration(now - since):>12}"
            lines.append(Text.assemble((f"  {case.state:<10}", _STYLES[case.state]), age, f"  {case_id}"))
        counts = self._record.counts
        ended = sum(counts[state] for state in FINAL)
        parts = [f"{ended} of {len(self._record.cases)} ended"]
        parts += [f"{counts[state]} {state}" for state in (State.PREPARING, State.RUNNING, State.WAITING)]
        lines.append(Text("  " + " · ".join(parts), style="dim"))
        if not self._since and (reason := self._waiting()):
            lines.append(Text(f"  {reason}", style="dim"))
        return Group(*lines)

    def _waiting(self) -> str:
        return next((case.reason for case in self._record.cases.values() if case.state is State.WAITING), "")
