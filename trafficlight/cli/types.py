"""What options of commands are made of; apart from those that read YAML, which the slim install lacks."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def adding(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return the decorator that adds options to a command, in this order."""

    def add(command: F) -> F:
        return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)

    return add


config_option = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="The configuration file."
)


class JsonObjectType(click.ParamType[Any]):
    """A JSON object as the value of an option."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse the value."""
        try:
            read = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value[:200]!r} is not JSON: {error}", param, ctx)
        if not isinstance(read, dict):
            self.fail(f"{value!r} is not a JSON object", param, ctx)
        return read
