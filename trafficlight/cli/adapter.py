"""`trafficlight adapter`: run a built-in adapter, or check any adapter."""

import asyncio
import json
from typing import Any

import click


class JsonObjectType(click.ParamType[Any]):
    """A JSON object as the value of an option."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse the value."""
        try:
            read = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(read, dict):
            self.fail(f"{value!r} is not a JSON object", param, ctx)
        return read


@click.group("adapter")
def command() -> None:
    """Run a built-in adapter, or check your own."""


@command.command("nio")
@click.option(
    "--url",
    envvar="TRAFFICLIGHT_URL",
    required=True,
    help="The coordinator's URL, e.g. http://127.0.0.1:5000.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The number of clients in this process.",
)
@click.option("--token", envvar="ADAPTER_TOKEN", help="The coordinator's ADAPTER_TOKEN, if it has one.")
@click.option("--once", is_flag=True, help="Exit after one case instead of registering again.")
def nio(url: str, count: int, token: str | None, once: bool) -> None:
    """Run Matrix clients on the library matrix-nio."""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not a URL: write http://host:port", param_hint="--url")
    from trafficlight.adapters.nio.adapter import main

    asyncio.run(main(url, count, token, once=once))


@command.command("check")
@click.option(
    "--command",
    "program",
    required=True,
    help="The command that starts the adapter; {url} stands for the coordinator's URL.",
)
@click.option(
    "--action", help="An action that it can perform at any time. Default: the first that it declares."
)
@click.option(
    "--data",
    type=JsonObjectType(),
    help="The data of the action. Default: the example of the action catalogue, or none.",
)
@click.option("--hold", type=float, default=3.0, show_default=True, help="Seconds that a poll is held.")
@click.option("--token", help="Require this registration token; the adapter gets it as ADAPTER_TOKEN.")
def check(
    program: str, action: str | None, data: dict[str, Any] | None, hold: float, token: str | None
) -> int:
    """Check an adapter against a scripted coordinator.

    Exit code: 0 if it follows the protocol, 1 if it does not.
    """
    from trafficlight.adapters.conformance import CheckOptions, render
    from trafficlight.adapters.conformance import check as examine
    from trafficlight.clients.catalogue import catalogue

    examples = {entry.name: entry.message["data"] for entry in reversed(catalogue())}
    options = CheckOptions(action=action, data=data, examples=examples, hold=hold, token=token)
    results = asyncio.run(examine(program, options))
    click.echo(render(results))
    return results.exit_code
