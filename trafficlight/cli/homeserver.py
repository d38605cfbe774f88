"""`trafficlight homeserver`: temporary homeservers for manual use."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from trafficlight.cli.options import load_settings
from trafficlight.clock import race
from trafficlight.config import Settings
from trafficlight.errors import DeployError, UnsupportedError, UsageError
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.homeservers.registry import ProviderRegistry, build_providers
from trafficlight.server_types import Dendrite, HomeServerSpec, ServerType, Synapse, SynapseDevelop

_KINDS: dict[str, type[ServerType]] = {"synapse": Synapse, "dendrite": Dendrite}


@click.group("homeserver")
def command() -> None:
    """Start temporary homeservers."""


@command.command("start")
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.option("--version", default="stable", show_default=True, help="An exact version, stable or latest.")
@click.option(
    "--federate",
    "count",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Start N homeservers that federate with each other.",
)
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The configuration file.")
def start(kind: str, version: str, count: int, config: Path | None) -> int:
    """Start homeservers and keep them running until Ctrl-C. Registration of accounts is open."""
    settings = load_settings(config)
    return asyncio.run(_run(settings, _spec(kind, version), count))


def _spec(kind: str, version: str) -> HomeServerSpec:
    if kind == "synapse":
        server_type = SynapseDevelop() if version == "latest" else Synapse(version)
        return server_type.homeservers()[0]
    spec = _KINDS[kind]().homeservers()[0]
    return HomeServerSpec(spec.type_name, spec.recipe, version, spec.image)


async def _run(settings: Settings, spec: HomeServerSpec, count: int) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    async with contextlib.AsyncExitStack() as stack:
        providers = build_providers(settings, lambda line: click.echo(line, err=True))
        stack.push_async_callback(providers.close)
        if (reason := providers.unsupported(spec)) is not None:
            raise UsageError(reason)
        folder = Path(tempfile.mkdtemp(prefix="trafficlight-homeserver-"))  # kept: the logs are for reading
        requests = [
            ServerRequest(f"server{number}", spec, folder / f"server{number}.log")
            for number in range(1, count + 1)
        ]
        for number in signals:
            loop.add_signal_handler(number, stopped.set)
            stack.callback(loop.remove_signal_handler, number)
        try:
            if await race(_started(providers, spec, requests, stack), stopped.wait()):
                return 130
        except (DeployError, UnsupportedError) as error:
            click.echo(f"trafficlight: {error}", err=True)
            return 1
        click.echo("Press Ctrl-C to stop them and delete their data. The logs are kept.")
        await stopped.wait()
    return 0


async def _started(
    providers: ProviderRegistry,
    spec: HomeServerSpec,
    requests: Sequence[ServerRequest],
    stack: contextlib.AsyncExitStack,
) -> None:
    """Start homeservers, which the stack stops, and print their URLs."""
    await providers.prepare([spec])
    servers = await stack.enter_async_context(providers.deploy("by hand", requests))
    for server, request in zip(servers, requests, strict=True):
        click.echo(f"{server.version or spec.type_name}")
        click.echo(f"  URL          {server.cs_api}")
        click.echo(f"  server name  {server.server_name}")
        click.echo(f"  log          {request.log}")
