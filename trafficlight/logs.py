"""What the coordinator logs: every record says which session, case, role and adapter it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class LogContext:
    """What the task at hand is about; empty where that is unknown."""

    session: str = ""
    case: str = ""
    role: str = ""
    adapter: str = ""

    def enter(self) -> None:
        """Let the records of this task, and of the tasks that it starts, carry it.

        What is empty here stays as it is. Nothing needs to be undone: a task has a context of its own.
        """
        outer = LogContext.current()
        _current.set(
            LogContext(
                self.session or outer.session,
                self.case or outer.case,
                self.role or outer.role,
                self.adapter or outer.adapter,
            )
        )

    @staticmethod
    def current() -> "LogContext":
        """Return what the task at hand is about."""
        return _current.get()

    def known(self) -> dict[str, str]:
        """Return what is known, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}


_current: ContextVar[LogContext] = ContextVar("log context", default=LogContext())  # noqa: B039 - frozen


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of ASCII, whatever its message holds."""
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **LogContext.current().known(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """One line for people, with what it is about in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """Return the record's line, without its traceback."""
        about = LogContext.current().known()
        suffix = (
            f" [{' '.join(f'{name}={_printable(value)}' for name, value in about.items())}]" if about else ""
        )
        return super().formatMessage(record) + suffix


def _printable(text: str) -> str:
    """Return a text that may come from a URL, without line breaks and control characters."""
    return text if text.isprintable() else ascii(text)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is the standard error output at that time: a live display replaces it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Start logging.

    :param level: the lowest level that is logged, by its name.
    :param form: for people or for programs.
    :param stream: where to; the standard error output by default.
    """
    handler = logging.StreamHandler(stream) if stream is not None else _StandardError()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
