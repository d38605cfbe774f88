"""`trafficlight actions`: list the actions of adapters."""

import difflib
from collections.abc import Callable, Iterable

import click

from trafficlight.clients.catalogue import CLIENTS, Entry, as_json, as_markdown, as_schema, catalogue
from trafficlight.errors import UsageError


@click.command("actions")
@click.argument("name", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md", "json", "schema"]),
    default="text",
    show_default=True,
    help="The output format: text, Markdown, JSON or JSON Schema.",
)
@click.option("--client", type=click.Choice(list(CLIENTS)), help="Only the actions of one client class.")
def command(name: str | None, form: str, client: str | None) -> None:
    """List the actions of adapters, or describe the action NAME."""
    entries = catalogue(client)
    if name is not None:
        wanted = [entry for entry in entries if entry.name == name]
        if not wanted:
            raise UsageError(f"unknown action {name!r}{_suggestion(name, entries)}")
        entries = wanted
    writers: dict[str, Callable[[Iterable[Entry]], str]] = {
        "text": _full if name is not None else _listed,
        "md": as_markdown,
        "json": as_json,
        "schema": as_schema,
    }
    click.echo(writers[form](entries), nl=False)


def _suggestion(name: str, entries: Iterable[Entry]) -> str:
    close = difflib.get_close_matches(name, [entry.name for entry in entries], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _listed(entries: Iterable[Entry]) -> str:
    lines: list[str] = []
    client = None
    for entry in entries:
        if entry.client != client:
            client = entry.client
            lines += [""] * bool(lines) + [client]
        data = ", ".join(one.name + ("" if one.required else "?") for one in entry.data)
        called = f"{entry.name}({data})"
        # Up to the end of the first sentence.
        sentence, dot, _ = " ".join(entry.documentation.split()).partition(". ")
        lines.append(f"  {called}\n      {sentence}{dot.strip()}")
    return "\n".join(lines) + "\n"


def _full(entries: Iterable[Entry]) -> str:
    """Describe actions as the reference page does."""
    page = as_markdown(entries)
    return page[page.index("\n## ") + 1 :]
