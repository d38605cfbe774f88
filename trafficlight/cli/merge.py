"""`trafficlight merge`: one session out of its shards."""

import os
from pathlib import Path

import click
from rich.console import Console

from trafficlight.cli.options import load_settings
from trafficlight.cli.progress import append_step_summary, print_summary
from trafficlight.cli.runtime import command_line
from trafficlight.cli.types import config_option
from trafficlight.clock import SystemClock
from trafficlight.coordinator.provenance import job_in
from trafficlight.errors import UsageError
from trafficlight.results.catalog import session_in
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.history.index import History
from trafficlight.results.merge import Shard, check_shards, merge
from trafficlight.results.reports.summary import summary


@click.command("merge")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@config_option
@click.option(
    "--results",
    "results_folder",
    type=click.Path(path_type=Path),
    help="The results folder of the new session.  [default: results]",
)
def command(folders: tuple[Path, ...], config: Path | None, results_folder: Path | None) -> int:
    """Make one session of the shards that trafficlight run --shard ran, such as jobs of a CI system.

    DIR is the folder of a session, or a results folder for its newest session. The cases of a shard that is
    missing count as not run. The folders of the shards stay as they are.

    Exit code: what one session of all cases would have; 2 if the folders are not shards of one session, 3 if
    a shard is missing and no case failed.
    """
    settings = load_settings(config, results_folder=results_folder)
    shards = []
    for given in folders:
        if (session := session_in(given)) is None:
            click.echo(f"there is no session in {given}", err=True)
        else:
            shards.append(Shard.read(session))
    if not shards:
        raise UsageError("there is nothing to merge: no folder has a session")
    shards.sort(key=lambda shard: shard.number)
    check_shards(shards)
    history = History(settings.results_root, settings.history)
    job = settings.job_url or job_in(os.environ)
    with ResultsFolder.assembled(settings.results_root, SystemClock().now().date()) as folder:
        record = merge(shards, folder, history, command_line(), job)
    print_summary(Console(highlight=False), summary(record, folder.path), folder.path)
    append_step_summary(record, folder.path)
    return record.exit_code or 0
