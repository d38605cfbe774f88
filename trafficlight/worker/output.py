"""Output and log records of test code go to the log of its case, also if several cases share a process."""

import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

_LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# Characters that UTF-8 cannot encode are escaped.
_ERRORS = "backslashreplace"


class _UtcFormatter(logging.Formatter):
    """The times of a case's log are those of its page and of its homeservers."""

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s,%03dZ"


class CaseLog:
    """The log of one attempt: `log.info` for people, `log.debug` with everything.

    :param folder: the attempt's folder; a file is made when the first line comes.
    :param on_record: called with the level and text of every line of the test's own logger from INFO up.
    """

    def __init__(self, folder: Path, on_record: Callable[[str, str], None] | None = None) -> None:
        # Not registered with the logging module, so that nothing of a case outlives it.
        self.logger = logging.Logger("test", logging.DEBUG)
        self._handlers: list[logging.Handler] = []
        for name, level in (("log.info", logging.INFO), ("log.debug", logging.DEBUG)):
            handler = logging.FileHandler(
                folder / name, encoding="utf-8", errors="backslashreplace", delay=True
            )
            handler.setLevel(level)
            handler.setFormatter(_UtcFormatter(_LINE))
            self._handlers.append(handler)
            self.logger.addHandler(handler)
        self._on_record = on_record
        if on_record is not None:
            self.logger.addFilter(self._forward)
        self.output = logging.Logger("output", logging.DEBUG)
        for known in self._handlers:
            self.output.addHandler(known)
        self._partial: dict[int, list[str]] = {}

    def _forward(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.INFO and self._on_record is not None:
            self._on_record(record.levelname.lower(), record.getMessage())
        return True

    def handle(self, record: logging.LogRecord) -> None:
        """Write a record of another logger."""
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def printed(self, text: str, level: int) -> None:
        """Write printed text: complete lines at once, the rest with what follows."""
        # Pieces of a line are joined once: a test may print a very long one a character at a time.
        first, *more = text.split("\n")
        self._partial.setdefault(level, []).append(first)
        for piece in more:
            self.output.log(level, "%s", "".join(self._partial[level]))
            self._partial[level] = [piece]

    def close(self) -> None:
        """Write incomplete lines, and close the files."""
        for level, pieces in self._partial.items():
            if rest := "".join(pieces):
                self.output.log(level, "%s", rest)
        self._partial.clear()
        for handler in self._handlers:
            handler.close()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Direct output and log records of this context to this log."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[CaseLog | None] = ContextVar("trafficlight_case_log", default=None)


class _Output(io.TextIOBase):
    """A standard stream that writes to the log of the case that prints.

    :param shown: whether the original stream gets it, too.
    """

    def __init__(self, original: TextIO, level: int, *, shown: bool) -> None:
        self._original = original
        self._level = level
        self._shown = shown

    def write(self, text: str) -> int:
        if (log := _CURRENT.get()) is not None:
            log.printed(text, self._level)
            if not self._shown:
                return len(text)
        return self._original.write(text)

    def flush(self) -> None:
        self._original.flush()

    def isatty(self) -> bool:
        return self._original.isatty()

    def fileno(self) -> int:
        return self._original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._original.errors  # without it, input() edits no lines


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if (log := _CURRENT.get()) is not None:
            log.handle(record)


@contextmanager
def capturing(*, shown: bool = False) -> Iterator[None]:
    """Route standard output, standard error and the root logger to the current case.

    :param shown: whether the streams still show what is written to them, as a debugger needs.
    """
    stdout, stderr, handler = sys.stdout, sys.stderr, _Handler()
    sys.stdout = _Output(stdout, logging.INFO, shown=shown)
    sys.stderr = _Output(stderr, logging.WARNING, shown=shown)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        sys.stdout, sys.stderr = stdout, stderr
