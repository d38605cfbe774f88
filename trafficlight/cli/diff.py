"""`trafficlight diff`: what changed between two sessions."""

from pathlib import Path

import click

from trafficlight.config import load
from trafficlight.results.catalog import named_session
from trafficlight.results.history.changes import compare_folders
from trafficlight.results.record import ExitCode
from trafficlight.results.reports.changes import change_lines


@click.command("diff")
@click.argument("before")
@click.argument("after", default="latest")
@click.option("--results", type=click.Path(path_type=Path), help="The folder of all sessions' results.")
@click.option(
    "--format", "kind", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How."
)
def command(before: str, after: str, results: Path | None, kind: str) -> int:
    """Compare two sessions: new, known, fixed and slower cases, measurements, versions.

    BEFORE and AFTER are ids of sessions, or folders: of a session, or a results folder for its latest
    session. Default for AFTER: the latest session.

    Exit code: 1 if there are new failures, else 0; 2 if there is no such session.
    """
    root = load({"results_folder": results}).results_root
    changes = compare_folders(named_session(before, root), named_session(after, root))
    if kind == "json":
        click.echo(changes.model_dump_json(indent=2))
    else:
        click.echo("\n".join(change_lines(changes, known=True)))
    return int(ExitCode.FAILURE if changes.of("new") else ExitCode.SUCCESS)
