"""`trafficlight submit`: start a session on a running coordinator."""

import asyncio

import click

from trafficlight.cli.client import Coordinator, as_seen_there, coordinator_options
from trafficlight.cli.options import ending_options, selection_options
from trafficlight.cli.watch import follow, header
from trafficlight.suites.selection import Selection, SessionRequest


@click.command("submit")
@click.argument("targets", metavar="[PATH]...", nargs=-1)
@selection_options
@ending_options
@click.option(
    "--strict", is_flag=True, help="Exit code 3 if a case is unsupported there or the summary has a warning."
)
@coordinator_options
@click.option("--watch", is_flag=True, help="Follow the session, and exit with its exit code.")
def command(
    targets: tuple[str, ...],
    selection: Selection,
    exit_first: bool,
    max_failures: int | None,
    deflake: int,
    strict: bool,
    url: str,
    token: str | None,
    watch: bool,
) -> int:
    """Start a session on a running coordinator.

    PATH is a path on the coordinator's machine: a test file, a directory, or a symbol such as
    file_test.py::Class. Default: what the coordinator is configured to run. If the coordinator runs on this
    machine, paths may be relative.

    Exit code: 0 when the session has started; with --watch the exit code of the session.
    """
    seen = list(as_seen_there(targets, url))
    request = SessionRequest(
        **dict(selection),
        targets=seen,
        exit_first=exit_first,
        max_failures=max_failures,
        deflake=deflake,
        strict=strict,
    )
    return asyncio.run(_submit(request, url, token, watch))


async def _submit(request: SessionRequest, url: str, token: str | None, watch: bool) -> int:
    async with Coordinator.at(url, token) as coordinator:
        session = await coordinator.submit(request)
        if watch:
            return await follow(coordinator, session)
        click.echo(" · ".join(header(coordinator, session)))
        for problem in session.problems:
            click.echo(f"problem: {problem}", err=True)
        return 0
