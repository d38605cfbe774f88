"""What is shown of a traceback, and what a failed assertion compared."""

import ast
import os
import re
from itertools import pairwise
from pathlib import Path

from trafficlight.text import escape_control

_PACKAGE = Path(__file__).parents[2]
_LIBRARY = Path(os.__file__).parent
_HEADING = "Traceback (most recent call last):"
FRAME = re.compile(r'  File "(.+)", line (\d+)')
"""The first line of a frame, with its file and its line."""

_ASSERTED = "assertion failed: "
# What adapters of this package say of a message, a room, a verification that did not come.
_EXPECTED = re.compile(r"(?:\w+: )*expected (.+?) within [\d.]+ s; (.+)", re.DOTALL)


def is_own(file: Path) -> bool:
    """Return whether a source file is of this package, and not of its tests."""
    return file.is_relative_to(_PACKAGE) and not file.is_relative_to(_PACKAGE / "tests")


def is_library(file: Path) -> bool:
    """Return whether a source file is of Python or of an installed package."""
    return file.is_relative_to(_LIBRARY) or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def trimmed_traceback(traceback: str) -> list[str]:
    """Return the lines of a traceback without the frames of this package, except those of its tests."""
    kept: list[str] = []
    own = False
    for line in escape_control(traceback).rstrip().splitlines():
        if frame := FRAME.match(line):
            own = is_own(Path(frame[1]))
        elif not line.startswith("    "):
            own = False
        if not own:
            kept.append(line)
    return _without_bare(kept)


def _without_bare(trace: list[str]) -> list[str]:
    """Leave out tracebacks in an error's text of which no frame is left: they only repeat the error."""
    kept: list[str] = []
    bare = False
    for line, following in pairwise([*trace, ""]):
        if line == _HEADING:
            bare = bool(kept) and not FRAME.match(following)
        elif not line:
            bare = False
        if not bare:
            kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def without_message(trace: list[str], message: str) -> list[str]:
    """Return the lines of a traceback without the rest of a message, with which it ends."""
    rest = message.splitlines()[1:]
    return trace[: -len(rest)] if rest and trace[-len(rest) :] == rest else trace


def compared(message: str) -> tuple[str, str] | None:
    """Return what a message says was expected, and what was received instead; None if it does not."""
    first = message.partition("\n")[0]
    if (told := _EXPECTED.fullmatch(first)) is not None:
        return told[1], told[2]
    if not first.startswith(_ASSERTED):
        return None
    statement, _, values = first.removeprefix(_ASSERTED).partition(" (")
    while values:  # the statement itself may have parentheses
        try:
            (asserted,) = ast.parse(statement).body
            break
        except (SyntaxError, ValueError):
            more, _, values = values.partition(" (")
            statement += f" ({more}"
    else:
        return None
    test = asserted.test if isinstance(asserted, ast.Assert) else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return None
    left, right = ast.unparse(test.left), ast.unparse(test.comparators[0])
    values = values.removesuffix(")")
    before, named, last = values.rpartition(f"{right} is ")
    expected = last if named else right
    received = (before.removesuffix(", ") if named else values).removeprefix(f"{left} is ")
    return (expected, received or left) if expected != values else None
