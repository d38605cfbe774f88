"""What `run` and `serve` share: serving the lab, its adapter programs, and ending in good order."""

import asyncio
import contextlib
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click

from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.supervisor import Supervisor, programs_of
from trafficlight.http.app import app_of
from trafficlight.http.security import secret_of, warning_for
from trafficlight.http.server import bind, process_tuned, serving

# Seconds in which "at once" is over.
_AT_ONCE = 0.5


def command_line() -> str:
    """Return how this process was called, for the record."""
    return shlex.join(["trafficlight", *sys.argv[1:]])


@asynccontextmanager
async def lab_serving(
    settings: Settings, progress: Callable[[str], None] | None = None, *, resumable: bool = False
) -> AsyncIterator[tuple[Lab, str]]:
    """Run a lab and serve it over HTTP until this is left; give it and its base URL.

    :param progress: told what takes long, a line at a time.
    :param resumable: see :meth:`Lab.open`.
    """
    if (warning := warning_for(settings)) is not None:
        click.echo(f"warning: {warning}", err=True)
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(Lab.open(settings, progress=progress, resumable=resumable))
        url = await stack.enter_async_context(serving(app_of(lab), bind(settings.host, settings.port)))
        # Held polls would keep the server from ending.
        stack.callback(lab.engine.pool.close, "the coordinator is ending")
        stack.enter_context(process_tuned())
        yield lab, url


@asynccontextmanager
async def adapters_running(lab: Lab, url: str, folder: Path) -> AsyncIterator[None]:
    """Keep the adapter programs of the settings running until this is left.

    :param folder: where their output goes.
    :raises ConfigError: a program is not known.
    """
    token = secret_of(lab.settings.adapter_token)

    def lost(instance: str, ending: str) -> None:
        for adapter in lab.engine.pool:
            if adapter.program == instance:
                lab.engine.pool.lose(adapter, f"its process ended ({ending})")

    supervisor = Supervisor(programs_of(lab.settings.adapters), url, folder, lost, token=token)
    task = asyncio.create_task(supervisor.run(), name="adapters")
    try:
        yield
    finally:
        lab.engine.pool.close("the session has ended")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.contextmanager
def stopping_on_signals(lab: Lab, stopped: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let SIGINT and SIGTERM end what runs: in good order the first time, at once the second time.

    :param stopped: called when the good order is over.
    """
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    async def end(reason: str) -> None:
        await lab.engine.stop(reason, grace=lab.settings.grace, interrupted=True)
        stopped()

    def stop(name: str) -> None:
        if stops:
            lab.engine.cancel_running()
            # What is called off twice does not even tear down; the first time takes a moment to arrive.
            loop.call_later(_AT_ONCE, lab.engine.cancel_running)
            return
        grace = lab.settings.grace
        click.echo(f"{name}: running cases have {grace:g} s to end; once more ends them at once", err=True)
        stops.append(asyncio.create_task(end(f"interrupted by {name}")))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number.name)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
