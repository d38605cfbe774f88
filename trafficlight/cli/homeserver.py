"""`trafficlight homeserver`: temporary homeservers for manual use."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import click

from trafficlight.cli.options import load_settings
from trafficlight.cli.types import config_option
from trafficlight.clock import race
from trafficlight.config import Settings
from trafficlight.errors import DeployError, UnsupportedError, UsageError
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.registry import build_providers
from trafficlight.server_types import (
    Dendrite,
    HomeServerSpec,
    ServerType,
    Synapse,
    SynapseDevelop,
    SynapsePostgres,
    SynapseWorkers,
)

KINDS: dict[str, type[ServerType]] = {
    "synapse": Synapse,
    "synapse-postgres": SynapsePostgres,
    "synapse-workers": SynapseWorkers,
    "dendrite": Dendrite,
}
"""The homeservers that can be started by hand."""


@click.group("homeserver")
def command() -> None:
    """Start temporary homeservers."""


@command.command("start")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--version", default="stable", show_default=True, help="An exact version, stable or latest.")
@click.option(
    "--federate",
    "count",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Start N homeservers that federate with each other.",
)
@config_option
def start(kind: str, version: str, count: int, config: Path | None) -> int:
    """Start homeservers and keep them running until Ctrl-C. Registration of accounts is open."""
    settings = load_settings(config)
    return asyncio.run(_run(settings, spec_of(kind, version), count))


def spec_of(kind: str, version: str = "stable") -> HomeServerSpec:
    """Return what to start for a kind, one of :data:`KINDS`, and a version."""
    if kind == "synapse":
        server_type = SynapseDevelop() if version == "latest" else Synapse(version)
        return server_type.homeservers()[0]
    spec = KINDS[kind]().homeservers()[0]
    return HomeServerSpec(spec.type_name, spec.recipe, version, spec.image)


async def _run(settings: Settings, spec: HomeServerSpec, count: int) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    async with contextlib.AsyncExitStack() as stack:
        for number in signals:
            loop.add_signal_handler(number, stopped.set)
            stack.callback(loop.remove_signal_handler, number)
        try:
            if await race(_shown(stack.enter_async_context(started(settings, spec, count))), stopped.wait()):
                return 130
        except (DeployError, UnsupportedError) as error:
            click.echo(f"trafficlight: {error}", err=True)
            return 1
        click.echo("Press Ctrl-C to stop them and delete their data. The logs are kept.")
        await stopped.wait()
    return 0


@contextlib.asynccontextmanager
async def started(
    settings: Settings, spec: HomeServerSpec, count: int = 1
) -> AsyncIterator[list[tuple[RunningServer, Path]]]:
    """Run homeservers until this is left; yield each with its log.

    :raises UsageError: they cannot run here.
    :raises DeployError: they do not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        providers = build_providers(settings, lambda line: click.echo(line, err=True))
        stack.push_async_callback(providers.close)
        if (reason := providers.unsupported(spec)) is not None:
            raise UsageError(reason)
        folder = Path(tempfile.mkdtemp(prefix="trafficlight-homeserver-"))  # kept: the logs are for reading
        logs = [folder / f"server{number}.log" for number in range(1, count + 1)]
        await providers.prepare([spec])
        requests = [ServerRequest(log.stem, spec, log) for log in logs]
        servers = await stack.enter_async_context(providers.deploy("by hand", requests))
        yield list(zip(servers, logs, strict=True))


async def _shown(servers: Awaitable[list[tuple[RunningServer, Path]]]) -> None:
    for server, log in await servers:
        click.echo(f"{server.version or 'a homeserver'}")
        click.echo(f"  URL          {server.cs_api}")
        click.echo(f"  server name  {server.server_name}")
        click.echo(f"  log          {log}")
