"""Errors, named after what the caller can do about them.

::

    TrafficlightError
    ├── ConfigError            a setting is wrong: says which, and where it was read
    ├── UsageError             the command line is wrong
    │   └── NothingLeftError   the selection rightly leaves nothing to run: no case failed, a shard is empty
    ├── TestFileError          a test file is wrong: says file, line and what to do
    ├── ActionError            the client under test did the wrong thing  -> the case is a failure
    ├── LabError               the lab did the wrong thing                -> the case is an error
    │   ├── AdapterError       an adapter died, went silent or broke the protocol
    │   ├── DeadlineError      something timed out
    │   ├── DeployError        a homeserver could not be provided
    │   └── ShuttingDownError  the coordinator is shutting down
    └── UnsupportedError       it was never meant to run here             -> the case is skipped

    BaseException
    └── Skipped                raised by ``Test.skip``; outside Exception so that no test swallows it
"""

from pathlib import Path
from typing import ClassVar


class TrafficlightError(Exception):
    """The base class of all errors that trafficlight raises."""


class ConfigError(TrafficlightError):
    """A setting is wrong.

    :param problem: what is wrong and what would be right, one line.
    :param key: the setting, as it is spelled where it was read.
    :param source: where it was read: a file, an environment variable, a flag.
    """

    def __init__(self, problem: str, *, key: str | None = None, source: str | None = None) -> None:
        self.problem = problem
        self.key = key
        self.source = source
        where = ": ".join(part for part in (source, key) if part)
        super().__init__(f"{where}: {problem}" if where else problem)


class UsageError(TrafficlightError):
    """The command line is wrong."""


class NothingLeftError(UsageError):
    """The selection rightly leaves nothing to run: no case failed before, or a shard is empty."""


class TestFileError(TrafficlightError):
    """A test file is wrong.

    :param path: the file.
    :param line: the line, from 1; None if it is not known.
    :param problem: what is wrong, one line.
    :param hint: what to do about it, one line; may be empty.
    """

    __test__: ClassVar[bool] = False  # pytest takes it for a class of tests

    def __init__(self, path: Path, line: int | None, problem: str, hint: str = "") -> None:
        self.path = path
        self.line = line
        self.problem = problem
        self.hint = hint
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}" + (f" ({hint})" if hint else ""))


class RemoteError(TrafficlightError):
    """An error of the adapter in a role.

    :param message: what the adapter reported, or what the lab observed; one line if possible.
    :param path: where in the adapter it happened, as the adapter reported it.
    :param role: the role that the adapter plays.
    :param action: the name of the outstanding action, if there was one.
    """

    def __init__(self, message: str, path: str = "", *, role: str = "", action: str = "") -> None:
        self.message = message
        self.role = role
        self.action = action
        self.path = path
        named = "".join(f"{part}: " for part in (role, action) if part)
        super().__init__(f"{named}{message}" + (f" [{path}]" if path else ""))

    @property
    def formatted_message(self) -> str:
        """The whole message; the original's name for it."""
        return str(self)


class ActionError(RemoteError):
    """A client could not perform an action: the thing under test is wrong."""


class LabError(TrafficlightError):
    """The lab is wrong, not what it tests."""


class AdapterError(RemoteError, LabError):
    """An adapter exited, stopped responding, or violated the protocol."""


class DeadlineError(LabError):
    """Something timed out."""


class DeployError(LabError):
    """A homeserver could not be provided.

    :param message: what happened, one line.
    :param log: the end of the homeserver's log; may be empty.
    """

    def __init__(self, message: str, *, log: str = "") -> None:
        self.message = message
        self.log = log
        super().__init__(message if not log else f"{message}\n{log}")


class ShuttingDownError(LabError):
    """The coordinator is shutting down."""


class UnsupportedError(TrafficlightError):
    """What a case needs is not available here; the message says what is missing and how to get it."""


class Skipped(BaseException):
    """Ends a running test as skipped. Outside ``Exception``, so that no test swallows it.

    :param reason: why, one line.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
