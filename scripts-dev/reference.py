"""Write what is generated from the code: reference pages of settings, commands, events,
queries and the Python API, the actions that the suites need, and the sample.

``reference.py`` writes them; ``reference.py --check`` only says whether they are as they should be. A page
keeps what is written around its generated part.
"""

import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from needed_actions import needed_actions
from pydantic import BaseModel
from python_api import python_api

from trafficlight.cli.main import cli
from trafficlight.cli.run import command as run_command
from trafficlight.config import ENVIRONMENT_PREFIX, Settings, key_of
from trafficlight.results.events import Event, kinds
from trafficlight.results.reports.filter import FIELDS
from trafficlight.suites.query import PLANNED

_ROOT = Path(__file__).resolve().parent.parent
_BEGIN, _END = "<!-- generated: scripts-dev/reference.py -->\n", "<!-- end of the generated part -->\n"
# Columns of a help text.
_WIDTH = 100
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; return the exit code."""
    reference = _ROOT / "docs" / "reference"
    driver = _ROOT / "docs" / "how-to" / "write-a-driver.md"
    wanted = {
        driver: _around(driver, needed_actions()),
        reference / "configuration.md": _around(reference / "configuration.md", settings()),
        reference / "cli.md": _around(reference / "cli.md", commands()),
        reference / "events.md": _around(reference / "events.md", events()),
        reference / "queries.md": _around(reference / "queries.md", queries()),
        reference / "python.md": _around(reference / "python.md", python_api()),
        _ROOT / "trafficlight-sample.json": sample(),
    }
    check = "--check" in arguments
    stale = []
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(_ROOT)))
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"out of date: {', '.join(stale)}\nupdate with: .venv/bin/python scripts-dev/reference.py")
        return 1
    return 0


def _around(page: Path, generated: str) -> str:
    """Return a page with its generated part renewed."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{page} has no generated part, from {_BEGIN.strip()} to {_END.strip()}")
    return f"{before}{begin}\n{generated.strip()}\n\n{end}{after}"


def sample() -> str:
    """Return a configuration file that states every default."""
    defaults = Settings().model_dump(mode="json")
    return json.dumps({key_of(field): value for field, value in defaults.items()}, indent=2) + "\n"


def settings() -> str:
    """Return a section for each setting."""
    return "\n".join(_setting_lines())


def _setting_lines() -> Iterator[str]:
    flags = {one.name: max(one.opts, key=len) for one in run_command.params if isinstance(one, click.Option)}
    defaults = Settings().model_dump(mode="json")
    for field, info in Settings.model_fields.items():
        yield f"### `{key_of(field)}`\n"
        yield f"{info.description}\n"
        yield f"- takes: {_words(info.annotation)}"
        yield f"- default: `{json.dumps(defaults[field])}`"
        yield f"- environment: `{ENVIRONMENT_PREFIX}{key_of(field)}`"
        if field in flags:
            yield f"- flag: `{flags[field]}`"
        yield ""


def _words(annotation: Any) -> str:
    """Return what a setting takes, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inside[0])
    if origin in (Union, UnionType):
        words = [_words(one) for one in inside if one is not NoneType]
        return " or ".join([*words, "null"] if NoneType in inside else words)
    if origin is Literal:
        return "one of " + ", ".join(f"`{one}`" for one in inside)
    if origin in (list, tuple):
        return f"a list of {_words(inside[0])}"
    if origin in (dict, Mapping):
        return f"an object: {_words(inside[0])} → {_words(inside[1])}"
    if annotation is Any:
        return "anything"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return "an object of " + ", ".join(f"`{name}` ({_words(one.annotation)})" for name, one in fields)
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return "an object of " + ", ".join(f"`{name}` ({_words(hint)})" for name, hint in hints.items())
    return _WORDS.get(annotation, "text")


def queries() -> str:
    """Return a table of the names that queries know."""
    how = {"text": "contains the value", "name": "is the value", "number": "compares: `>5`, `<=2.5`, `7`"}
    rows = [
        f"| `{name}` | {field.help} | {how[field.kind]} | {'yes' if name in PLANNED else 'no'} |"
        for name, field in FIELDS.items()
    ]
    states = ", ".join(f"`{state.replace(' ', '-')}`" for state in FIELDS["state"].choices)
    head = "| name | what | match | before a run (`-k`) |\n| --- | --- | --- | --- |"
    return "\n".join([head, *rows, "", f"States: {states}."])


def events() -> str:
    """Return a section for each kind of event, from the docstrings and the fields of the classes."""
    return "\n".join(line for kind in kinds() for line in _event_lines(kind))


def _event_lines(kind: type[Event]) -> Iterator[str]:
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__):  # kinds of one sort share fields
        summary, *parts = inspect.cleandoc(base.__doc__ or "").split(":param ")
        named = (part.partition(": ") for part in parts)
        described |= {name: " ".join(text.split()) for name, _, text in named}
    hints = get_type_hints(kind)
    yield f"### `{kind.kind}`\n"
    always = [f"`{name}`" for name in ("case", "adapter") if hints[name] is str]
    has = f" Always has {' and '.join(always)}." if always else ""
    yield f"{' '.join(summary.replace('``', '`').split())}{has} Schema {kind.schema}.\n"
    yield "| field | type | |\n| --- | --- | --- |"
    for name in kind.data_names:
        yield f"| `{name}` | {_words(hints[name])} | {described[name].replace('``', '`').rstrip('.')} |"
    yield ""


def commands() -> str:
    """Return a section for each command: its help text, as the command itself prints it."""
    # No terminal's width and no colours.
    os.environ.pop("COLUMNS", None)
    return "\n".join(_command_lines(click.Context(cli, info_name="trafficlight", **cli.context_settings)))


def _command_lines(context: click.Context) -> Iterator[str]:
    context.terminal_width = _WIDTH
    command = context.command
    yield f"{'##' if context.parent is None else '###'} `{context.command_path}`\n"
    yield f"```text\n{click.unstyle(command.get_help(context)).strip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, f"{context.command_path} lists {name} and does not know it"
            if not found.hidden:
                yield from _command_lines(click.Context(found, parent=context, info_name=name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
