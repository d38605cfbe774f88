"""`trafficlight adapter`: run an adapter that ships, or check one of one's own."""

import asyncio
import json

import click


@click.group("adapter")
def command() -> None:
    """Run an adapter that ships, or check one of your own."""


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
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is no URL: write http://host:port", param_hint="--url")
    from trafficlight.adapters.nio.adapter import main

    asyncio.run(main(url, count, token, once=once))


@command.command("check")
@click.option("--command", "program", required=True, help="The adapter to start; {url} stands for the URL.")
@click.option("--action", help="An action that it can perform at any time; default: one that it declares.")
@click.option("--data", default="{}", show_default=True, metavar="JSON", help="The data of that action.")
@click.option("--hold", type=float, default=3.0, show_default=True, help="Seconds that polls are held.")
@click.option("--token", help="A registration token to ask for; handed over as ADAPTER_TOKEN.")
def check(program: str, action: str | None, data: str, hold: float, token: str | None) -> int:
    """Start an adapter against a scripted coordinator, and print what it does right and wrong.

    Exit code: 0 when it keeps to the protocol, 1 when it does not.
    """
    from trafficlight.adapters.conformance import CheckOptions, render
    from trafficlight.adapters.conformance import check as examine

    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"{data!r} is not JSON: {error}", param_hint="--data") from None
    if not isinstance(parsed, dict):
        raise click.BadParameter(f"{data!r} is not a JSON object", param_hint="--data")
    options = CheckOptions(action=action, data=parsed, hold=hold, token=token)
    results = asyncio.run(examine(program, options))
    click.echo(render(results))
    return results.exit_code
