"""`trafficlight sessions` and `cancel`: the sessions of a running coordinator."""

import asyncio

import click

from trafficlight.cli.client import Coordinator, coordinator_options
from trafficlight.text import columns, utc_time


@click.command("sessions")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N")
@coordinator_options
def command(limit: int, url: str, token: str | None) -> None:
    """List the sessions in the results folder of a running coordinator, the newest first."""
    asyncio.run(_list(limit, url, token))


async def _list(limit: int, url: str, token: str | None) -> None:
    async with Coordinator.at(url, token) as coordinator:
        sessions, total = await coordinator.sessions(limit)
    rows = []
    for session in sessions:
        counts = " · ".join(f"{number} {state}" for state, number in session.counts.items() if number)
        notes = [session.stopped, *session.waiting]
        rows.append(
            (session.id, session.state, utc_time(session.started), counts, "; ".join(filter(None, notes)))
        )
    for line in columns(rows):
        click.echo(line)
    if total > len(sessions):
        click.echo(f"... and {total - len(sessions)} more (option --limit)")


@click.command("cancel")
@click.argument("session")
@click.argument("case", required=False)
@coordinator_options
def cancel(session: str, case: str | None, url: str, token: str | None) -> None:
    """Cancel a session of a running coordinator, or one of its cases.

    SESSION is the id of a session, or latest. Running cases are cancelled and end as errors; waiting ones are
    skipped.
    """
    asyncio.run(_cancel(session, case, url, token))


async def _cancel(session: str, case: str | None, url: str, token: str | None) -> None:
    async with Coordinator.at(url, token) as coordinator:
        facts = await coordinator.cancel(session, case)
    what = f"cancelled session {facts.id}" if case is None else f"cancelled {case} of session {facts.id}"
    click.echo(what)
