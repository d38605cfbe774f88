"""`trafficlight run`: the whole lab in one command."""

import asyncio
import functools
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trafficlight.cli.collect import list_cases
from trafficlight.cli.debugging import debug
from trafficlight.cli.options import lab_options, load_settings, request_options, selection_options
from trafficlight.cli.progress import (
    Progress,
    append_step_summary,
    is_live,
    print_header,
    print_summary,
    show_work,
)
from trafficlight.cli.runtime import (
    command_line,
    lab_for_others,
    lab_serving,
    own_adapters_running,
    run_lab,
    stopping_on_signals,
)
from trafficlight.config import Settings
from trafficlight.coordinator.dask.machines import Machines, setup_of
from trafficlight.coordinator.session import Session
from trafficlight.coordinator.supervisor import programs_of
from trafficlight.errors import UsageError
from trafficlight.results.events import CaseEnded, CaseState, CaseWaits
from trafficlight.results.reports.summary import summary
from trafficlight.suites.selection import SessionRequest
from trafficlight.text import count
from trafficlight.version import VERSION


@click.command("run")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@functools.partial(selection_options, lists_slowest=True)
@request_options
@click.option("--collect-only", "--co", is_flag=True, help="List the cases, as trafficlight collect does.")
@click.option(
    "-s", "shown", is_flag=True, help="Show what tests print, one case at a time, for breakpoint()."
)
@click.option("--pdb", "post_mortem", is_flag=True, help="Open the debugger where a test fails; implies -s.")
@lab_options
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Run the cases on the workers of the Dask scheduler at this address, such as tcp://host:8786.",
)
def command(
    targets: tuple[str, ...],
    request: SessionRequest,
    slowest: int,
    collect_only: bool,
    shown: bool,
    post_mortem: bool,
    config: Path | None,
    **flags: Any,
) -> int:
    """Run tests with a coordinator, adapters and homeservers on this machine.

    PATH is a test file, a directory, or a symbol such as file_test.py::Class. Default: the built-in suites.

    Exit code: 0 all cases succeeded, 1 a failure, 2 nothing to run or a wrong setting, 3 no failure but an
    error of the lab, 130 interrupted.
    """
    settings = load_settings(config, targets, **flags)
    if collect_only:
        return list_cases(targets, request, settings)
    if settings.dask is not None and (shown or post_mortem or settings.workers == 0):
        raise UsageError("--dask: no debugger reaches other machines; leave out -s, --pdb and --workers 0")
    if shown or post_mortem:
        settings = settings.model_copy(update={"workers": 0})
    programs_of(settings.adapters)  # reports a wrong entry before anything starts
    request = request.model_copy(update={"targets": list(targets)})
    return run_lab(_run(settings, request, post_mortem, slowest))


async def _run(settings: Settings, request: SessionRequest, post_mortem: bool, slowest: int) -> int:
    # The file is fixed: without workers, what a test prints replaces the standard output.
    console = Console(file=sys.stdout, highlight=False)

    def print_line(line: str) -> None:
        console.print(f"  {line}", style="dim", markup=False, soft_wrap=True)

    on_failure = functools.partial(debug, post_mortem=post_mortem)
    # A debugger and what tests print need the terminal.
    live = is_live(console) and settings.workers != 0
    working = functools.partial(show_work, console, live=live)
    async with AsyncExitStack() as stack:
        machines = None
        if settings.dask is not None:
            machines = await stack.enter_async_context(Machines.connected(settings.dask, print_line))
        opened = lab_serving(settings, print_line, on_failure=on_failure, elsewhere=machines)
        lab, url = await stack.enter_async_context(opened)
        with working("collecting tests"):
            planned = await lab.plan(request)
        folder = await lab.new_folder()
        cases = count(len(planned.cases), "case")
        header = f"trafficlight {VERSION} · session {folder.id} · {cases}"
        print_header(console, header, f"{url}/status")
        if machines is None:
            adapters = folder.path / "adapters"
            running = own_adapters_running(lab, url, planned.cases, adapters, print_line)
        else:
            setup = await asyncio.to_thread(setup_of, settings, folder.id, planned.cases, lab_for_others)
            running = machines.hosting(setup, lab.engine, folder)
        # First, so that a signal ends the wait for the last uploads too.
        stack.enter_context(stopping_on_signals(lab))
        finished: list[Session] = []
        # Before the lab is left: a signal meanwhile must not hide the results.
        stack.callback(_print_summaries, console, finished, slowest)
        await stack.enter_async_context(running)
        try:
            with working("preparing homeservers"):
                session = await lab.start(request, command=command_line(), plan=planned, folder=folder)
        except BaseException:
            await asyncio.to_thread(folder.finish)
            raise
        progress = Progress(session.record, console, live=live)
        shown = (CaseState, CaseWaits, CaseEnded)
        stack.callback(lab.journal.subscribe(progress, shown, session=session.id))
        with progress.shown():
            await session.ended.wait()
        finished.append(session)
    return int(session.exit_code)


def _print_summaries(console: Console, sessions: Iterable[Session], slowest: int) -> None:
    for session in sessions:
        folder = session.folder.path
        lines = summary(session.record, folder, session.writer.incomplete, slowest=slowest)
        print_summary(console, lines, folder)
        append_step_summary(session.record, folder)
