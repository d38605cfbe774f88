"""What the process says to whoever started it."""

from collections.abc import Iterable
from enum import IntEnum

from trafficlight.results.case import Outcome
from trafficlight.results.events import FINAL
from trafficlight.results.record import SessionRecord


class ExitCode(IntEnum):
    """The exit codes of a session."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    LAB_ERROR = 3
    INTERRUPTED = 130


# The gravest first.
_GRAVITY = (ExitCode.INTERRUPTED, ExitCode.FAILURE, ExitCode.LAB_ERROR, ExitCode.USAGE)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the gravest of several exit codes; success where there are none."""
    earned = set(codes)
    return next((code for code in _GRAVITY if code in earned), ExitCode.SUCCESS)


def exit_code(record: SessionRecord, *, interrupted: bool | None = None) -> ExitCode:
    """Return the exit code that a session has earned.

    Flaky cases and expected failures count as success. A test file that cannot run is an error, and so is a
    case that nobody decided about.

    :param interrupted: whether somebody ended it early; None takes that from the record.
    """
    if record.interrupted if interrupted is None else interrupted:
        return ExitCode.INTERRUPTED
    outcomes = record.outcomes
    if outcomes[Outcome.FAILURE]:
        return ExitCode.FAILURE
    if outcomes[Outcome.ERROR] or record.problems:
        return ExitCode.LAB_ERROR
    if not record.ran:
        return ExitCode.USAGE
    if any(case.state not in FINAL for case in record.cases.values()):
        return ExitCode.LAB_ERROR
    return ExitCode.SUCCESS
