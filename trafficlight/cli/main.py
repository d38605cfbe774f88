"""The command `trafficlight`: one module for each of its commands, loaded when it is called."""

import importlib
import importlib.util
import io
import sys
from collections.abc import Sequence

import click

from trafficlight.errors import TrafficlightError
from trafficlight.version import VERSION, install_command

_COMMANDS = {
    "run": "Run tests here: coordinator, adapters and homeservers, until the verdict.",
    "serve": "Run the coordinator for adapters that come from elsewhere.",
    "submit": "Ask a running coordinator for a session.",
    "watch": "Follow a session of a running coordinator.",
    "collect": "Print which cases would run.",
    "adapter": "Run an adapter that ships, or check one of your own.",
    "actions": "Print the catalogue of actions.",
    "report": "Render the results of a session again.",
    "homeserver": "Run throw-away homeservers.",
    "doctor": "Say what this machine has, what is missing, and what to do about it.",
}


class _Lazy(click.Group):
    """Loads a command's module only when it is called, so that each starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"trafficlight.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="trafficlight")
def cli() -> None:
    """The interop lab for Matrix: real clients, real homeservers, every combination.

    Settings come from flags, then TRAFFICLIGHT_* variables, then trafficlight.json here or in instance/.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code: 2 for what cannot be carried out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show must not end a session
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
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
    except TrafficlightError as error:
        click.echo(f"trafficlight: {error}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
