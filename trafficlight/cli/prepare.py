"""`trafficlight prepare` and `clean`: what is installed for the homeservers and clients of tests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import click

from trafficlight.cache import CacheFolder
from trafficlight.cli.collect import planned
from trafficlight.cli.options import load_settings, selection_options
from trafficlight.cli.types import config_option
from trafficlight.clock import SystemClock
from trafficlight.config import Settings
from trafficlight.coordinator.supervisor import programs_of
from trafficlight.errors import DeployError, UsageError
from trafficlight.homeservers.registry import build_providers, configured_recipes
from trafficlight.processes import showing_life
from trafficlight.results.record import ExitCode
from trafficlight.results.retention import excess, remove
from trafficlight.server_types import Dendrite, HomeServerSpec, SynapsePostgres, SynapseStable
from trafficlight.suites.model import Case
from trafficlight.suites.selection import Selection
from trafficlight.text import escape_control, size


@click.command("prepare")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@selection_options
@config_option
def command(paths: tuple[str, ...], selection: Selection, config: Path | None) -> int:
    """Install the homeservers and clients of tests ahead: run then needs no network.

    Takes the paths and options of trafficlight run. Default: the setting TESTS, else the built-in suites. The
    installations are in CACHE_FOLDER; those that are there already are kept.

    Exit code: 0, 2 if there is nothing to run, 3 if an installation failed.
    """
    return asyncio.run(_prepare(paths, selection, load_settings(config, paths)))


async def _prepare(paths: Sequence[str], selection: Selection, settings: Settings) -> int:
    cases = await _cases(paths, selection, settings)
    specs = _specs(cases)

    def progress(line: str) -> None:
        click.echo(f"  {line}")

    providers = build_providers(settings, progress)
    good = True
    try:
        for spec in specs:
            unsupported, install = partial(providers.unsupported, spec), partial(providers.prepare, [spec])
            async with showing_life(f"{spec.type_name}: still being prepared", progress, SystemClock()):
                good &= await _installed(spec.type_name, unsupported, install)
    finally:
        await providers.close()
    cache = CacheFolder(settings.cache_folder)
    for program in programs_of(settings.adapters, cases):
        if program.recipe is not None:
            recipe = program.recipe(cache, progress)
            name = f"{program.name} {program.version}" if program.version else program.name
            good &= await _installed(name, recipe.unsupported, partial(recipe.install, program.version))
    return int(ExitCode.SUCCESS if good else ExitCode.LAB_ERROR)


async def _installed(
    name: str, unsupported: Callable[[], str | None], install: Callable[[], Awaitable[object]]
) -> bool:
    """Install something and say so; return whether that did not fail."""
    if (reason := await asyncio.to_thread(unsupported)) is not None:
        click.echo(f"skipped  {name}: {reason}")
        return True
    try:
        await install()
    except DeployError as error:
        click.echo(f"error    {name}: {escape_control(str(error))}")
        return False
    click.echo(f"ready    {name}")
    return True


async def _cases(paths: Sequence[str], selection: Selection, settings: Settings) -> list[Case]:
    """Return the cases that a run of these tests would start."""
    found = await planned(tuple(paths or settings.tests), selection, settings)
    for problem in found.problems:
        click.echo(f"problem  {problem}", err=True)
    if not found.cases:
        raise UsageError(found.emptiness)
    return [case for case in found.cases if case.skip is None]


def _specs(cases: Iterable[Case]) -> list[HomeServerSpec]:
    """Return the homeservers of cases."""
    return list(dict.fromkeys(spec for case in cases for slot in case.servers for spec in slot.homeservers))


@click.command("clean")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option(
    "--results",
    "of_results",
    is_flag=True,
    help="Remove the sessions that KEEP_RESULTS does not keep instead.",
)
@config_option
def clean(paths: tuple[str, ...], dry_run: bool, of_results: bool, config: Path | None) -> None:
    """Remove installed homeservers and built drivers that neither the settings nor tests use.

    PATH is where tests are. Default: the setting TESTS, else the built-in suites. The versions of the
    settings are kept, and those that a running lab uses.
    """
    settings = load_settings(config)
    if of_results:
        _clean_results(settings, dry_run)
    else:
        asyncio.run(_clean(paths, dry_run, settings))


def _clean_results(settings: Settings, dry_run: bool) -> None:
    root = settings.results_root
    if settings.keep_results is None:
        raise UsageError("KEEP_RESULTS is not set: every session is kept")
    if not root.is_dir():
        raise UsageError(f"there is no results folder {root}")
    freed = 0
    for one in list(excess(root, settings.keep_results)):
        if not dry_run:
            remove(one.folder)
        freed += one.bytes
        what = "would remove" if dry_run else "removed"
        click.echo(f"{what:<12}  {one.folder.name}  {size(one.bytes)}  {one.reason}")
    click.echo(f"{size(freed)} {'would be ' if dry_run else ''}freed in {root}")


async def _clean(paths: Sequence[str], dry_run: bool, settings: Settings) -> None:
    cases = await _cases(paths, Selection(), settings)
    used = _specs(cases)
    used += [spec for kind in (SynapseStable(), SynapsePostgres(), Dendrite()) for spec in kind.homeservers()]
    kept = await _installations(used, cases, settings)
    cache, freed = CacheFolder(settings.cache_folder), 0
    # Only beside what is used: another program may keep something else in the folder.
    for family in sorted({name.partition("/")[0] for name in kept}):
        for name in await asyncio.to_thread(cache.names, family):
            if name in kept:
                continue
            taken = await asyncio.to_thread(cache.size, name)
            if not dry_run and not await cache.remove(name):
                click.echo(f"in use        {name}")
                continue
            freed += taken
            click.echo(f"{'would remove' if dry_run else 'removed':<12}  {name}  {size(taken)}")
    click.echo(f"{size(freed)} {'would be ' if dry_run else ''}freed in {cache.root}")


class _Names(CacheFolder):
    """Notes what recipes would install, and installs nothing."""

    def __init__(self, root: Path | None) -> None:
        super().__init__(root)
        self.noted: set[str] = set()

    async def ensure(self, name: str, *_: object) -> Path:
        self.noted.add(name)
        return self.path(name)


async def _installations(
    specs: Sequence[HomeServerSpec], cases: Iterable[Case], settings: Settings
) -> set[str]:
    """Return the names of the folders in the cache that homeservers and clients use."""
    cache = _Names(settings.cache_folder)
    recipes = {recipe.name: recipe for recipe in configured_recipes(settings, cache, lambda _: None)}
    providers = build_providers(settings)
    try:
        for spec in dict.fromkeys(specs):
            if providers.provider(spec).name == "local" and (recipe := recipes.get(spec.recipe)) is not None:
                await recipe.install(await recipe.resolve(spec.version))
    finally:
        await providers.close()
    # The stable versions are kept too.
    for program in [*programs_of(settings.adapters, cases), *programs_of(settings.adapters)]:
        if program.recipe is not None and await asyncio.to_thread(program.recipe.unsupported) is None:
            await program.recipe(cache, lambda _: None).install(program.version)
    return cache.noted
