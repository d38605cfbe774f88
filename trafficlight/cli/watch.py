"""`trafficlight watch`: follow a session of a running coordinator."""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from trafficlight.adapters.sdk.coordinator import Backoff
from trafficlight.cli.client import (
    Coordinator,
    CoordinatorRefusedError,
    CoordinatorUnreachableError,
    coordinator_options,
)
from trafficlight.cli.progress import Progress, is_live, print_header
from trafficlight.errors import TrafficlightError
from trafficlight.http.api.bodies import SessionBody
from trafficlight.results.events import (
    CaseEnded,
    CasePlanned,
    CaseState,
    CaseWaits,
    Event,
    Problem,
    SessionStarted,
)
from trafficlight.results.record import ExitCode, SessionRecord
from trafficlight.results.reports.summary import summary
from trafficlight.text import count
from trafficlight.version import VERSION

# Seconds to wait for a coordinator to restart and resume the session.
_PATIENCE = 300.0
_BACKOFF = Backoff(first=0.5, longest=3.0)
# Temporary statuses: the session is not resumed yet, or the server is starting or stopping.
_PASSING = frozenset({404, 500, 502, 503, 504})
# Events before the first case starts; the width of the lines is known after them.
_PLANNING = SessionStarted | Problem | CasePlanned


@click.command("watch")
@click.argument("session", default="latest")
@coordinator_options
def command(session: str, url: str, token: str | None) -> int:
    """Follow a session of a running coordinator.

    SESSION is the id of a session. Default: the latest. Ctrl-C stops watching; the session continues. If the
    coordinator restarts, watching resumes with the session.

    Exit code: that of the session; 3 if it was abandoned; 130 after Ctrl-C.
    """
    return asyncio.run(_watch(session, url, token))


async def _watch(session: str, url: str, token: str | None) -> int:
    async with Coordinator.at(url, token) as coordinator:
        return await follow(coordinator, await coordinator.session(session))


async def follow(coordinator: Coordinator, session: SessionBody) -> int:
    """Show a session until it ends, and return its exit code.

    :raises CoordinatorRefusedError: access is denied, or the session does not exist.
    :raises CoordinatorUnreachableError: the coordinator does not answer within the patience.
    """
    console = Console(file=sys.stdout, highlight=False)
    print_header(console, *header(coordinator, session))
    record = SessionRecord()
    try:
        with _Shown(record, console) as shown:
            await _follow(coordinator, session, record, shown)
    except asyncio.CancelledError:
        click.echo(
            f"session {session.id} continues; to follow it again: trafficlight watch {session.id}", err=True
        )
        raise
    for line in summary(record, Path(session.folder)):
        click.echo(line)
    if record.ended is None:
        click.echo(f"session {session.id} was abandoned: its coordinator exited before the session ended")
    return int(ExitCode.LAB_ERROR if record.exit_code is None else record.exit_code)


def header(coordinator: Coordinator, session: SessionBody) -> tuple[str, str]:
    """Return the first line, session and number of cases, and its URL."""
    cases = count(session.cases, "case")
    url = f"{coordinator.url}/status/{session.id}"
    return f"trafficlight {VERSION} · session {session.id} · {cases}", url


class _Shown(ExitStack):
    """Shows progress from the first case that starts, when the width of the lines is known."""

    def __init__(self, record: SessionRecord, console: Console) -> None:
        self._record = record
        self._console = console
        self._progress: Progress | None = None
        super().__init__()

    def __call__(self, event: Event) -> None:
        """Apply an event."""
        self._record.apply(event)
        if self._progress is None and not isinstance(event, _PLANNING):
            live = is_live(self._console)
            self._progress = Progress(self._record, self._console, live=live)
            self.enter_context(self._progress.shown())
        if self._progress is not None and isinstance(event, CaseState | CaseWaits | CaseEnded):
            self._progress(event)

    def note(self, text: str) -> None:
        """Print a line that is not part of the session."""
        self._console.print(f"  {text}", style="dim", markup=False, soft_wrap=True)


async def _follow(
    coordinator: Coordinator, session: SessionBody, record: SessionRecord, shown: _Shown
) -> None:
    """Apply the events of a session until it ends, and reconnect when the connection breaks.

    Of an abandoned session, the events that exist.
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
            trouble = CoordinatorUnreachableError(coordinator.url, "the session makes no progress")
        except CoordinatorUnreachableError as error:
            trouble = error
        except CoordinatorRefusedError as error:
            # A coordinator that has just started may not have resumed its sessions yet.
            if error.status not in _PASSING:
                raise
            trouble = error
        if record.ended is not None or (session.state == "abandoned" and complete):
            return
        if patient_until is None:
            patient_until = time.monotonic() + _PATIENCE
            shown.note(f"{trouble}; retrying")
        if time.monotonic() > patient_until:
            raise trouble
        await asyncio.sleep(next(delays))
