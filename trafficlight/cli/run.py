"""`trafficlight run`: the whole lab in one command."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trafficlight.cli.options import lab_options, load_settings, selection_options
from trafficlight.cli.progress import Progress
from trafficlight.cli.runtime import adapters_running, command_line, lab_serving, stopping_on_signals
from trafficlight.config import Settings
from trafficlight.coordinator.supervisor import programs_of
from trafficlight.results.events import CaseEnded, CaseState
from trafficlight.results.reports.summary import summary
from trafficlight.suites.selection import Selection, SessionRequest
from trafficlight.text import count
from trafficlight.version import VERSION


@click.command("run")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@selection_options
@click.option("--exit-first", is_flag=True, help="Stop after the first failure or error.")
@click.option(
    "--deflake", type=click.IntRange(0), default=0, metavar="N", help="Retry a failed case up to N times."
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
    """Run tests with a coordinator, adapters and homeservers on this machine.

    PATH is a test file, a directory, or a symbol such as file_test.py::Class. Default: the built-in suites.

    Exit code: 0 all cases succeeded, 1 a failure, 2 nothing to run or a wrong setting, 3 no failure but an
    error of the lab, 130 interrupted.
    """
    settings = load_settings(config, **flags)
    programs_of(settings.adapters)  # reports a wrong entry before anything starts
    request = SessionRequest(**dict(selection), targets=list(targets), exit_first=exit_first, deflake=deflake)
    return asyncio.run(_run(settings, request))


async def _run(settings: Settings, request: SessionRequest) -> int:
    console = Console(highlight=False)

    def tell(line: str) -> None:
        console.print(f"  {line}", style="dim", markup=False, soft_wrap=True)

    async with AsyncExitStack() as stack:
        lab, url = await stack.enter_async_context(lab_serving(settings, tell))
        planned = await lab.plan(request)
        folder = await lab.new_folder()
        cases = count(len(planned.cases), "case")
        header = f"trafficlight {VERSION} · session {folder.id} · {cases} · {url}/status"
        console.print(header, soft_wrap=True)
        others = settings.port != 0  # no other adapter knows the port otherwise
        running = adapters_running(lab, url, folder.path / "adapters", others=others)
        await stack.enter_async_context(running)
        stack.enter_context(stopping_on_signals(lab))
        try:
            session = await lab.start(request, command=command_line(), plan=planned, folder=folder)
        except BaseException:
            await asyncio.to_thread(folder.finish)
            raise
        progress = Progress(session.record, console)
        stack.callback(lab.journal.subscribe(progress, (CaseState, CaseEnded), session=session.id))
        with progress.shown():
            await session.ended.wait()
    for line in summary(session.record, folder.path, session.writer.incomplete):
        click.echo(line)
    return int(session.exit_code)
