"""`trafficlight serve`: a coordinator for adapters that run elsewhere."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from trafficlight.cli.options import lab_options, load_settings
from trafficlight.cli.runtime import adapters_running, command_line, lab_serving, stopping_on_signals
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.supervisor import Program, programs_of
from trafficlight.errors import ShuttingDownError
from trafficlight.http.app import DEFAULT_PORT
from trafficlight.results.record import ExitCode
from trafficlight.results.reports.summary import summary
from trafficlight.suites.selection import SessionRequest
from trafficlight.text import count
from trafficlight.version import VERSION


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
    settings = load_settings(config, **flags)
    if settings.port == 0 and flags.get("port") is None and "port" not in settings.model_fields_set:
        settings = settings.model_copy(update={"port": DEFAULT_PORT})
    # Before anything starts, because an entry may be wrong.
    programs = programs_of(settings.adapters) if with_adapters else []
    try:
        return asyncio.run(_serve(settings, targets, programs, exit_when_done))
    except ShuttingDownError:
        return ExitCode.INTERRUPTED


async def _serve(
    settings: Settings, targets: tuple[str, ...], programs: Sequence[Program], exit_when_done: bool
) -> int:
    def tell(line: str) -> None:
        click.echo(f"  {line}")

    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        lab, url = await stack.enter_async_context(lab_serving(settings, tell, resumable=True))
        click.echo(f"trafficlight {VERSION} · {url}/status")
        stack.enter_context(stopping_on_signals(lab, over.set))
        if programs:
            folder = settings.results_root / "adapters"
            await stack.enter_async_context(adapters_running(lab, url, programs, folder))
        code = await _sessions_ended(lab, SessionRequest(targets=list(targets)))
        if not exit_when_done:
            await over.wait()
    return code


async def _sessions_ended(lab: Lab, request: SessionRequest) -> ExitCode:
    """Resume unfinished sessions or start the request; return the exit code when all have ended."""
    sessions, ended = await lab.resume_or_start(request, command=command_line())
    for before in ended:
        click.echo(f"session {before.folder.id} · ended before the restart · {before.folder.path}")
    for session in sessions:
        cases = count(len(session.plan.cases), "case")
        click.echo(f"session {session.id} · {cases} · {session.folder.path}")
    for session in sessions:
        await session.ended.wait()
        for line in summary(session.record, session.folder.path, session.writer.incomplete):
            click.echo(line)
    codes = [session.exit_code for session in sessions]
    return _most_severe([*codes, *(ExitCode(before.exit_code or 0) for before in ended)])


def _most_severe(codes: list[ExitCode]) -> ExitCode:
    order = (ExitCode.INTERRUPTED, ExitCode.FAILURE, ExitCode.LAB_ERROR, ExitCode.USAGE)
    return next((code for code in order if code in codes), ExitCode.SUCCESS)
