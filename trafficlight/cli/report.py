"""`trafficlight report`: rebuild the reports of a session from its events."""

from pathlib import Path

import click

from trafficlight.config import load
from trafficlight.errors import UsageError
from trafficlight.results.catalog import named_session
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.history.changes import read_changes
from trafficlight.results.history.index import History
from trafficlight.results.journal import is_written, read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.filter import matching
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.json_files import dump, report_json
from trafficlight.results.reports.junit import JunitStyle, junit_bytes
from trafficlight.results.reports.summary import summary
from trafficlight.results.traffic import exchanges, period_of, render_exchanges
from trafficlight.results.writer import rebuild, verdicts_before
from trafficlight.text import escape_control


@click.command("report")
@click.argument("session", default="")
@click.option("--results", type=click.Path(path_type=Path), help="The folder of all sessions' results.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "json", "junit", "text", "requests"]),
    default=None,
    help="Print one report to standard output; requests are those of recorded clients. Default: rewrite all "
    "files in the folder.",
)
@click.option(
    "--filter",
    "query",
    default="",
    metavar="QUERY",
    help="Only the cases that a query means, such as 'state:failure bob:Hydrogen*'; prints text by default.",
)
@click.option("--case", "text", default="", help="Of requests: only cases whose id contains this text.")
@click.option("--role", default="", help="Of requests: only those of this client.")
@click.option(
    "--between", default="", help="Of requests: only those sent in these seconds of the timeline: 12.1:13.4."
)
def command(
    session: str,
    results: Path | None,
    kind: str | None,
    query: str,
    text: str,
    role: str,
    between: str,
) -> None:
    """Rebuild the reports of a session from its events, also after a crash.

    SESSION is the id of a session, or a folder: of a session, or a results folder for its latest session.
    Default: the latest session.
    """
    settings = load({"results_folder": results})
    root = settings.results_root
    folder = ResultsFolder.open(named_session(session or str(root), root))
    try:
        record = SessionRecord.replay(read_events(folder.events))
    except OSError as error:
        raise click.ClickException(f"{folder.events} cannot be read: {error.strerror or error}") from error
    if not record.last_sequence:
        raise click.ClickException(f"{folder.events} has no events")
    record.id = record.id or folder.id
    history = History(folder.path.parent, settings.history)
    if query:
        kind = kind or "text"  # the files in the folder are about all cases
        changes = read_changes(folder.path)
        since = changes.since if changes else {}
        meant = matching(list(record.cases.values()), query, since, over=not is_written(folder.events))
        record.cases = {case.id: case for case in meant}
    match kind:
        case "html":
            changes, over = read_changes(folder.path), not is_written(folder.events)
            before = verdicts_before(history, record)
            click.echo(report_html(record, changes, folder.path, before, over=over), nl=False)
        case "json":
            click.echo(dump(report_json(record, read_changes(folder.path))), nl=False)
        case "junit":
            click.echo(junit_bytes(record, JunitStyle.detect(folder.path)), nl=False)
        case "requests":
            _show_requests(record, folder.path, text, role, period_of(between))
        case "text":
            click.echo("\n".join(summary(record, folder.path)))
        case _:
            rebuild(folder, record, history)
            click.echo("\n".join(summary(record, folder.path)))


def _show_requests(
    record: SessionRecord, folder: Path, text: str, role: str, period: tuple[float, float]
) -> None:
    shown = False
    for case in record.cases.values():
        for attempt in case.attempts if text in case.id else ():
            rows, left_out = exchanges(folder / attempt.folder, attempt.started, role=role, period=period)
            for sentence in left_out:
                click.echo(escape_control(sentence), err=True)
            if rows:
                shown = True
                click.echo(f"{escape_control(case.id)}, attempt {attempt.number}")
                click.echo(escape_control("\n".join(render_exchanges(rows))))
    if not shown:
        raise UsageError("there are no such requests: RECORD_TRAFFIC says of which cases they are recorded")
