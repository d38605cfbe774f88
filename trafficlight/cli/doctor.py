"""`trafficlight doctor`: check this machine and the settings."""

import asyncio
import importlib.util
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trafficlight.cache import CacheFolder
from trafficlight.cli.options import load_settings
from trafficlight.cli.types import config_option
from trafficlight.config import AdapterProgram, Settings
from trafficlight.coordinator.dask.machines import Machines
from trafficlight.coordinator.supervisor import programs_of
from trafficlight.drivers.recipes import RECIPES, BuiltRecipe, chromium
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.homerunner.provider import HomerunnerProvider
from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.local.run_folder import default_base
from trafficlight.homeservers.provider import available_bytes, capacity_of_this_machine
from trafficlight.homeservers.recipes.synapse import Environments
from trafficlight.homeservers.registry import ProviderRegistry, build_providers
from trafficlight.server_types import (
    Dendrite,
    HomeServerSpec,
    ServerType,
    SynapseDevelop,
    SynapsePostgres,
    SynapseStable,
    SynapseWorkers,
    TwoSynapseFederation,
)
from trafficlight.text import count
from trafficlight.version import install_command
from trafficlight.worker.execution import NO_ASSERTIONS

_OLDEST_PYTHON = (3, 11)
_TYPES: tuple[type[ServerType], ...] = (
    SynapseStable,
    SynapseDevelop,
    SynapsePostgres,
    SynapseWorkers,
    Dendrite,
    TwoSynapseFederation,
)
# Not needed unless the settings require it.
_OPTIONAL = frozenset({"Go", "Dendrite builds", "Chromium", "Docker"})
_ASK_SECONDS = 20
_MIB = 2**20
_INSTALLATION_BYTES = 512 * _MIB


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    :param advice: what to do about it; may be empty.
    """

    subject: str
    good: bool
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A finding, and whether the lab needs it to be good."""

    finding: Finding
    needed: bool

    @property
    def state(self) -> str:
        """``ok``; else ``problem`` if it is needed, ``missing`` if not."""
        return "ok" if self.finding.good else "problem" if self.needed else "missing"


@click.command("doctor")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(config: Path | None, as_json: bool) -> int:
    """Check this machine and the settings, and suggest fixes.

    Exit code: 0 if the lab can run what is configured, 1 if it cannot.
    """
    rows = asyncio.run(_examine(load_settings(config)))
    if as_json:
        click.echo(json.dumps([{**asdict(row.finding), "state": row.state} for row in rows], indent=2))
    else:
        _show(rows)
    return int(any(row.state == "problem" for row in rows))


def _show(rows: Iterable[Row]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {"ok": ("ok", "green"), "missing": ("-", "dim"), "problem": ("PROBLEM", "bold red")}
    for row in rows:
        mark, style = marks[row.state]
        advice = f"\n-> {row.finding.advice}" if row.finding.advice else ""
        table.add_row(Text(mark, style), row.finding.subject, Text(f"{row.finding.detail}{advice}"))
    Console(highlight=False, markup=False).print(table)


async def _examine(settings: Settings) -> list[Row]:
    """Run all checks; those that need the network concurrently."""
    chosen = set(settings.server_providers.values())
    rows = [Row(_python(), True)]
    # The built-in clients are entries by default, also where no test needs them.
    asked = "adapters" in settings.model_fields_set
    rows += [Row(finding, asked or finding.subject == "Adapter nio") for finding in _adapters(settings)]
    rows += [
        Row(finding, finding.subject not in _OPTIONAL)
        for finding in await asyncio.to_thread(diagnose, settings.cache_folder)
    ]
    rows += [Row(_chromium(), False), Row(_port(settings), True)]
    if settings.dask is not None:
        rows.append(Row(await _dask(settings.dask), True))
    try:
        providers = build_providers(settings, lambda _: None)
    except ConfigError as error:
        return [*rows, Row(Finding("Settings", False, str(error), "correct the setting"), True)]
    try:
        docker, homerunner, types = await asyncio.gather(
            _docker(settings), _homerunner(settings), _types(settings, providers)
        )
    finally:
        await providers.close()
    rows.append(Row(docker, "docker" in chosen))
    rows += [Row(finding, "homerunner" in chosen) for finding in homerunner]
    static = {
        name for name in settings.server_overrides if settings.server_providers.get(name) in (None, "static")
    }
    wanted = static | {SynapseStable.__name__, *settings.server_providers}
    return rows + [Row(finding, finding.subject in wanted) for finding in types]


def _python() -> Finding:
    good = sys.version_info >= _OLDEST_PYTHON
    detail = f"{platform.python_version()}, {sys.executable}"
    if not good:
        return Finding("Python", False, detail, "Python 3.11 or newer is needed")
    if sys.flags.optimize:
        return Finding("Python", False, f"{detail}, without assertions", NO_ASSERTIONS)
    return Finding("Python", True, detail)


def _adapters(settings: Settings) -> list[Finding]:
    findings = []
    for name, adapter in settings.adapters.items():
        subject = f"Adapter {name}"
        if name == "nio" and not (adapter.command or adapter.driver):
            findings.append(_nio(subject))
            continue
        try:
            programs_of({name: adapter})
        except ConfigError as error:
            findings.append(Finding(subject, False, error.problem, f"correct {error.key}"))
        else:
            findings.append(_client(subject, name, adapter, CacheFolder(settings.cache_folder)))
    return findings


def _client(subject: str, name: str, adapter: AdapterProgram, cache: CacheFolder) -> Finding:
    if own := adapter.command or adapter.driver:
        return Finding(subject, True, own)
    if (reason := RECIPES[name].unsupported()) is not None:
        return Finding(subject, False, *reason.rsplit(": ", 1))
    if not issubclass(recipe := RECIPES[name], BuiltRecipe):
        return Finding(subject, True, "built in")
    built = ", ".join(recipe.built(cache))
    return Finding(subject, True, f"its driver is built{f': {built}' if built else ' on first use'}")


def _nio(subject: str) -> Finding:
    try:
        from nio.crypto import ENCRYPTION_ENABLED
    except ImportError as error:
        return Finding(subject, False, str(error), install_command("nio"))
    if not ENCRYPTION_ENABLED:
        return Finding(subject, False, "encryption is not installed", install_command("nio"))
    return Finding(subject, True, "built in, with encryption")


def _chromium() -> Finding:
    found = chromium()
    advice = "needed by browser adapters; on Debian: apt-get install chromium"
    return Finding("Chromium", bool(found), found or "not on PATH", "" if found else advice)


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port or 'any'}"
    try:
        with socket.create_server((settings.host, settings.port)):
            return Finding("Port", True, f"{where} is free")
    except OSError as error:
        return Finding("Port", False, f"{where}: {error.strerror or error}", "set HOST or PORT")


async def _docker(settings: Settings) -> Finding:
    if importlib.util.find_spec("aiodocker") is None:
        return Finding("Docker", False, "aiodocker is missing", install_command("docker"))
    from trafficlight.homeservers.docker.engine import DockerEngine

    engine = DockerEngine(settings.docker_engine)
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await engine.connect()
    except (DeployError, TimeoutError) as error:
        advice = "only needed by the provider docker: start Docker, or set DOCKER_ENGINE"
        return Finding("Docker", False, str(error) or f"{engine.url} does not answer", advice)
    else:
        return Finding("Docker", True, f"{engine.url} ({engine.capacity} homeservers)")
    finally:
        await engine.close()


async def _homerunner(settings: Settings) -> list[Finding]:
    if not settings.homerunner_url:
        return [Finding("homerunner", False, "not configured", "set HOMERUNNER_URL to use one")]
    try:
        provider = HomerunnerProvider(settings.homerunner_url)
    except ConfigError as error:
        return [Finding("homerunner", False, str(error), "correct HOMERUNNER_URL")]
    try:
        health = await provider.health()
    finally:
        await provider.close()
    return [
        Finding("homerunner", not reason, reason or f"{url} answers", "start it" if reason else "")
        for url, reason in health.items()
    ]


async def _types(settings: Settings, providers: ProviderRegistry) -> list[Finding]:
    """Resolve server types to versions and providers."""
    findings = []
    shipped = {kind.__name__: kind().homeservers()[0] for kind in _TYPES}
    named = {name: None for name in (*settings.server_overrides, *settings.server_providers) if name != "*"}
    for name in shipped | named:
        spec = shipped.get(name, HomeServerSpec(name, "", "", settings.images.get(name, "")))
        findings.append(await _type(providers, spec))
    return findings


async def _type(providers: ProviderRegistry, spec: HomeServerSpec) -> Finding:
    provider = providers.provider(spec)
    if (reason := provider.unsupported(spec)) is not None:
        return Finding(spec.type_name, False, reason, "its cases are skipped")
    if isinstance(provider, LocalProvider):
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                detail = f"{spec.recipe} {await provider.resolve(spec)}"
        except (DeployError, TimeoutError) as error:
            return Finding(spec.type_name, False, str(error) or "the package index does not answer")
        return Finding(spec.type_name, True, f"{detail}, {provider.name}")
    if provider.name == "static":
        try:
            await provider.prepare([spec])
        except DeployError as error:
            return Finding(spec.type_name, False, error.message, "start it, or correct SERVER_OVERRIDES")
        return Finding(spec.type_name, True, "answers, static")
    return Finding(spec.type_name, True, f"image {spec.image or 'of IMAGES'}, {provider.name}")


async def _dask(address: str) -> Finding:
    try:
        async with Machines.connected(address, lambda _: None) as machines:
            return Finding("Dask", True, f"{address}, {count(machines.workers, 'worker')}")
    except ConfigError as error:
        return Finding("Dask", False, str(error), "start a scheduler and workers, or leave out DASK")


def diagnose(cache_folder: Path | None = None) -> list[Finding]:
    """Check everything that local homeservers need. Blocks for milliseconds.

    :param cache_folder: the folder for installations; by default the user's cache folder.
    """
    cache = CacheFolder(cache_folder)
    return [_environments(cache), _venv(), _go(), _dendrite(cache), _disk(cache), _data(), _memory()]


def _environments(cache: CacheFolder) -> Finding:
    installed = Environments(cache, "matrix-synapse", lambda _: None).installed()
    if installed:
        return Finding("Synapse environments", True, ", ".join(installed))
    return Finding(
        "Synapse environments", True, "none yet", "the first session installs one in half a minute"
    )


def _venv() -> Finding:
    if importlib.util.find_spec("ensurepip") is not None:
        return Finding("Virtual environments", True, f"made with {sys.executable}")
    advice = "install your system's package python3-venv: Synapse is installed into its own environment"
    return Finding("Virtual environments", False, "this Python has no ensurepip", advice)


def _go() -> Finding:
    go = shutil.which("go")
    return (
        Finding("Go", True, go)
        if go
        else Finding("Go", False, "not on the PATH", "needed to build Dendrite only")
    )


def _dendrite(cache: CacheFolder) -> Finding:
    folder = cache.path("dendrite")
    built = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    return Finding("Dendrite builds", True, ", ".join(built) or "none yet")


def _disk(cache: CacheFolder) -> Finding:
    folder = cache.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    advice = (
        "" if free > _INSTALLATION_BYTES else "a Synapse takes 250 MiB; TRAFFICLIGHT_CACHE_FOLDER moves it"
    )
    if not os.access(folder, os.W_OK):
        return Finding(
            "Cache folder", False, f"{cache.root} cannot be written", "set TRAFFICLIGHT_CACHE_FOLDER"
        )
    return Finding("Cache folder", not advice, f"{cache.root}, {free // _MIB} MiB free", advice)


def _data() -> Finding:
    base = default_base()
    return Finding(
        "Data of running servers", True, f"{base}, {shutil.disk_usage(base).free // _MIB} MiB free"
    )


def _memory() -> Finding:
    detail = f"{available_bytes() // _MIB} MiB available: {capacity_of_this_machine()} homeservers at once"
    return Finding("Memory", True, detail)
