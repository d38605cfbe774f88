"""`trafficlight run`: the whole lab in one command."""

import asyncio
import contextlib
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trafficlight.cli.progress import Progress
from trafficlight.cli.selecting import selection_options
from trafficlight.cli.settings import lab_options, load_settings
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import Options
from trafficlight.coordinator.supervisor import Supervisor, programs_of
from trafficlight.errors import UsageError
from trafficlight.http.app import app_of
from trafficlight.http.server import bind, serving
from trafficlight.results.case import Expected
from trafficlight.results.summary import summary
from trafficlight.suites.model import Plan
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection
from trafficlight.version import VERSION

__all__ = ["command"]


@click.command("run")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@selection_options
@click.option("--exit-first", is_flag=True, help="End the session at the first failure or error.")
@click.option(
    "--deflake", type=click.IntRange(0), default=0, metavar="N", help="Try a failed case again up to N times."
)
@lab_options
def command(
    targets: tuple[str, ...],
    selection: Selection,
    exit_first: bool,
    deflake: int,
    config: Path | None,
    **flags: Any,
) -> int:
    """Run tests here: coordinator, adapters and homeservers, until the verdict.

    PATH is a test file, a directory, or a symbol such as file_test.py::Class; the suites that ship where
    there is none.

    Exit code: 0 all success, 1 a failure, 2 nothing to run or a wrong setting, 3 only errors of the lab,
    130 interrupted.
    """
    settings = load_settings(config, **flags)
    planned = plan(targets, selection, **_patterns(settings))
    if not planned.cases and not planned.problems:
        raise UsageError("there is nothing to run: no test was found, or the selection leaves none")
    options = options_of(settings, selection, exit_first=exit_first, deflake=deflake)
    return asyncio.run(_run(settings, planned, options))


def _patterns(settings: Settings) -> dict[str, Any]:
    return {"patterns": (settings.test_pattern,)} if settings.test_pattern else {}


def options_of(settings: Settings, selection: Selection, *, exit_first: bool, deflake: int) -> Options:
    """Return how a session is to be run."""

    def expected(case: str) -> Expected | None:
        entry = selection.expected_failures.match(case)
        return Expected(entry.reason, entry.link) if entry is not None else None

    return Options(
        exit_first=exit_first,
        deflake=deflake,
        expected=expected,
        command=shlex.join(["trafficlight", *sys.argv[1:]]),
        configuration=settings.public(),
        seed=selection.seed if selection.sample is not None else None,
    )


async def _run(settings: Settings, planned: Plan, options: Options) -> int:
    console = Console(highlight=False)
    programs = programs_of(settings.adapters)
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab.open(settings, progress=_teller(console)))
        url = await stack.enter_async_context(serving(app_of(lab), bind(settings.host, settings.port)))
        stack.callback(lab.engine.pool.close, "the session has ended")
        folder = lab.new_folder()
        _header(console, folder.id, planned, url)
        supervisor = Supervisor(programs, url, folder.path / "adapters", _losing(lab), token=_token(settings))
        await stack.enter_async_context(_background(supervisor.run()))
        with stopping_on_signals(lab):
            session = await lab.start_session(folder, planned, options)
            progress = Progress(session.record, console)
            stack.callback(lab.journal.subscribe(progress))
            with progress.shown():
                await session.ended.wait()
    for line in summary(session.record, folder.path):
        click.echo(line)
    return int(session.exit_code)


def _header(console: Console, session: str, planned: Plan, url: str) -> None:
    number = len(planned.cases)
    cases = f"{number} case{'s' * (number != 1)}"
    line = f"trafficlight {VERSION} · session {session} · {cases} · {url}/status"
    console.print(line, soft_wrap=True)


def _teller(console: Console) -> Callable[[str], None]:
    def tell(line: str) -> None:
        console.print(f"  {line}", style="dim", markup=False, soft_wrap=True)

    return tell


def _token(settings: Settings) -> str | None:
    return settings.adapter_token.get_secret_value() if settings.adapter_token is not None else None


def _losing(lab: Lab) -> Callable[[str, str], None]:
    """Return what gives the adapters of a process up the moment that it ends."""

    def lost(instance: str, ending: str) -> None:
        for adapter in lab.engine.pool:
            if adapter.registration.get("instance") == instance:
                lab.engine.pool.lose(adapter, f"its process ended ({ending})")

    return lost


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let something run until this is left."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def stopping_on_signals(lab: Lab) -> Iterator[None]:
    """Let SIGINT and SIGTERM end what runs: in good order the first time, at once the second time."""
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    def stop(name: str) -> None:
        if stops:
            lab.engine.call_off()
            return
        grace = lab.settings.grace
        click.echo(f"{name}: running cases have {grace:g} s to end; once more ends them at once", err=True)
        stops.append(
            asyncio.create_task(lab.engine.stop(f"interrupted by {name}", grace=grace, interrupted=True))
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number.name)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
