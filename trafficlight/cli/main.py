"""The command `trafficlight`; the module of a subcommand is loaded when the subcommand is called."""

import importlib
import importlib.util
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from trafficlight.errors import NothingLeftError, TrafficlightError
from trafficlight.version import VERSION, install_command

# What shells report for a program that SIGPIPE ended.
_BROKEN_PIPE = 141
_COMMANDS = {
    "run": "Run tests with a coordinator, adapters and homeservers on this machine.",
    "serve": "Run a coordinator for adapters that run elsewhere.",
    "submit": "Start a session on a running coordinator.",
    "watch": "Follow a session of a running coordinator.",
    "sessions": "List the sessions of a running coordinator.",
    "cancel": "Cancel a session of a running coordinator, or one of its cases.",
    "adapters": "List the adapters of a running coordinator.",
    "pause": "Give adapters of a running coordinator no new case.",
    "resume": "Let paused or quarantined adapters have cases again.",
    "collect": "List the cases that would run.",
    "adapter": "Run a built-in adapter, or check your own.",
    "actions": "List the actions of adapters.",
    "diff": "Compare two sessions: new, known and fixed failures.",
    "report": "Rebuild the reports of a session.",
    "merge": "Make one session of the shards that several jobs ran.",
    "homeserver": "Start temporary homeservers.",
    "prepare": "Install the homeservers of tests ahead, for labs without a network.",
    "clean": "Remove installed homeservers that nothing uses, or results that are not kept.",
    "doctor": "Check this machine and the settings, and suggest fixes.",
}
# The modules of subcommands that share one.
_SHARED = {
    "submit": "sessions",
    "watch": "sessions",
    "sessions": "sessions",
    "cancel": "sessions",
    "clean": "prepare",
    "pause": "adapters",
    "resume": "adapters",
}


# What options of other test runners are called here.
_INSTEAD = {
    "-j": "-n N",
    "-m": "-k EXPR",
    "-q": "trafficlight collect --quiet",
    "--capture": "-s",
    "--count": "--repeat N",
    "--debug": "--pdb",
    "--ff": "--lf",
    "--failed-first": "--lf",
    "--grep": "-k EXPR",
    "--junit-xml": "--results; the session's folder has a junit.xml",
    "--junitxml": "--results; the session's folder has a junit.xml",
    "--list": "--collect-only",
    "--numprocesses": "-n N",
    "--output": "--results",
    "--parallel": "-n N",
    "--project": "--client TYPE",
    "--reporter": "the setting REPORTERS",
    "--reruns": "--deflake N",
    "--retries": "--deflake N",
    "--sw": "-x and then --lf",
    "--stepwise": "-x and then --lf",
    "--trace": "breakpoint() in the test and -s",
}


class _Lazy(click.Group):
    """Loads the module of a subcommand only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        shared = _SHARED.get(cmd_name)
        module = importlib.import_module(f"trafficlight.cli.{shared or cmd_name}")
        command: click.Command = getattr(module, cmd_name if shared else "command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as error:  # click would exit with 1, as rich's console does
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, BrokenPipeError):
                cause = cause.__context__
            if cause is None:
                raise
            # The reader of the output is gone, such as head: flushing at exit must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_BROKEN_PIPE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="trafficlight")
def cli() -> None:
    """The interop lab for Matrix: real clients, real homeservers, every combination.

    Settings come from options, then from TRAFFICLIGHT_* variables, then from trafficlight.json in this
    directory or in instance/.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its exit code; 2 for a usage error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
            if os.environ.get("GITHUB_ACTIONS"):
                stream.write = without_commands(stream.write)  # type: ignore[method-assign]
    try:
        code = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and (instead := _INSTEAD.get(error.option_name)):
            error = click.UsageError(f"No such option '{error.option_name}'. Use {instead}.", error.ctx)
        error.show()
        sys.exit(2)
    except ModuleNotFoundError as error:
        if importlib.util.find_spec("quart"):  # the lab is installed: something else is broken
            raise
        extra = "nio" if error.name == "nio" else "lab"
        click.echo(
            f"trafficlight: the slim install has no {error.name}; add it with: {install_command(extra)}",
            err=True,
        )
        sys.exit(2)
    except NothingLeftError as error:
        click.echo(f"trafficlight: {error}")
        sys.exit(0)
    except TrafficlightError as error:
        click.echo(f"trafficlight: {error}", err=True)
        sys.exit(2)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the exit code must not be 1
        sys.exit(_exit_code_of(error))
    sys.exit(code if isinstance(code, int) else 0)


def without_commands(write: Callable[[str], int]) -> Callable[[str], int]:
    """Return a stream's `write` that spells lines so that GitHub Actions does not take them for commands.

    What tests and adapters print may begin with ``::`` or contain ``##[``.
    """
    at_start = True

    def changed(text: str) -> int:
        nonlocal at_start
        begin = r"(\A|[\r\n])" if at_start else r"([\r\n])"
        write(re.sub(rf"{begin}(\s*)::", r"\1\2: :", text).replace("##[", "# #["))
        *lines, last = re.split(r"[\r\n]", text)
        at_start = not last.strip() and (at_start or bool(lines))
        return len(text)

    return changed


def _has_directory() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _exit_code_of(error: Exception | SystemExit) -> int:
    """Report an error that no command expects and return the exit code: never 1, a failure of a client."""
    if isinstance(error, SystemExit):
        # No command exits so: a task that a test without workers has left behind.
        click.echo(f"trafficlight: code of a test ended the lab: sys.exit({error.code!r})", err=True)
        return 3
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    # A wrong place: a folder that is not writable, a full disk. Path.resolve reports a loop in its own way.
    if isinstance(cause, OSError) or str(cause).startswith("Symlink loop"):
        place = f"{cause.filename}: " if isinstance(cause, OSError) and cause.filename else ""
        text = cause.strerror if isinstance(cause, OSError) else ""
        if isinstance(cause, FileNotFoundError) and not place and not _has_directory():
            text = "the current directory has been deleted"
        click.echo(f"trafficlight: {place}{text or cause}", err=True)
        return 2
    if isinstance(cause, TrafficlightError):
        click.echo(f"trafficlight: {cause}", err=True)
        return 2
    traceback.print_exception(error)
    return 3
