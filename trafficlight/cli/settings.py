"""The options that commands share: where settings are read, and logging."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from trafficlight.config import Settings, load
from trafficlight.logs import configure

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The configuration file."),
    click.option("--host", help="The address to listen on.  [default: 127.0.0.1]"),
    click.option("--port", type=int, help="The port to listen on; 0 takes a free one."),
    click.option(
        "--results",
        "results_folder",
        type=click.Path(path_type=Path),
        help="Where results go.  [default: results]",
    ),
    click.option("--workers", type=int, help="Processes that run test code; 0: inside the coordinator."),
    click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged."
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), help="How it is logged."),
)


def lab_options(command: F) -> F:
    """Add the options of every command that runs a lab."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_settings(config: Path | None, **flags: Any) -> Settings:
    """Return the settings with the flags of the command line before all others, and start logging.

    :raises ConfigError: a setting is wrong.
    """
    settings = load(flags, file=config)
    configure(settings.log_level, settings.log_format)
    return settings
