"""The verdict that an exception of a test means."""

import ast
import asyncio
import bdb
import linecache
import reprlib
import sys
import traceback as tracebacks
from collections.abc import Sequence, Sized
from contextlib import suppress
from pathlib import Path

from trafficlight.errors import ActionError, LabError, Skipped, TestFileError, UnsupportedError
from trafficlight.results.events import State
from trafficlight.results.reports.tracebacks import is_library, is_own
from trafficlight.text import MESSAGE_LIMIT, TRACEBACK_LIMIT, truncate
from trafficlight.worker.assignment import Verdict

# What other test frameworks raise.
_SKIPS = (("unittest", "SkipTest"), ("_pytest.outcomes", "Skipped"))
_FAILS = (("_pytest.outcomes", "Failed"),)
_READ = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Slice, ast.UnaryOp, ast.unaryop, ast.Load)
# Exactly these types: the length of others may be a function of the test.
_SIZED = frozenset({list, tuple, dict, set, frozenset, str, bytes})
_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = 200
_VALUES.maxlist = _VALUES.maxdict = _VALUES.maxtuple = 20
_HERE = str(Path(__file__).parent)
# Lines of source that are kept on either side of the one that failed.
_AROUND = 4


def verdict_of(error: BaseException, phase: str) -> Verdict:
    """Return the verdict that an exception means.

    An assertion or a client's failed action is a failure; a skip is a skip; everything else is an error: of
    the lab, or of the test itself.
    """
    if isinstance(error, MemoryError):
        # The frames of the test still hold what filled the memory, and the verdict needs some.
        tracebacks.clear_frames(error.__traceback__)
    leaf = decisive(error)
    message = _message_of(leaf)
    if (hidden := _hidden_by(leaf)) is not None:
        first, end, rest = _message_of(hidden).partition("\n")
        message = f"{first}; then skipped: {message}{end}{rest}"
        error = leaf = hidden
    return Verdict(
        _state_of(leaf),
        truncate(message, MESSAGE_LIMIT),
        truncate(_traceback_of(error), TRACEBACK_LIMIT),
        phase,
        _excerpt_of(leaf),
    )


def _hidden_by(skip: BaseException) -> BaseException | None:
    """Return the failure that was on its way when a skip was raised, for instance in a ``finally``.

    A test may catch what a client did wrong and skip; but an assertion that failed stays failed, and so does
    everything when the skip itself comes unasked, from an action that a client does not support.
    """
    if _state_of(skip) is not State.SKIPPED:
        return None
    counts = BaseException if isinstance(skip, UnsupportedError) else AssertionError
    error: BaseException | None = skip
    while error is not None:
        error = None if error.__suppress_context__ else error.__context__
        if isinstance(error, counts) and not isinstance(error, asyncio.CancelledError):
            leaf = decisive(error)
            if _state_of(leaf) is not State.SKIPPED:
                return leaf
    return None


def _leaves(error: BaseException) -> list[BaseException]:
    leaves, left = [], [error]
    while left:  # groups may be nested deeper than functions
        part = left.pop()
        if isinstance(part, BaseExceptionGroup):
            left += reversed(part.exceptions)
        else:
            leaves.append(part)
    return leaves


def decisive(error: BaseException) -> BaseException:
    """Return the decisive exception of a group: an error outranks a failure, and a failure a skip."""
    weight = {State.SKIPPED: 0, State.FAILURE: 1, State.ERROR: 2}
    return max(_leaves(error), key=lambda leaf: weight[_state_of(leaf)])


def _state_of(error: BaseException) -> State:
    if isinstance(error, Skipped | UnsupportedError) or _is(error, _SKIPS):
        return State.SKIPPED
    if isinstance(error, AssertionError | ActionError) or _is(error, _FAILS):
        return State.FAILURE
    return State.ERROR


def _is(error: BaseException, kinds: Sequence[tuple[str, str]]) -> bool:
    """Return whether an exception is of one of these kinds, of which only loaded ones can be raised."""
    return any(isinstance(error, getattr(sys.modules.get(module), name, ())) for module, name in kinds)


def _message_of(error: BaseException) -> str:
    if isinstance(error, Skipped):
        return error.reason
    try:
        text = str(error).strip()
    except Exception as unspeakable:  # noqa: BLE001 - its own __str__ is broken
        return f"{type(error).__name__}, whose message cannot be read: {type(unspeakable).__name__}"
    if isinstance(error, bdb.BdbQuit):
        return "the debugger was quit, or had no terminal: run the case with --workers 0, -s or --pdb"
    if isinstance(error, AssertionError):
        return text or f"assertion failed: {_source_of(error)}{_values_of(error)}"
    if isinstance(error, ActionError | LabError | TestFileError | UnsupportedError) or _is(
        error, (*_SKIPS, *_FAILS)
    ):
        return text or type(error).__name__
    if isinstance(error, asyncio.CancelledError):
        return "the test was cancelled from within"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _source_of(error: BaseException) -> str:
    frames = tracebacks.extract_tb(error.__traceback__)
    return (frames[-1].line or "").strip() if frames else ""


def _excerpt_of(error: BaseException) -> str:
    """Return the source around the innermost line outside of this package, numbered; it is marked."""
    frames = [one for one in tracebacks.extract_tb(error.__traceback__) if not is_own(Path(one.filename))]
    # Of libraries that a test calls, its own line is meant.
    own = [one for one in frames if not is_library(Path(one.filename))]
    if isinstance(error, Skipped) or not own or own[-1].lineno is None:
        return ""
    at = own[-1].lineno
    numbered = [
        f"{'>' if number == at else ' '} {number:>5}  {line.rstrip()}"
        for number in range(max(1, at - _AROUND), at + _AROUND + 1)
        if (line := linecache.getline(own[-1].filename, number))
    ]
    return "\n".join([Path(own[-1].filename).name, *numbered]) if numbered else ""


def _values_of(error: BaseException) -> str:
    """Return the values that an assertion of one line compared, if reading them calls nothing but `len`."""
    frame = [frame for frame, _ in tracebacks.walk_tb(error.__traceback__)][-1:]
    try:
        (statement,) = ast.parse(_source_of(error)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # it has several lines, or no source
        return ""
    if not frame or not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return ""
    names = {**frame[0].f_globals, **frame[0].f_locals}
    functions = {} if "len" in names else {"len": _length}
    values = []
    for side in (statement.test.left, *statement.test.comparators):
        inner = list(ast.walk(side))
        if any(isinstance(one, ast.Name) and one.id not in functions for one in inner) and all(
            isinstance(one, _READ)
            or (isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id in functions)
            for one in inner
        ):
            code = compile(ast.Expression(side), "", "eval")
            with suppress(Exception):  # a subscript of the test's own class
                value = eval(code, names | functions)  # noqa: S307 - the test's own code
                values.append(f"{ast.unparse(side)} is {_VALUES.repr(value)}")
    return f" ({', '.join(values)})" if values else ""


def _length(value: Sized) -> int:
    if type(value) not in _SIZED:
        raise TypeError
    return len(value)


def _traceback_of(error: BaseException) -> str:
    if _state_of(error) is State.SKIPPED and not isinstance(error, UnsupportedError):
        return ""
    try:
        shown = tracebacks.TracebackException.from_exception(error)
        _strip_own_frames(shown)
        return "".join(shown.format())
    except (MemoryError, RecursionError) as too_large:
        return f"The traceback cannot be shown: {type(too_large).__name__}\n"


def _strip_own_frames(shown: tracebacks.TracebackException) -> None:
    """Remove the frames of the worker from the top."""
    while len(shown.stack) > 1 and shown.stack[0].filename.startswith((_HERE, asyncio.__path__[0])):
        del shown.stack[0]
    for part in shown.exceptions or ():
        _strip_own_frames(part)
