"""`trafficlight adapter`: run a built-in adapter, or check any adapter."""

import asyncio
import functools
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trafficlight.cli.types import JsonObjectType, adding
from trafficlight.processes import own_module
from trafficlight.protocol import TOKEN_VARIABLES

if TYPE_CHECKING:
    from trafficlight.adapters.conformance import CheckOptions, Results


@click.group("adapter")
def command() -> None:
    """Run a built-in adapter, or check your own."""


_hosting = adding(
    click.option(
        "--url",
        envvar="TRAFFICLIGHT_URL",
        required=True,
        help="The coordinator's URL, e.g. http://127.0.0.1:5000. Also: TRAFFICLIGHT_URL.",
    ),
    click.option(
        "--count",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="The number of clients in this process.",
    ),
    click.option(
        "--token",
        envvar=TOKEN_VARIABLES,
        help="The coordinator's ADAPTER_TOKEN, if it has one. Also: TRAFFICLIGHT_ADAPTER_TOKEN.",
    ),
    click.option("--once", is_flag=True, help="Exit after one case instead of registering again."),
)
"""Adds the options of a command that runs clients."""


@command.command("nio")
@_hosting
def nio(url: str, count: int, token: str | None, once: bool) -> None:
    """Run Matrix clients on the library matrix-nio; the same as `adapter run nio`."""
    asyncio.run(_serve("nio", "", None, url, count=count, token=token, once=once))


@command.command("network-proxy")
@_hosting
def network_proxy(url: str, count: int, token: str | None, once: bool) -> None:
    """Run network proxies between clients and homeservers; the same as `adapter run network-proxy`."""
    asyncio.run(_serve("network-proxy", "", None, url, count=count, token=token, once=once))


@command.command("run")
@click.argument("name", required=False)
@click.option("--driver", "program", help="The command that starts a driver of your own.")
@click.option(
    "--version",
    help="The version of the client NAME; develop is the newest. Default: the one that is tested.",
)
@click.option("--label", "labels", multiple=True, help="A word to register with, for tests to ask for.")
@_hosting
def run(
    name: str | None,
    program: str | None,
    version: str | None,
    labels: tuple[str, ...],
    url: str,
    count: int,
    token: str | None,
    once: bool,
) -> None:
    """Run clients through a driver: a program that speaks JSON lines on standard input and output.

    NAME is a client that comes with trafficlight: nio, js-sdk, mautrix-go, rust-sdk, hydrogen-web,
    element-web, element-call or network-proxy. Drivers are built on first use.
    """
    if (name is None) == (program is None):
        raise click.UsageError("name a client that comes with trafficlight, or a --driver")
    served = _serve(name, program or "", version, url, labels=labels, count=count, token=token, once=once)
    asyncio.run(served)


async def _serve(
    name: str | None,
    program: str,
    version: str | None,
    url: str,
    *,
    labels: tuple[str, ...] = (),
    count: int,
    token: str | None,
    once: bool,
) -> None:
    from trafficlight.adapters.host import DriverCommand, serve_driver

    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url!r} is not a URL: write http://host:port", param_hint="--url")
    served = functools.partial(serve_driver, url=url, labels=labels, count=count, token=token, once=once)
    if name is None:
        await served(DriverCommand(shlex.split(program)))
    else:
        from trafficlight.cache import CacheFolder
        from trafficlight.drivers.recipes import RECIPES

        if name not in RECIPES:
            known = ", ".join(RECIPES)
            raise click.BadParameter(f"only {known} come with trafficlight, not {name!r}", param_hint="NAME")
        recipe = RECIPES[name](CacheFolder(), functools.partial(click.echo, err=True))
        arguments = await recipe.install(version)
        with tempfile.TemporaryDirectory(prefix="trafficlight-") as folder:
            async with recipe.services(Path(folder, "services.log")) as environment:
                await served(DriverCommand(arguments, environment))


@command.command("check")
@click.option(
    "--command",
    "program",
    help="The command that starts the adapter; {url} stands for the coordinator's URL.",
)
@click.option("--driver", help="Instead of --command, the command that starts a driver.")
@click.option(
    "--action", help="An action that it can perform at any time. Default: the first that it declares."
)
@click.option(
    "--data",
    type=JsonObjectType(),
    help="The data of the action. Default: the example of the action catalogue, or none.",
)
@click.option("--hold", type=float, default=3.0, show_default=True, help="Seconds that a poll is held.")
@click.option(
    "--token",
    help="Require this registration token; the adapter gets it as TRAFFICLIGHT_ADAPTER_TOKEN.",
)
@click.option(
    "--against",
    type=click.Choice(["synapse", "dendrite"]),
    help="Also start this homeserver, and check that actions are true on it.",
)
def check(
    program: str | None,
    driver: str | None,
    action: str | None,
    data: dict[str, Any] | None,
    hold: float,
    token: str | None,
    against: str | None,
) -> int:
    """Check an adapter, or a driver, against a scripted coordinator.

    Exit code: 0 if it follows the protocol, 1 if it does not.
    """
    if (program is None) == (driver is None):
        raise click.UsageError("name a --command or a --driver")
    from trafficlight.adapters.conformance import CheckOptions, render
    from trafficlight.clients.catalogue import catalogue

    examples = {entry.name: entry.message["data"] for entry in reversed(catalogue())}
    options = CheckOptions(action=action, data=data, examples=examples, hold=hold, token=token)
    host = [*own_module("trafficlight"), "adapter", "run", "--url", "{url}", "--driver"]
    results = asyncio.run(_examined(program or shlex.join([*host, driver or ""]), options, against))
    results.command = program or driver or ""
    click.echo(render(results))
    return results.exit_code


async def _examined(program: str, options: "CheckOptions", against: str | None) -> "Results":
    from trafficlight.adapters.conformance import Homeserver
    from trafficlight.adapters.conformance import check as examine

    if against is None:
        return await examine(program, options)
    from trafficlight.cli.homeserver import spec_of, started
    from trafficlight.cli.options import load_settings

    async with started(load_settings(None), spec_of(against)) as [(server, _)]:
        homeserver = Homeserver(server.cs_api, server.server_name)
        return await examine(program, replace(options, homeserver=homeserver))
