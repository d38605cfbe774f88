"""`trafficlight adapter`: run an adapter that ships, or check one of one's own."""

import asyncio

import click

__all__ = ["command"]


@click.group("adapter")
def command() -> None:
    """Run an adapter that ships with trafficlight."""


@command.command("nio")
@click.option(
    "--url", envvar="TRAFFICLIGHT_URL", required=True, help="The coordinator, e.g. http://127.0.0.1:5000."
)
@click.option(
    "--count", type=click.IntRange(1), default=1, show_default=True, help="Clients in this process."
)
@click.option("--token", envvar="ADAPTER_TOKEN", help="The coordinator's ADAPTER_TOKEN, where it has one.")
@click.option("--once", is_flag=True, help="End after one case instead of registering again.")
def nio(url: str, count: int, token: str | None, once: bool) -> None:
    """Play Matrix clients on the library matrix-nio."""
    from trafficlight.adapters.nio.main import main

    asyncio.run(main(url, count, token, once=once))
