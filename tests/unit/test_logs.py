"""Records say what they are about, as text and as JSON."""

import asyncio
import io
import json
import logging
import sys

import pytest

from trafficlight.logs import JsonFormatter, LogContext, TextFormatter, configure


def record(message: str, *arguments: object, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("no")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("lab", logging.WARNING, "x.py", 1, message, arguments, info)


def test_json_is_one_line_whatever_is_in_it() -> None:
    line = JsonFormatter().format(record("%s\nnew \x1b[31m \ud800 é", "a", error=True))
    assert "\n" not in line
    assert line.isascii()
    read = json.loads(line)
    assert (read["level"], read["logger"], read["message"]) == (
        "warning",
        "lab",
        "a\nnew \x1b[31m \ud800 é",
    )
    assert read["time"].endswith("+00:00")
    assert "ValueError: no" in read["traceback"]
    assert "session" not in read


async def test_a_task_and_its_children_carry_what_they_are_about() -> None:
    formatter = JsonFormatter()

    async def child() -> dict[str, str]:
        LogContext(role="alice", adapter="a-1").enter()
        read: dict[str, str] = json.loads(formatter.format(record("x")))
        return read

    async def attempt() -> dict[str, str]:
        LogContext(session="s", case="c").enter()
        return await asyncio.create_task(child())

    about = await asyncio.create_task(attempt())
    assert about.items() >= {"session": "s", "case": "c", "role": "alice", "adapter": "a-1"}.items()
    assert LogContext.current() == LogContext()


async def test_text_has_it_at_the_end() -> None:
    LogContext(session="s", adapter="a").enter()
    assert TextFormatter().format(record("said")).endswith("WARNING lab: said [session=s adapter=a]")


async def test_an_id_from_a_url_cannot_forge_a_line() -> None:
    LogContext(adapter="x\n2026-01-01 CRITICAL forged \x1b[31m").enter()
    line = TextFormatter().format(record("said"))
    assert line.isprintable()
    assert line.endswith(r"said [adapter='x\n2026-01-01 CRITICAL forged \x1b[31m']")


@pytest.mark.parametrize("form", ["text", "json"])
def test_configuring(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    stream = io.StringIO()
    configure("info", "json" if form == "json" else "text", stream)
    logging.getLogger("lab").info("hello")
    logging.getLogger("lab").debug("not this")
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["message"] == "hello") if form == "json" else line.endswith("lab: hello")
