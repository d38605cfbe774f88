"""`trafficlight watch`: follow a session of a running coordinator, and take its exit code."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console

from trafficlight.adapters.sdk.backoff import Backoff
from trafficlight.cli.client import (
    Coordinator,
    CoordinatorRefusedError,
    CoordinatorUnreachableError,
    SessionFacts,
    coordinator_options,
)
from trafficlight.cli.progress import Progress
from trafficlight.errors import TrafficlightError
from trafficlight.results.events import CaseEnded, CasePlanned, CaseState, Event, Problem, SessionStarted
from trafficlight.results.record import ExitCode, SessionRecord
from trafficlight.results.reports.summary import summary
from trafficlight.text import count
from trafficlight.version import VERSION

# Seconds to wait for a coordinator that is being restarted, and for it to go on with the session.
_PATIENCE = 300.0
_BACKOFF = Backoff(first=0.5, longest=3.0)
# Refusals that may pass: not there yet, and a server that fails or ends.
_PASSING = frozenset({404, 500, 502, 503, 504})
# What is said before the first case moves; the width of the lines is known behind that.
_PLANNING = SessionStarted | Problem | CasePlanned


@click.command("watch")
@click.argument("session", default="latest")
@coordinator_options
def command(session: str, url: str, token: str | None) -> int:
    """Follow a session of a running coordinator, as run shows it.

    SESSION is its id; the latest where there is none. Ctrl-C ends only the watching. Where the coordinator is
    restarted, watching goes on with the session.

    Exit code: that of the session; 3 where it was abandoned; 130 where only the watching was ended.
    """
    return asyncio.run(_watch(session, url, token))


async def _watch(session: str, url: str, token: str | None) -> int:
    async with Coordinator.at(url, token) as coordinator:
        return await follow(coordinator, await coordinator.session(session))


async def follow(coordinator: Coordinator, session: SessionFacts) -> int:
    """Show how a session goes until it has ended, and return its exit code.

    :raises CoordinatorRefusedError: the session may not be seen, or is gone.
    :raises CoordinatorUnreachableError: the coordinator has not answered for too long.
    """
    console = Console(highlight=False)
    console.print(header(coordinator, session), soft_wrap=True)
    record = SessionRecord()
    try:
        with _Shown(record, console) as shown:
            await _follow(coordinator, session, record, shown)
    except asyncio.CancelledError:
        click.echo(f"session {session.id} goes on: trafficlight watch {session.id}", err=True)
        raise
    for line in summary(record, Path(session.folder)):
        click.echo(line)
    if record.ended is None:
        click.echo(f"session {session.id} was abandoned: its coordinator ended before it did")
    return int(ExitCode.LAB_ERROR if record.exit_code is None else record.exit_code)


def header(coordinator: Coordinator, session: SessionFacts) -> str:
    """Return the first line: which session, how much, and where to look."""
    cases = count(session.cases, "case")
    return f"trafficlight {VERSION} · session {session.id} · {cases} · {coordinator.url}/status/{session.id}"


class _Shown:
    """What a person sees. It begins with the first case that moves, as the width is known then."""

    def __init__(self, record: SessionRecord, console: Console) -> None:
        self._record = record
        self._console = console
        self._progress: Progress | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        self._record.apply(event)
        if self._progress is None and not isinstance(event, _PLANNING):
            self._progress = Progress(self._record, self._console)
            self._stack.enter_context(self._progress.shown())
        if self._progress is not None and isinstance(event, CaseState | CaseEnded):
            self._progress(event)

    def note(self, text: str) -> None:
        """Say what is not part of the session."""
        self._console.print(f"  {text}", style="dim", markup=False, soft_wrap=True)


async def _follow(
    coordinator: Coordinator, session: SessionFacts, record: SessionRecord, shown: _Shown
) -> None:
    """Take a session's events in until it has ended, through breaks of the connection.

    Of one that was abandoned, those that there are.
    """
    patient_until: float | None = None
    delays = iter(_BACKOFF.delays())
    while True:
        trouble: TrafficlightError
        complete = False
        try:
            async for event in coordinator.events(session.id, record.last_sequence):
                patient_until, delays = None, iter(_BACKOFF.delays())
                shown(event)
            complete = True
            trouble = CoordinatorUnreachableError(coordinator.url, "the session stands still")
        except CoordinatorUnreachableError as error:
            trouble = error
        except CoordinatorRefusedError as error:
            # A coordinator that has just started may not have gone on with its sessions yet.
            if error.status not in _PASSING:
                raise
            trouble = error
        if record.ended is not None or (session.state == "abandoned" and complete):
            return
        if patient_until is None:
            patient_until = time.monotonic() + _PATIENCE
            shown.note(f"{trouble}; trying again")
        if time.monotonic() > patient_until:
            raise trouble
        await asyncio.sleep(next(delays))
