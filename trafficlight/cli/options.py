"""Options that several commands share: which cases run, where settings are read, logging."""

import functools
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from trafficlight.cli.types import JsonObjectType, adding, config_option
from trafficlight.config import Settings, configuration_in, load
from trafficlight.errors import UsageError
from trafficlight.logs import configure
from trafficlight.results.catalog import read_durations, session_in
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import is_written, read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import rebuild
from trafficlight.suites.discovery import root_of
from trafficlight.suites.selection import Selection, SessionRequest, read_failed
from trafficlight.suites.targets import located
from trafficlight.suites.yaml_files import FAILED_CASES, read_expected_failures
from trafficlight.text import split_outside

F = TypeVar("F", bound=Callable[..., Any])


class _Shard(click.ParamType[Any]):
    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        part, _, parts = str(value).partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            self.fail(f"{value!r} is not of the form I/N, with I from 1 to N", param, ctx)
        return int(part), int(parts)


class _Durations(click.ParamType[Any]):
    name = "SESSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        number = str(value)
        if number.isdecimal() and int(number) < 1:
            self.fail(f"{number} is not a number of cases", param, ctx)
        return int(number) if number.isdecimal() else number


class _Names(click.ParamType[Any]):
    name = "NAMES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(split_outside(value)) if isinstance(value, str) else value


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_selection_options = adding(
    click.option(
        "-k",
        "keyword",
        metavar="QUERY",
        default="",
        help="Only cases whose id contains these words, or with this type in a role, bob:Hydrogen*; with "
        "and, or, not, parentheses.",
    ),
    click.option(
        "--clients",
        "client_types",
        type=_Names(),
        metavar="TYPE,...",
        default=(),
        help="The clients in roles for any Matrix client, such as nio,js-sdk; sdk, browser and all are "
        "groups.  [default: nio]",
    ),
    click.option(
        "--servers",
        "server_types",
        type=_Names(),
        metavar="TYPE,...",
        default=(),
        help="The homeservers in roles for any homeserver, such as synapse,dendrite, with settings in "
        "parentheses: synapse(presence.enabled=true).  [default: synapse]",
    ),
    click.option(
        "--client",
        "clients",
        metavar="TYPE",
        multiple=True,
        help="Only cases whose clients are all of these types.",
    ),
    click.option(
        "--server",
        "servers",
        metavar="TYPE",
        multiple=True,
        help="Only cases whose servers are all of these types.",
    ),
    click.option(
        "--parameters", type=JsonObjectType(), help="Parameter values that replace those of the tests."
    ),
    click.option(
        "--pairwise", is_flag=True, help="Cover every pair of types and values instead of every combination."
    ),
    click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only N cases, chosen at random."),
    click.option("--seed", type=int, help="The seed of --sample, to choose the same cases again."),
    click.option("--shard", type=_Shard(), help="Only part I of N parts of equal size."),
    click.option(
        "--durations",
        type=_Durations(),
        multiple=True,
        help="With --shard: parts that take equally long, by the durations of cases in SESSION, a name or a "
        "folder. Of run, a number: list so many of the slowest cases at the end.",
    ),
    click.option(
        "--repeat", type=click.IntRange(min=1), default=1, metavar="N", help="Run each case N times."
    ),
    click.option(
        "--rerun-failed", metavar="SESSION", help="Only cases that failed in SESSION, a name or a folder."
    ),
    click.option(
        "--lf",
        "--last-failed",
        "rerun_failed",
        flag_value="latest",
        help="The same as --rerun-failed latest.",
    ),
    click.option(
        "--expected-failures", type=_FILE, metavar="FILE", help="A YAML file that lists known failures."
    ),
)
_PLAIN = (
    "keyword",
    "client_types",
    "server_types",
    "clients",
    "servers",
    "pairwise",
    "sample",
    "shard",
    "repeat",
)


def selection_options(command: F, *, lists_slowest: bool = False) -> F:
    """Add the options that choose cases; the command receives them as one `selection`.

    :param lists_slowest: whether it lists the slowest cases: it receives their number as `slowest`.
    """

    @functools.wraps(command)
    def with_selection(
        *args: Any,
        seed: int | None,
        parameters: dict[str, Any] | None,
        rerun_failed: str | None,
        expected_failures: Path | None,
        durations: tuple[int | str, ...],
        **options: Any,
    ) -> Any:
        chosen = {name: options.pop(name) for name in _PLAIN}
        sessions = [one for one in durations if isinstance(one, str)]
        numbers = [one for one in durations if isinstance(one, int)]
        if lists_slowest:
            options["slowest"] = max(numbers, default=0)
        elif numbers:
            raise UsageError(f"--durations {numbers[0]}: only trafficlight run lists the slowest cases")
        if sessions and chosen["shard"] is None:
            raise UsageError(f"--durations {sessions[-1]} balances shards: add --shard I/N")
        if chosen["shard"] is not None and chosen["sample"] is not None and seed is None:
            raise UsageError("--sample with --shard needs --seed: all shards are of one sample")
        selection = Selection(
            **chosen,
            # Always known afterwards, so that the sample can be drawn again.
            seed=secrets.randbelow(1_000_000) if seed is None else seed,
            parameters=parameters or {},
            durations=_durations(sessions[-1], options) if sessions else {},
            only=None if rerun_failed is None else read_failed(_session(rerun_failed, options)),
            expected_failures=read_expected_failures(expected_failures) if expected_failures else [],
        )
        return command(*args, selection=selection, **options)

    return _selection_options(with_selection)  # type: ignore[return-value]


def _durations(given: str, options: dict[str, Any]) -> dict[str, float]:
    """Return how long cases took in a session, given by name or path; none if the folder holds no session."""
    session = session_in(_path(given, options))
    if session is None:
        click.echo(f"there is no session in {given}: the shards are of equal size", err=True)
        return {}
    return read_durations(session / "events.jsonl")


def _path(given: str, options: dict[str, Any]) -> Path:
    path = Path(given)
    if path.exists():
        return path
    settings = load({"results_folder": options.get("results_folder")}, file=options.get("config"))
    return settings.results_root / given


def _session(given: str, options: dict[str, Any]) -> Path:
    """Return the folder of a session, given by name or path; write the reports that a killed one lacks."""
    path = _path(given, options)
    events = path / "events.jsonl"
    if events.is_file() and not (path / FAILED_CASES).exists():
        if is_written(events):
            raise UsageError(f"{path} is of a session that runs: wait for its end")
        rebuild(ResultsFolder.open(path), SessionRecord.replay(read_events(events)))
        click.echo(f"the session in {path} was killed: its reports are complete now", err=True)
    return path


_ending_options = adding(
    click.option("-x", "--exit-first", is_flag=True, help="Stop after the first failure or error."),
    click.option(
        "--maxfail",
        "max_failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="Stop after N failures and errors.",
    ),
    click.option(
        "--deflake", type=click.IntRange(0), default=0, metavar="N", help="Retry a failed case up to N times."
    ),
    click.option(
        "--retry-errors",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Retry a case up to N times when it ends in error, but not after a failure.",
    ),
)


def request_options(command: F) -> F:
    """Add the options that say when a session or a case ends, below :func:`selection_options`.

    The command receives what both ask for as one `request`, without its targets.
    """

    @functools.wraps(command)
    def with_request(
        *args: Any,
        selection: Selection,
        exit_first: bool,
        max_failures: int | None,
        deflake: int,
        retry_errors: int,
        **options: Any,
    ) -> Any:
        request = SessionRequest(
            **dict(selection),
            exit_first=exit_first,
            max_failures=max_failures,
            deflake=deflake,
            retry_errors=retry_errors,
        )
        return command(*args, request=request, **options)

    return _ending_options(with_request)  # type: ignore[return-value]


lab_options = adding(
    config_option,
    click.option("--host", help="The address to listen on.  [default: 127.0.0.1]"),
    click.option("--port", type=int, help="The port to listen on; 0: any free port."),
    click.option(
        "--results",
        "results_folder",
        type=click.Path(path_type=Path),
        help="The results folder.  [default: results]",
    ),
    click.option(
        "--workers",
        type=int,
        help="Worker processes to keep ready; not a limit. 0: run tests inside the coordinator.",
    ),
    click.option(
        "-n", "case_limit", type=click.IntRange(min=1), metavar="N", help="Run at most N cases at once."
    ),
    click.option(
        "--share-servers",
        is_flag=True,
        default=None,
        help="Let cases share homeservers, except those whose tests operate them or have isolated = True.",
    ),
    click.option(
        "--timeout",
        "case_deadline",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long the test of a case may take.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        default=None,
        help="Exit code 3 for an unsupported case, an unexpected success or a warning.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="The lowest level that is logged.",
    ),
    click.option("-v", "--verbose", "log_level", flag_value="info", help="The same as --log-level info."),
    click.option("--log-format", type=click.Choice(["text", "json"]), help="The format of log lines."),
)
"""Adds the options of every command that runs a lab."""


def load_settings(config: Path | None, targets: Iterable[str] = (), **flags: Any) -> Settings:
    """Read the settings, which options of the command line override, and configure logging.

    :param targets: what is to run; a configuration file beside it that is not read gets a warning.

    :raises ConfigError: a setting is wrong.
    """
    settings = load(flags, file=config)
    configure(settings.log_level, settings.log_format)
    warn_of_unread(config, targets)
    return settings


def warn_of_unread(config: Path | None, targets: Iterable[str]) -> None:
    """Warn of configuration files beside targets: without ``--config``, the current directory's is read."""
    here, warned = Path.cwd(), set[Path]()
    for target in targets if config is None else ():
        place, _ = located(target, here)
        root = root_of(place if place.is_dir() else place.parent) if place is not None else None
        if root is None or root in (here, *warned) or (file := configuration_in(root)) is None:
            continue
        warned.add(root)
        click.echo(f"warning: {file} is not read: run this in {root}, or name it by --config", err=True)
