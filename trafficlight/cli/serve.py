"""`trafficlight serve`: a coordinator for adapters that run elsewhere."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from trafficlight.cli.options import lab_options, load_settings
from trafficlight.cli.runtime import (
    adapters_running,
    command_line,
    lab_serving,
    run_lab,
    stopping_on_signals,
)
from trafficlight.config import Settings
from trafficlight.coordinator.adapter import Adapter
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.pool import Pool
from trafficlight.coordinator.supervisor import Program, programs_of
from trafficlight.errors import ShuttingDownError
from trafficlight.http.app import DEFAULT_PORT
from trafficlight.results.events import AdapterRegistered, SessionEnded, SessionStarted
from trafficlight.results.record import ExitCode
from trafficlight.results.reports.presentation import status_counts
from trafficlight.results.reports.summary import summary
from trafficlight.suites.selection import SessionRequest
from trafficlight.text import count, escape_control, single_line
from trafficlight.version import VERSION

# Seconds between two looks at the adapters.
_LOOK = 1.0
# Seconds without an adapter after which a program has left; most register again after each case.
_AWAY = 30.0
_NAMED = 5  # programs of one line


class Arrivals:
    """Prints which programs with adapters come and leave.

    :param print_line: prints a line.
    """

    def __init__(self, pool: Pool, print_line: Callable[[str], None]) -> None:
        self._pool = pool
        self._print = print_line
        self._came: dict[str, str] = {}
        self._here: set[str] = set()

    def __call__(self, event: AdapterRegistered) -> None:
        """Note the program of an adapter that registered."""
        adapter = self._pool.known(event.adapter)
        if adapter is not None and adapter.program not in self._here:
            self._came[adapter.program] = _described(adapter)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK)

    def look(self) -> None:
        """Print what has changed since the last look."""
        if self._came:
            self._print(
                f"{count(len(self._came), 'adapter program')} came: {_list(sorted(self._came.values()))}"
            )
        self._here.update(self._came)
        self._came.clear()
        left = [one for one in sorted(self._here) if (self._pool.since_exit(one) or 0.0) >= _AWAY]
        if left:
            reasons = [f"{one} ({adapter.reason})" for one in left if (adapter := self._pool.named(one))]
            self._print(f"{count(len(left), 'adapter program')} left: {_list(reasons)}")
        self._here.difference_update(left)


def _described(adapter: Adapter) -> str:
    """Return a program's name, with what it is where the name does not say that."""
    if adapter.type in adapter.program:
        return adapter.program
    return f"{adapter.type} {adapter.program} at {adapter.address}".removesuffix(" at ")


def _list(texts: list[str]) -> str:
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return ", ".join([*(single_line(escape_control(text)) for text in texts[:_NAMED]), *more])


@click.command("serve")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@click.option(
    "--adapters", "with_adapters", is_flag=True, help="Also start the adapters of the settings, as run does."
)
@click.option(
    "--exit-when-done",
    is_flag=True,
    help="Exit when all sessions have ended, resumed ones included, with the most severe exit code.",
)
@lab_options
def command(
    targets: tuple[str, ...], with_adapters: bool, exit_when_done: bool, config: Path | None, **flags: Any
) -> int:
    """Run a coordinator for adapters that run elsewhere.

    Starts a session of the PATHs, or of the setting TESTS, and keeps serving its results until SIGTERM or
    Ctrl-C. Listens on port 5000 by default.
    """
    settings = load_settings(config, targets, **flags)
    if settings.port == 0 and flags.get("port") is None and "port" not in settings.model_fields_set:
        settings = settings.model_copy(update={"port": DEFAULT_PORT})
    # Before anything starts, because an entry may be wrong.
    programs = programs_of(settings.adapters) if with_adapters else []
    try:
        return run_lab(_serve(settings, targets, programs, exit_when_done))
    except ShuttingDownError:
        return ExitCode.INTERRUPTED


async def _serve(
    settings: Settings, targets: tuple[str, ...], programs: Sequence[Program], exit_when_done: bool
) -> int:
    def print_line(line: str) -> None:
        click.echo(f"  {line}")

    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        lab, url = await stack.enter_async_context(lab_serving(settings, print_line, resumable=True))
        click.echo(f"trafficlight {VERSION} · {url}/status")
        stack.enter_context(stopping_on_signals(lab, over.set))
        announced = stack.enter_context(_announced_sessions(lab))
        arrivals = Arrivals(lab.engine.pool, print_line)
        stack.callback(lab.journal.subscribe(arrivals, (AdapterRegistered,)))
        looking = asyncio.create_task(arrivals.run(), name="arrivals")
        stack.callback(looking.cancel)
        if programs:
            await stack.enter_async_context(adapters_running(lab, url, programs, lab.root / "adapters"))
        code = await _sessions_ended(lab, SessionRequest(targets=list(targets)), announced)
        if not exit_when_done:
            await over.wait()
    return code


@contextmanager
def _announced_sessions(lab: Lab) -> Iterator[set[str]]:
    """Print a line when a session starts or ends; yield the ids of those that have started and need one."""
    open_sessions: set[str] = set()

    def print_event(event: SessionStarted | SessionEnded) -> None:
        if isinstance(event, SessionStarted):
            open_sessions.add(event.session)
            click.echo(_header(lab, event.session, event.cases))
        elif event.session in open_sessions:
            open_sessions.remove(event.session)
            cases = lab.engine.sessions[event.session].record.cases.values()
            counts = " · ".join(
                f"{number} {what}" for what, number in status_counts(cases, over=True).items()
            )
            state = "interrupted" if event.interrupted else "ended"
            click.echo(f"session {event.session} · {state} · {counts}")

    unsubscribe = lab.journal.subscribe(print_event, (SessionStarted, SessionEnded))
    try:
        yield open_sessions
    finally:
        unsubscribe()


def _header(lab: Lab, session: str, cases: int) -> str:
    folder = lab.root / session
    return f"session {session} · {count(cases, 'case')} · {folder}"


async def _sessions_ended(lab: Lab, request: SessionRequest, announced: set[str]) -> ExitCode:
    """Resume unfinished sessions or start the request; return the exit code when all have ended.

    :param announced: the sessions that have a line already; those that end here get a summary.
    """
    sessions, ended = await lab.resume_or_start(request, command=command_line())
    for before in ended:
        click.echo(f"session {before.folder.id} · ended before the restart · {before.folder.path}")
    for session in sessions:
        if session.id not in announced:
            click.echo(_header(lab, session.id, len(session.plan.cases)))
        announced.discard(session.id)
    for session in sessions:
        await session.ended.wait()
        for line in summary(session.record, session.folder.path, session.writer.incomplete):
            click.echo(line)
    codes = [session.exit_code for session in sessions]
    return _most_severe([*codes, *(ExitCode(before.exit_code or 0) for before in ended)])


def _most_severe(codes: list[ExitCode]) -> ExitCode:
    order = (ExitCode.INTERRUPTED, ExitCode.FAILURE, ExitCode.LAB_ERROR, ExitCode.USAGE)
    return next((code for code in order if code in codes), ExitCode.SUCCESS)
