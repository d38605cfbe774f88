"""Types of command-line options; apart from the options that read YAML, which the slim install lacks."""

import json
from typing import Any

import click


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
