"""What `run` and `serve` share: the server, the adapter programs, and shutdown on signals."""

import asyncio
import contextlib
import logging
import math
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from trafficlight.cache import CacheFolder
from trafficlight.config import Settings
from trafficlight.coordinator.dask.machines import Machines
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.supervisor import (
    Program,
    Supervisor,
    absence_of,
    driver_types,
    programs_of,
    unsupported_of,
)
from trafficlight.http.app import app_of
from trafficlight.http.local_token import create_token, remove_token
from trafficlight.http.security import secret_of, warning_for
from trafficlight.http.server import bind, process_tuned, serving
from trafficlight.suites.model import Case
from trafficlight.text import without_credentials
from trafficlight.worker.execution import OnFailure

logger = logging.getLogger(__name__)

# Seconds that cases wait for adapters once all programs have registered and none is being started.
_AWAY = 30.0
_LOOK = 0.1  # seconds
# Seconds between the two cancellations of the second signal.
_AT_ONCE = 0.5


def command_line() -> str:
    """Return the command line of this process, without the passwords in its URLs."""
    return without_credentials(shlex.join(["trafficlight", *sys.argv[1:]]))


class _Loop(asyncio.SelectorEventLoop):
    """A loop that outlives `sys.exit` in a task or callback of a test, which without workers runs here."""

    def run_forever(self) -> None:
        while True:
            try:
                super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if self.get_exception_handler() is None:  # no test runs
                    raise
                self.call_exception_handler({"message": "a task of a test exits", "exception": error})
            else:
                return


def run_lab(main: Coroutine[Any, Any, int]) -> int:
    """Run a lab, and maybe tests, in an event loop; return the exit code."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


@asynccontextmanager
async def lab_serving(
    settings: Settings,
    progress: Callable[[str], None] | None = None,
    *,
    resumable: bool = False,
    on_failure: OnFailure | None = None,
    elsewhere: Machines | None = None,
) -> AsyncIterator[tuple[Lab, str]]:
    """Run a lab and serve it over HTTP; yield the lab and its base URL.

    :param progress: receives a line for each slow step.
    :param resumable: see :meth:`Lab.open`. If false, no sessions can be started over HTTP.
    :param on_failure: see :meth:`Lab.open`.
    :param elsewhere: the machines that cases run on; None if they run here.
    """
    if (warning := warning_for(settings)) is not None:
        click.echo(f"warning: {warning}", err=True)
    async with AsyncExitStack() as stack:
        opened = Lab.open(
            settings, progress=progress, resumable=resumable, on_failure=on_failure, elsewhere=elsewhere
        )
        lab = await stack.enter_async_context(opened)
        listening = bind(settings.host, settings.port)
        stack.callback(listening.close)
        token = None
        if settings.people_token is None:
            token = create_token(*listening.getsockname()[:2], required=resumable)
            stack.callback(remove_token, token)
            if resumable:
                click.echo(f"changes over HTTP need the token in {token.path}", err=True)
        app = app_of(lab, local_token=token, sessions=resumable)
        url = await stack.enter_async_context(serving(app, listening))
        # Held polls would keep the server from shutting down.
        stack.callback(lab.engine.pool.close, "the coordinator is shutting down")
        stack.enter_context(process_tuned())
        yield lab, url


@asynccontextmanager
async def own_adapters_running(
    lab: Lab, url: str, cases: Sequence[Case], folder: Path, progress: Callable[[str], None]
) -> AsyncIterator[None]:
    """Keep the adapter programs running that cases need."""
    settings, engine = lab.settings, lab.engine
    programs = programs_of(settings.adapters, cases)
    others = settings.port != 0  # no other adapter knows the port otherwise
    if not others:
        engine.unsupported_clients = await asyncio.to_thread(unsupported_of, programs)
        programs = [one for one in programs if one.name not in engine.unsupported_clients]
        if "queue_deadline" not in settings.model_fields_set:
            types = partial(driver_types, programs, engine.pool)
            engine.absence_of = partial(absence_of, settings.adapters, types)
    async with adapters_running(lab, url, programs, folder, others=others, progress=progress):
        yield


@asynccontextmanager
async def lab_for_others(
    settings: Settings, cases: Sequence[Case], folder: Path, progress: Callable[[str], None]
) -> AsyncIterator[Lab]:
    """Run a lab for cases of another coordinator's session, with the adapters that they need."""
    async with (
        lab_serving(settings, progress) as (lab, url),
        own_adapters_running(lab, url, cases, folder, progress),
    ):
        yield lab


@asynccontextmanager
async def adapters_running(
    lab: Lab,
    url: str,
    programs: Sequence[Program],
    folder: Path,
    *,
    others: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[None]:
    """Keep adapter programs running.

    :param others: whether adapters that run elsewhere may register as well.
    :param progress: receives a line for each slow step.
    """
    pool = lab.engine.pool

    supervisor = await asyncio.to_thread(
        Supervisor,
        programs,
        url,
        folder,
        pool,
        token=secret_of(lab.settings.adapter_token),
        cache=CacheFolder(lab.settings.cache_folder),
        progress=progress,
        exit_deadline=lab.settings.exit_deadline,
    )
    lab.engine.programs_failed = supervisor.all_failed
    lab.engine.starting = supervisor.starting
    pool.started_here = frozenset(program.instance for program in supervisor.programs)
    usual = lab.settings.queue_deadline
    short = not others and "queue_deadline" not in lab.settings.model_fields_set

    def deadline() -> float:
        if supervisor.building:
            return math.inf
        return min(usual, _AWAY) if short and supervisor.all_registered() else usual

    lab.engine.adapters_deadline = deadline
    task = asyncio.create_task(supervisor.run(), name="adapters")
    task.add_done_callback(_note_end)
    try:
        yield
    finally:
        pool.close("the session has ended")
        try:
            if not lab.engine.stopping:
                await _last_uploads(lab, supervisor)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _note_end(supervising: asyncio.Task[None]) -> None:
    """Log why adapter programs are not kept running any more, unless the session ended."""
    if not supervising.cancelled() and (error := supervising.exception()) is not None:
        logger.error("adapter programs are not started again: %s", error, exc_info=error)


async def _last_uploads(lab: Lab, supervisor: Supervisor) -> None:
    """Wait until adapters that have had a case exit: some upload files after `exit`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(lab.settings.exit_deadline):
            while not lab.engine.stopping and any(
                lab.engine.pool.since_exit(program.instance, after_case=True) is not None
                for program in supervisor.programs
                if program.running
            ):
                await asyncio.sleep(_LOOK)


@contextlib.contextmanager
def stopping_on_signals(lab: Lab, stopped: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Shut down on SIGINT, SIGTERM and SIGHUP: with the grace period the first time, then immediately.

    :param stopped: called after the graceful shutdown.
    """
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    async def end(reason: str) -> None:
        await lab.engine.stop(reason, grace=lab.settings.grace, interrupted=True)
        stopped()

    def stop(name: str) -> None:
        if stops:
            lab.engine.cancel_running(at_once=True)
            # A case that is cancelled twice does not tear down; the first takes a moment to arrive.
            loop.call_later(_AT_ONCE, partial(lab.engine.cancel_running, at_once=True))
            return
        grace = lab.settings.grace
        # Not by click, which writes past the live display.
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write(
                f"{name}: running cases have {grace:g} s to finish; a second signal cancels them\n"
            )
        stops.append(asyncio.create_task(end(f"interrupted by {name}")))

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop, number.name)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
