"""`trafficlight adapters`, `pause` and `resume`: the adapters of a running coordinator."""

from collections.abc import Iterable, Iterator

import click

from trafficlight.cli.client import Coordinator, with_coordinator
from trafficlight.errors import UsageError
from trafficlight.http.api.bodies import AdapterList
from trafficlight.text import columns, escape_control, single_line


@click.command("adapters")
@with_coordinator
async def command(coordinator: Coordinator) -> None:
    """List the adapters of a running coordinator: program, type, state, activity, labels, address."""
    for line in _lines(await coordinator.adapters()):
        click.echo(line)


@click.command("pause")
@click.argument("names", metavar="[ADAPTER]...", nargs=-1)
@click.option(
    "--all", "everything", is_flag=True, help="Drain: all adapters, also those that register later."
)
@click.option("--reason", default="manually", show_default=True, help="Shown to people.")
@with_coordinator
async def pause(names: tuple[str, ...], everything: bool, reason: str, coordinator: Coordinator) -> None:
    """Give adapters no new case; their current cases continue.

    ADAPTER is a program, an instance, a label, an address or a uuid, see trafficlight adapters. Its program
    stays paused until trafficlight resume, also when it or the coordinator is started again. --all lasts
    until the coordinator ends.
    """
    await _change(coordinator, names, everything, "pause", "drain", {"reason": reason})


@click.command("resume")
@click.argument("names", metavar="[ADAPTER]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="End a drain; paused adapters stay paused.")
@with_coordinator
async def resume(names: tuple[str, ...], everything: bool, coordinator: Coordinator) -> None:
    """Let paused or quarantined adapters have cases again.

    ADAPTER is a program, an instance, a label, an address or a uuid, see trafficlight adapters.
    """
    await _change(coordinator, names, everything, "resume", "undrain", {})


async def _change(
    coordinator: Coordinator,
    names: tuple[str, ...],
    everything: bool,
    one: str,
    all_: str,
    body: dict[str, str],
) -> None:
    if bool(names) == everything:
        raise UsageError(f"trafficlight {one}: name adapters, or give --all")
    if everything:
        await coordinator.change_adapters(all_, body)
        click.echo(f"{all_}ed")
        return
    listed = await coordinator.adapters()
    # Before the first change, because a name may be wrong.
    for program in dict.fromkeys(program for name in names for program in _programs(listed, name)):
        await coordinator.change_adapters(one, body, program)
        click.echo(f"{one}d {_plain(program)}")


def _programs(listed: AdapterList, name: str) -> list[str]:
    found = [
        adapter.program
        for adapter in listed.adapters
        if name in (adapter.uuid, adapter.program, adapter.instance, adapter.address, *adapter.labels)
    ]
    found += [program for program in listed.paused if program == name]
    if not found:
        raise UsageError(f"there is no adapter {name}: `trafficlight adapters` lists them")
    return found


def _lines(listed: AdapterList) -> Iterator[str]:
    if listed.drained:
        yield f"drained, no adapter gets a new case: {_plain(listed.drained)}"
    here = {adapter.program for adapter in listed.adapters}
    yield from columns(_rows(listed))
    for program, reason in listed.paused.items():
        if program not in here:
            yield f"{_plain(program)}  is paused, and not here now: {_plain(reason)}"
    if not listed.adapters:
        yield "no adapter is registered"


def _rows(listed: AdapterList) -> Iterable[tuple[str, ...]]:
    for one in listed.adapters:
        doing = f"{one.case} as {one.role}: {one.doing}" if one.case else one.doing
        state = "quarantined" if one.quarantined else "paused" if one.paused else one.state
        where = " ".join([*one.labels, one.address])
        yield tuple(map(_plain, (one.program, f"{one.type} {one.version}", state, where, doing)))


def _plain(text: str) -> str:
    return single_line(escape_control(text))
