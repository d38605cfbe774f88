"""`trafficlight submit`, `watch`, `sessions` and `cancel`: the sessions of a running coordinator."""

import asyncio
import os
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
    as_seen_there,
    with_coordinator,
)
from trafficlight.cli.options import request_options, selection_options
from trafficlight.cli.progress import Progress, is_live, print_header, print_summary
from trafficlight.coordinator.provenance import job_in
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
from trafficlight.suites.selection import SessionRequest
from trafficlight.text import columns, count, utc_time
from trafficlight.version import VERSION


@click.command("sessions")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N")
@with_coordinator
async def sessions(limit: int, coordinator: Coordinator) -> None:
    """List the sessions in the results folder of a running coordinator, the newest first."""
    listed, total = await coordinator.sessions(limit)
    rows = []
    for session in listed:
        numbers = session.outcomes or session.counts  # an earlier coordinator states no outcomes
        counts = " · ".join(f"{number} {what}" for what, number in numbers.items() if number)
        state = "interrupted" if session.interrupted else session.state
        notes = [session.stopped, *session.waiting]
        rows.append((session.id, state, utc_time(session.started), counts, "; ".join(filter(None, notes))))
    for line in columns(rows):
        click.echo(line)
    if total > len(listed):
        click.echo(f"... and {total - len(listed)} more (option --limit)")


@click.command("cancel")
@click.argument("session")
@click.argument("case", required=False)
@with_coordinator
async def cancel(session: str, case: str | None, coordinator: Coordinator) -> None:
    """Cancel a session of a running coordinator, or one of its cases.

    SESSION is the id of a session, or latest. Running cases are cancelled and end as errors; waiting ones are
    skipped.
    """
    facts = await coordinator.cancel(session, case)
    what = f"cancelled session {facts.id}" if case is None else f"cancelled {case} of session {facts.id}"
    click.echo(what)


@click.command("submit")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@selection_options
@request_options
@click.option(
    "--strict", is_flag=True, help="Exit code 3 for an unsupported case, an unexpected success or a warning."
)
@with_coordinator
@click.option("--watch", is_flag=True, help="Follow the session, and exit with its exit code.")
async def submit(
    targets: tuple[str, ...], request: SessionRequest, strict: bool, watch: bool, coordinator: Coordinator
) -> int:
    """Start a session on a running coordinator.

    PATH is a path on the coordinator's machine: a test file, a directory, or a symbol such as
    file_test.py::Class. Default: what the coordinator is configured to run. If the coordinator runs on this
    machine, paths may be relative.

    Exit code: 0 when the session has started; with --watch the exit code of the session.
    """
    seen = await asyncio.to_thread(as_seen_there, targets, coordinator.url)
    told = {"targets": list(seen), "strict": strict, "job": job_in(os.environ)}
    session = await coordinator.submit(request.model_copy(update=told))
    if watch:
        return await follow(coordinator, session)
    click.echo(" · ".join(header(coordinator, session)))
    for problem in session.problems:
        click.echo(f"problem: {problem}", err=True)
    return 0


# Seconds to wait for a coordinator to restart and resume the session.
_PATIENCE = 300.0
_BACKOFF = Backoff(first=0.5, longest=3.0)
# Temporary statuses: the session is not resumed yet, or the server is starting or stopping.
_PASSING = frozenset({404, 500, 502, 503, 504})
# Events before the first case starts; the width of the lines is known after them.
_PLANNING = SessionStarted | Problem | CasePlanned


@click.command("watch")
@click.argument("session", default="latest")
@with_coordinator
async def watch(session: str, coordinator: Coordinator) -> int:
    """Follow a session of a running coordinator.

    SESSION is the id of a session. Default: the latest. Ctrl-C stops watching; the session continues. If the
    coordinator restarts, watching resumes with the session.

    Exit code: that of the session; 3 if it was abandoned; 130 after Ctrl-C.
    """
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
    print_summary(console, summary(record, Path(session.folder)), Path(session.folder))
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
